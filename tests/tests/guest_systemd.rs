//! The agent as a Debian package under the systemd of a booted guest: its sockets, its service, and
//! the state that systemd reports.

use images::{Images, Tool};
use tests::{Outcome, guest::Guest, need};

/// Ends the service, and waits until the next connection has to start it again.
const STOPPED: &str = "systemctl stop agent.service
    systemctl --quiet is-active agent.socket
    ! systemctl --quiet is-active agent.service";

#[test]
fn the_package_serves_from_its_socket_units() -> Outcome<()> {
    if !need::guests("guest_systemd")? {
        return Ok(());
    }
    let package = Images::of_this_workspace()?.package()?;
    let deb = Tool { name: "nbd-agent.deb".to_owned(), source: package };
    let mut guest = Guest::boot_with("guest_systemd", &[deb])?;

    guest.check(
        "the package installs, and starts nothing",
        "modprobe vsock_loopback
         dpkg -i /tools/nbd-agent.deb
         /usr/bin/agent --version
         # An image may leave documentation out; the package has it.
         dpkg -L nbd-agent | grep -q /usr/share/man/man1/agent.1
         dpkg -L nbd-agent | grep -q /usr/share/bash-completion/completions/agent
         systemd-analyze --man=no verify agent.socket agent.service agent@one.socket agent@one.service
         ! systemctl --quiet is-active agent.socket",
    )?;
    guest.check(
        "systemd-analyze security says 2.0 or better",
        "for unit in agent.service agent@one.service; do
             systemd-analyze --no-pager security --threshold=20 $unit | tail -1
         done",
    )?;
    sockets(&mut guest)?;
    service(&mut guest)?;
    logs(&mut guest)?;
    instance(&mut guest)
}

/// Each kind of socket starts the service at its first connection.
fn sockets(guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "the socket unit listens on vsock, a Unix path and TCP",
        "mkdir -p /etc/systemd/system/agent.socket.d /var/lib/private/agent
         ln -s private/agent /var/lib/agent
         head -c 3000000 /dev/urandom >/var/lib/agent/disk
         printf '[Socket]\\nListenStream=/run/agent.sock\\nListenStream=10809\\n' \
             >/etc/systemd/system/agent.socket.d/more.conf
         systemctl daemon-reload
         systemctl start agent.socket",
    )?;
    for (what, uri) in [
        ("vsock", "nbd+vsock://1/disk"),
        ("a Unix path", "nbd+unix:///disk?socket=/run/agent.sock"),
        ("TCP", "nbd://127.0.0.1/disk"),
    ] {
        guest.expect(
            &format!("a connection over {what} starts the service"),
            &format!(
                "{STOPPED}
                 nbdinfo --size '{uri}'
                 systemctl --quiet is-active agent.service
                 nbdcopy '{uri}' - | cmp - /var/lib/agent/disk
                 nbdinfo --size '{uri}'"
            ),
            "3000000",
        )?;
    }
    Ok(())
}

/// The notifications to systemd, and how systemd controls the process.
fn service(guest: &mut Guest) -> Outcome<()> {
    guest.check(
        "it runs as a user of its own, without capabilities, and the log names the sockets",
        "pid=$(systemctl show --value -p MainPID agent.service)
         stat -c 'runs as %U' /proc/$pid
         test \"$(stat -c %U /proc/$pid)\" != root
         grep -q '^CapEff:.0000000000000000$' /proc/$pid/status
         journalctl --no-pager --output cat --unit agent.service | grep 'listening on vsock:10809'",
    )?;
    guest.check(
        "a client that is connected outlives a reload",
        "pid=$(systemctl show --value -p MainPID agent.service)
         cat >/run/lab/reload.py <<'END'
import nbd, subprocess
h = nbd.NBD()
h.connect_uri('nbd+vsock://1/disk')
before = h.pread(512, 0)
subprocess.run(['systemctl', 'reload', 'agent.service'], check=True)
assert h.pread(512, 0) == before
h.shutdown()
END
         /usr/bin/python3 /run/lab/reload.py
         test $pid = $(systemctl show --value -p MainPID agent.service)",
    )?;
    guest.check(
        "where nothing is configured, disks are read-only, and the journal says how that is changed",
        "nbdinfo --is read-only nbd+vsock://1/disk
         journalctl --no-pager --output cat --priority warning --unit agent.service >/run/lab/warned
         grep 'not configured: every guest may read every file' /run/lab/warned
         grep -F 'AGENT_ARGS=--allow-cid 3 file /var/lib/agent/disk.img' /run/lab/warned
         systemctl show --property MemoryMax,TasksMax agent.service | tee /run/lab/bounds
         ! grep infinity /run/lab/bounds",
    )?;
    guest.check(
        "a line in /etc/default/agent lets guests write",
        "echo 'AGENT_ARGS=--allow vsock-guest,vsock-local file dir=/var/lib/agent' >/etc/default/agent
         systemctl restart agent.service
         ! nbdinfo --is read-only nbd+vsock://1/disk",
    )?;
    guest.check(
        "a write that was flushed is there after the service was killed",
        "pid=$(systemctl show --value -p MainPID agent.service)
         cat >/run/lab/kill.py <<'END'
import nbd, os, signal, sys
h = nbd.NBD()
h.connect_uri('nbd+vsock://1/disk')
h.pwrite(b'durable' * 100, 4096)
h.flush()
os.kill(int(sys.argv[1]), signal.SIGKILL)
END
         /usr/bin/python3 /run/lab/kill.py $pid
         nbdsh -c \"h.connect_uri('nbd+vsock://1/disk')\" \
             -c \"assert h.pread(700, 4096) == b'durable' * 100\"",
    )?;
    guest.check(
        "the watchdog hears from an agent that is well, and ends one that hangs",
        "mkdir -p /etc/systemd/system/agent.service.d
         printf '[Service]\\nWatchdogSec=2\\n' >/etc/systemd/system/agent.service.d/watchdog.conf
         systemctl daemon-reload
         systemctl restart agent.service
         pid=$(systemctl show --value -p MainPID agent.service)
         # Twice what the watchdog waits: time has to pass, there is no event.
         sleep 4
         test $pid = $(systemctl show --value -p MainPID agent.service)
         kill -STOP $pid
         until journalctl --no-pager --output cat --unit agent.service | grep -q 'Watchdog timeout'; do
             sleep 0.1
         done
         nbdinfo --size nbd+vsock://1/disk
         test $pid != $(systemctl show --value -p MainPID agent.service)",
    )?;
    guest.check(
        "systemctl stop ends it in order, and the socket stays",
        &format!("{STOPPED}\ntest \"$(systemctl show --value -p Result agent.service)\" = success"),
    )?;
    Ok(())
}

/// The log through syslog's socket and through the journal's own.
fn logs(guest: &mut Guest) -> Outcome<()> {
    for target in ["syslog", "journald"] {
        guest.check(
            &format!("--log={target} is in the journal"),
            &format!(
                "/usr/bin/agent --log={target} -U /run/lab/{target}.sock --run 'nbdinfo --size \"$uri\"' memory 1M
                 journalctl --no-pager --output cat -t agent >/run/lab/log
                 grep 'listening on unix:/run/lab/{target}.sock' /run/lab/log"
            ),
        )?;
    }
    Ok(())
}

/// One disk per instance.
fn instance(guest: &mut Guest) -> Outcome<()> {
    guest.expect(
        "agent@one serves one disk on a socket of its own",
        "truncate -s 5M /var/lib/agent/one
         systemctl start agent@one.socket
         nbdinfo --size 'nbd+unix:///?socket=/run/agent/one.sock'",
        "5242880",
    )
}
