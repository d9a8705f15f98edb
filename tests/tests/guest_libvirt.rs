//! A real libvirtd on a VM host, and domains to which `agent libvirt` added vsock devices. Their guests
//! read and write a disk of the agent.

use std::time::Duration;

use tests::{Outcome, guest::Guest, need, nest};

/// The time limit from the start of the guests to their power-off under KVM. Emulation in emulation is
/// given more.
const LIFE: Duration = Duration::from_secs(100);

/// The commands of each of the two guests.
const READS: &[&str] = &["read --offset 1M --length 28"];
const WRITES: &[&str] = &["write --offset 2M --input /proc/version"];

/// A VM host with the shell functions of `tests/guest/libvirt.sh`, on which named checks run.
struct Host(Guest);

impl Host {
    fn check(&mut self, name: &str, script: &str) -> Outcome<String> {
        self.0.check(name, &format!(". /tools/scripts/libvirt.sh\n{script}"))
    }
}

#[test]
fn domains_of_a_real_libvirtd_read_a_disk() -> Outcome<()> {
    if !need::guests("guest_libvirt")? {
        return Ok(());
    }
    let mut host = Host(Guest::boot("guest_libvirt")?);
    let versions = host.check(
        "a libvirtd starts",
        "systemctl start virtlogd.socket libvirtd.socket
         virsh version --daemon",
    )?;
    println!("{versions}");
    edited(&mut host)?;
    attached(&mut host)?;
    kept(&mut host)?;
    refused(&mut host)?;
    guests(&mut host)
}

/// A domain whose definition includes the device from the start.
fn edited(host: &mut Host) -> Outcome<()> {
    let domain = format!("domain edited '{}'", nest::words_after_the_dashes(READS));
    host.check(
        "a domain that was edited is taken, by libvirt's schema too, and starts with its CID",
        &format!(
            "{domain} >before.xml
             agent libvirt edit before.xml --cid 7 >after.xml
             [ $(diff before.xml after.xml | grep -c '^[<>]') = 3 ]
             virt-xml-validate after.xml domain
             virsh --quiet define after.xml
             refuses 'edited does not run, so it has no CID now; it starts with CID 7' \\
                 agent libvirt cid edited
             is \"$(agent libvirt cid edited --config --json)\" \\
                 '{{\"cid\":7,\"domain\":\"edited\",\"of\":\"config\"}}'
             virsh --quiet start edited --paused
             is \"$(agent libvirt cid edited --json)\" '{{\"cid\":7,\"domain\":\"edited\",\"of\":\"live\"}}'
             is $(qemu_has edited) 7"
        ),
    )?;
    host.check(
        "what libvirt made of it has the device, and is not edited again",
        "virsh dumpxml edited >live.xml
         agent libvirt edit live.xml --cid 7 | cmp - live.xml
         agent libvirt edit live.xml --cid 7 --json | grep -F '\"changed\":false'",
    )?;
    Ok(())
}

/// A domain that gets the device while it runs.
fn attached(host: &mut Host) -> Outcome<()> {
    let domain = format!("domain attached '{}'", nest::words_after_the_dashes(WRITES));
    host.check(
        "a domain that runs gets a device, and the CID that libvirt chose is said",
        &format!(
            "{domain} | paused attached
             refuses 'attached has no vsock device' agent libvirt cid attached
             answer=$(agent libvirt attach attached --live --json)
             cid=$(agent libvirt cid attached)
             is \"$answer\" '{{\"attached\":true,\"cid\":'$cid',\"domain\":\"attached\"}}'
             is \"$(has attached)\" \\
                 \"    <vsock model='virtio'>      <cid auto='yes' address='$cid'/>\"
             is \"$(has attached --inactive)\" ''
             is $(qemu_has attached) $cid
             echo $cid >attached.cid
             is \"$(agent libvirt attach attached)\" \\
                 \"attached: the device is there already, CID $cid\""
        ),
    )?;
    Ok(())
}

