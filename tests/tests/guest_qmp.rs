//! The agent and machines that it observes through QMP: on a VM host, with the kernel's vhost-vsock, real QEMUs, and
//! guests in them.

use std::time::Duration;

use tests::{
    Outcome,
    guest::Guest,
    need,
    nest::{self, Inner},
};

/// The first line of every script.
const LAB: &str = ". /tools/scripts/qmp.sh\n";

/// The time limit for the boot of two guests at once under KVM. Emulation in emulation is given more.
const BOOT: Duration = Duration::from_secs(150);

/// A VM host on which named checks run, with the shell functions of `tests/guest/qmp.sh`.
struct Host(Guest);

impl Host {
    fn boot(name: &str) -> Outcome<Self> {
        Guest::boot(name).map(Self)
    }

    fn check(&mut self, name: &str, script: &str) -> Outcome<String> {
        self.0.check(name, &format!("{LAB}{script}"))
    }

    /// A check that waits for guests to boot.
    fn check_guests(&mut self, name: &str, script: &str) -> Outcome<()> {
        self.0.sh_within(&format!("{LAB}{script}"), BOOT)?;
        println!("ok: {name}");
        Ok(())
    }
}

/// A line of shell that starts a machine with a function of `LAB`.
fn vm(name: &str, commands: &[&str]) -> String {
    format!("vm {name} <<'END'\n{}\nEND\n", nest::machine(Inner::Tiny(commands)))
}

#[test]
fn machines_get_devices_and_grants_before_their_guests_run() -> Outcome<()> {
    if !need::guests("guest_qmp")? {
        return Ok(());
    }
    let mut host = Host::boot("guest_qmp_still")?;
    host.check(
        "a kernel without vhost_vsock: refused, and the machine is as it was",
        &format!(
            "mkdir -p /etc/modprobe.d
             echo 'install vhost_vsock /bin/false' >/etc/modprobe.d/lab.conf
             {}
             refuses 'cannot open /dev/vhost-vsock' agent qemu attach --qmp one.ctl
             rm /etc/modprobe.d/lab.conf
             modprobe vhost_vsock
             agent qemu list --qmp one.ctl | grep 'no vsock device in pc-q35-'",
            vm("one", &["info"])
        ),
    )?;
    host.check(
        "two machines get a vsock device each, and their guests a grant",
        &format!(
            "{}
             serve disks --vsock --qmp /run/lab/one.qmp --qmp /run/lab/two.qmp null 1G
             for name in one two; do
                 said \"is granted to machine (/run/lab/$name.qmp) as long as it lives\"
                 cid $name >$name.cid
                 [ $(cat $name.cid) -ge 65536 ]
             done
             ! cmp -s one.cid two.cid",
            vm("two", &["info"])
        ),
    )?;
    host.check(
        "a CID that a machine has is nobody else's",
        &format!(
            "{}
             refuses \"CID $(cat one.cid) is another machine's\" \
                 agent qemu attach --qmp next.ctl --cid $(cat one.cid)
             refuses 'has a vsock device already: vhost-vsock-pci' agent qemu attach --qmp one.ctl
             refuses 'Address already in use' timeout 60 qemu-system-x86_64 -M q35 -nodefaults \
                 -display none -S $(agent qemu args --cid $(cat one.cid))",
            vm("next", &["info"])
        ),
    )?;
    host.check(
        "a machine that ends takes its grant with it, and the CID is free again",
        "qmp two quit
         said 'machine (/run/lab/two.qmp) has ended (host-qmp-quit)'
         agent qemu attach --qmp next.ctl --cid $(cat two.cid)",
    )?;
    host.check(
        "a machine that is killed takes its grant with it",
        "systemctl kill --signal KILL one
         said 'machine (/run/lab/one.qmp) is not followed any more: QEMU closed the connection'
         stop disks",
    )?;
    Ok(())
}

#[test]
fn a_guests_grant_lives_as_long_as_its_machine() -> Outcome<()> {
    if !need::guests("guest_qmp")? {
        return Ok(());
    }
    let mut host = Host::boot("guest_qmp")?;
    host.check(
        "an agent serves two machines, and their guests begin",
        &format!(
            "modprobe vhost_vsock
             {}{}
             serve disks --vsock --qmp /run/lab/long.qmp --qmp /run/lab/short.qmp \
                 --filter=rate null 1000G rate=8M
             cid long >long.cid
             cid short >short.cid
             qmp short cont
             qmp long cont",
            // One guest that never finishes, and is slow enough to leave the processors to the others; and one that
            // connects and ends. The first one's write fails when its device is taken out. Then it waits for input,
            // which never comes, so that its machine lives until the end of the test.
            vm("long", &["write --pattern --length 1000G", "copy - /kept"]),
            vm("short", &["info"])
        ),
    )?;
    println!("guest_qmp: two guests in the VM host, at the same time (minutes)");
    host.check_guests(
        "a guest that ends itself ends its grant",
        "said 'machine (/run/lab/short.qmp) has ended (guest-shutdown)'
         grep -F 'export-size: 1073741824000 (' short.console
         log disks | grep \"session peer=vsock:$(cat short.cid):.*end=aborted\"",
    )?;
    host.check_guests(
        "a reset closes the session of a guest",
        "said \"peer=vsock:$(cat long.cid):\"
         qmp long system_reset
         said 'cut off: machine (/run/lab/long.qmp) starts again (host-qmp-system-reset)'",
    )?;
    host.check_guests(
        "the next machine with a CID that was granted gets nothing",
        &format!(
            "{}
             agent qemu attach --qmp next.ctl --cid $(cat short.cid) --json
             qmp next cont
             said 'no lease: over vsock only the machines of --qmp may connect'
             log disks | grep \"refused peer=vsock:$(cat short.cid):\"
             while systemctl --quiet is-active next; do sleep 0.2; done
             ! grep -F 'size: ' next.console",
            vm("next", &["info"])
        ),
    )?;
    host.check_guests(
        "the guest that was reset comes in again",
        "until [ $(log disks | grep opened | grep -c vsock:$(cat long.cid):) -ge 2 ]; do
             sleep 0.2
         done",
    )?;
    host.check(
        "a device that its guest gives back takes the grant with it, and the CID is free again",
        "agent qemu detach --qmp long.ctl --timeout 300s
         said 'cut off: the vsock device was taken out of machine (/run/lab/long.qmp)'
         until grep -F 'run: copy - /kept' long.console; do sleep 0.2; done
         agent qemu list --qmp long.ctl | grep 'no vsock device'
         agent qemu attach --qmp long.ctl --cid $(cat long.cid)
         stop disks",
    )?;
    Ok(())
}
