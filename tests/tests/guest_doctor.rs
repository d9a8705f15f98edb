//! `agent doctor` on a real machine that lacks something: one VM host, on which each problem is
//! created and removed in turn.

use serde_json::Value;
use tests::{Failure, Outcome, guest::Guest, need};

/// The output of `agent doctor`, and its exit status.
struct Said {
    status: i32,
    json: Value,
}

impl Said {
    fn of(guest: &mut Guest) -> Outcome<Self> {
        let ended = guest.run("agent doctor --json 2>/dev/null")?;
        let json = serde_json::from_str(&ended.output)
            .map_err(|e| Failure::new(format!("no JSON: {e}: {}", ended.output)))?;
        Ok(Self { status: ended.status, json })
    }

    /// The first finding of a check that is not "ok", otherwise the check's first finding.
    fn finding(&self, id: &str) -> &Value {
        let all = self.json["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut of = all.iter().filter(|finding| finding["id"] == id);
        let first = of.clone().next().unwrap_or(&Value::Null);
        of.find(|finding| finding["verdict"] != "ok").unwrap_or(first)
    }

    /// Compares the exit status and one finding with what is expected.
    fn must(&self, name: &str, status: i32, id: &str, verdict: &str, has: &[&str]) -> Outcome<()> {
        let finding = self.finding(id);
        let text = finding.to_string();
        let right = self.status == status
            && self.json["served"] == (status == 0)
            && finding["verdict"] == verdict
            && has.iter().all(|part| text.contains(part));
        if right {
            println!("ok: {name}: {}: {}", finding["evidence"], finding["meaning"]);
            return Ok(());
        }
        Err(Failure::new(format!(
            "{name}: exit {} where {status} is due, {id} should be {verdict} with {has:?}:\n{:#}",
            self.status, self.json
        )))
    }
}

#[test]
fn the_doctor_tells_four_machines_apart() -> Outcome<()> {
    if !need::guests("guest_doctor")? {
        return Ok(());
    }
    let mut guest = Guest::boot("guest_doctor")?;
    right(&mut guest)?;
    open_to_all(&mut guest)?;
    vmci_loaded_first(&mut guest)?;
    vmci_in_the_hosts_place(&mut guest)?;
    without_the_module(&mut guest)
}

fn right(guest: &mut Guest) -> Outcome<()> {
    let said = Said::of(guest)?;
    said.must("everything right", 0, "vhost-vsock", "ok", &["it opens"])?;
    said.must("everything right", 0, "transport", "ok", &[])?;
    guest.check(
        "the agent listens there, as the doctor said",
        ". /tools/scripts/lab.sh
         serve right --vsock memory 1M
         if agent --vsock memory 1M 2>/run/lab/second; then exit 1; fi
         cat /run/lab/second
         grep -q 'agent: error:.*10809.*' /run/lab/second
         stop right",
    )?;
    Ok(())
}

fn open_to_all(guest: &mut Guest) -> Outcome<()> {
    guest.check("a device that is open to all", "chmod 0666 /dev/vhost-vsock")?;
    let said = Said::of(guest)?;
    said.must("open to all", 0, "vhost-vsock-mode", "warning", &["666"])?;
    guest.check(
        "--fix asks, and without a yes changes nothing",
        "agent doctor --fix </dev/null || true
         test $(stat -c %a /dev/vhost-vsock) = 666",
    )?;
    guest.check(
        "--fix --yes fixes it for now and for the next start",
        "agent doctor --fix --yes
         test $(stat -c %a /dev/vhost-vsock) = 660
         grep -r vhost-vsock /etc/udev/rules.d
         udevadm trigger --settle --name-match=vhost-vsock
         test $(stat -c %a /dev/vhost-vsock) = 660",
    )?;
    let said = Said::of(guest)?;
    said.must("fixed", 0, "vhost-vsock", "ok", &["it opens"])
}

/// On this kernel VMCI alone is no problem: it is there in a guest of VMware's.
fn vmci_loaded_first(guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "VMCI's transport is loaded first",
        "modprobe -r vhost_vsock
         modprobe vmw_vsock_vmci_transport",
    )?;
    let said = Said::of(guest)?;
    said.must("VMCI first", 0, "vhost-vsock", "ok", &["it opens"])?;
    said.must("VMCI first", 0, "transport", "ok", &["vmw_vsock_vmci_transport"])
}

/// The conflict itself: a program has made a VMCI context, which takes the place of the host's
/// transport.
fn vmci_in_the_hosts_place(guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "VMCI takes the host's place, and vhost_vsock cannot load",
        "modprobe -r vhost_vsock
         mkfifo /run/lab/vmci
         systemd-run --quiet --collect --unit vmci --property StandardOutput=file:/run/lab/vmci \
             /usr/bin/python3 /tools/scripts/vmci.py
         read -r word </run/lab/vmci
         test \"$word\" = held
         if modprobe vhost_vsock 2>&1; then exit 1; fi
         if (: <>/dev/vhost-vsock) 2>&1; then exit 1; fi",
    )?;
    let said = Said::of(guest)?;
    let vmci = "vmw_vsock_vmci_transport";
    said.must("the conflict", 1, "vhost-vsock", "fault", &["ENODEV"])?;
    said.must("the conflict", 1, "transport", "fault", &[vmci, "python3"])?;
    guest.check(
        "while its holder runs, --fix cuts nobody off",
        "agent doctor --fix --yes || true
         systemctl --quiet is-active vmci",
    )?;
    guest.check(
        "when its holder has ended, the hint that was told works",
        "systemctl stop vmci
         if lsmod | grep -q ^vmw_vsock_vmci_transport; then
             modprobe -r vmw_vsock_vmci_transport
         fi
         modprobe vhost_vsock",
    )?;
    let said = Said::of(guest)?;
    said.must("fixed", 0, "vhost-vsock", "ok", &["it opens"])
}

fn without_the_module(guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "vhost_vsock is gone from this machine",
        "modprobe -r vhost_vsock
         find /lib/modules/$(uname -r)/ -name 'vhost_vsock.ko*' -delete
         depmod
         rm -f /dev/vhost-vsock",
    )?;
    let said = Said::of(guest)?;
    said.must("no vhost_vsock", 1, "vhost-vsock", "fault", &["no module vhost_vsock"])
}