/// Devices for the next start only, and for now and the next start.
fn kept(host: &mut Host) -> Outcome<()> {
    host.check(
        "--config is for the next start, and not for the domain that runs",
        "is \"$(has attached --inactive)\" ''
         before=$(has attached)
         is \"$(agent libvirt attach attached --config --json)\" \
             '{\"attached\":true,\"cid\":null,\"domain\":\"attached\"}'
         is \"$(has attached --inactive)\" \"    <vsock model='virtio'>      <cid auto='yes'/>\"
         is \"$(has attached)\" \"$before\"
         refuses 'attached is kept with auto' agent libvirt cid attached --config",
    )?;
    host.check(
        "--live and --config are done both, or neither where the CID is another machine's",
        "domain both | paused both
         refuses 'a machine that runs has this CID' \
             agent libvirt attach both --live --config --cid 7
         is \"$(has both)$(has both --inactive)\" ''
         is \"$(agent libvirt attach both --live --config --cid 9 --model virtio-non-transitional)\" \
             'both: attached, CID 9'
         is \"$(has both)\" \
             \"    <vsock model='virtio-non-transitional'>      <cid auto='no' address='9'/>\"
         is \"$(has both)\" \"$(has both --inactive)\"
         is $(qemu_has both) 9
         virsh --quiet destroy both",
    )?;
    Ok(())
}

fn refused(host: &mut Host) -> Outcome<()> {
    host.check(
        "a machine without a free port is refused with the hint",
        "domain full | sed '/pcie-root-port/d' | paused full
         refuses \"needs a free <controller type='pci' model='pcie-root-port'/>\" \\
             agent libvirt attach full --live --config --cid 11
         is \"$(has full)$(has full --inactive)\" ''
         virsh --quiet destroy full",
    )?;
    host.check(
        "a domain that does not run, another device, and no domain are refused",
        "refuses 'domain is not running; start it, or use --config alone' \\
             agent libvirt attach full --live --cid 11
         refuses 'it has a vsock device of its own, virtio, CID 7' \\
             agent libvirt attach edited --live --cid 8
         refuses \"'virsh list --all' names them\" agent libvirt attach nobody --live --cid 8
         refuses \"'virsh list --all' names them\" agent libvirt cid nobody
         systemctl stop libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service
         refuses 'is libvirtd or virtqemud running' agent libvirt cid edited
         systemctl start libvirtd.socket
         is $(agent libvirt cid edited) 7",
    )?;
    Ok(())
}

/// Runs the guests to their end. Until here their domains stood still, so that what was asked of them did not
/// depend on how fast a guest is.
fn guests(host: &mut Host) -> Outcome<()> {
    host.check(
        "the agent lets in the CIDs that the domains have, and their guests begin",
        "head -c 4194304 /dev/zero >disk
         printf 'a disk of the agent over it\\n' | dd of=disk bs=1M seek=1 conv=notrunc status=none
         serve disks --vsock --allow-cid $(agent libvirt cid edited) \\
             --allow-cid $(agent libvirt cid attached) file /run/lab/disk
         virsh --quiet resume edited
         virsh --quiet resume attached",
    )?;
    println!("guest_libvirt: waiting for the two guests (minutes)");
    let script = "cd /run/lab
         for name in edited attached; do
             # A kernel that breaks in emulation in emulation begins again: its domain restarts.
             until grep -q 'reboot: Power down' $name.console; do sleep 1; done
             echo \"--- the console of $name\"
             cat $name.console
         done";
    println!("{}\n---", host.0.sh_within(script, LIFE)?);
    host.check(
        "the guest whose domain was edited read the disk",
        "grep -F 'a disk of the agent over it' edited.console
         log disks | grep -F 'session peer=vsock:7:'",
    )?;
    host.check(
        "the guest whose domain got its device while it ran wrote to the disk",
        "cat /proc/version >version
         tail -c +2097153 disk | head -c $(stat -c %s version) | cmp - version
         log disks | grep -F \"session peer=vsock:$(cat attached.cid):\"",
    )?;
    host.check(
        "a domain that has ended has no CID, and at its next start the one that libvirt chooses",
        "until [ \"$(virsh domstate attached | head -1)\" = 'shut off' ]; do sleep 0.2; done
         refuses 'attached does not run, so it has no CID now; at its start libvirt chooses one' \
             agent libvirt cid attached
         virsh --quiet start attached --paused
         is $(agent libvirt cid attached) $(qemu_has attached)
         virsh --quiet destroy attached",
    )?;
    Ok(())
}
