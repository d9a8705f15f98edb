//! The complete set-up: the agent on a VM host, and guests of that host that read and write its
//! disks over `vhost-vsock-pci`. Nothing is simulated.

use tests::{
    Failure, Outcome,
    guest::Guest,
    need,
    nest::{self, Inner},
};
use vsock_cid::GuestCid;

const LAB: &str = ". /tools/scripts/lab.sh";

/// The commands of the guest with our own client, in order.
const COMMANDS: &[&str] =
    &["info", "write --offset 1M --input /proc/version", "read --offset 1M --length 72"];

#[test]
fn disks_into_guests_of_the_vm_host() -> Outcome<()> {
    if !need::guests("nested")? {
        return Ok(());
    }
    let mut host = Guest::boot("nested")?;
    host.check(
        "the agents listen on the VM host",
        &format!(
            "{LAB}
             head -c 8388608 /dev/urandom >/run/lab/disk; cp /run/lab/disk /run/lab/before
             serve memory --listen vsock:10809 --listen unix:/run/lab/memory.sock \\
                 --allow-cid 3-4 --allow anyunix memory 1G
             serve file --vsock --port 10810 --allow vsock-guest:4-9 file /run/lab/disk"
        ),
    )?;

    let (tiny, debian) = (cid(3)?, cid(4)?);
    println!("nested: two guests in the VM host, at the same time (minutes)");
    let consoles = nest::run(
        &mut host,
        &[(Inner::Tiny(COMMANDS), tiny), (Inner::Debian("inner-nbdsh"), debian)],
    )?;
    says(
        &mut host,
        "guest-tools",
        &consoles[0],
        &[
            "export-size: 1073741824 (1G)",
            "guest-tools: done after",
            "bytes written at 1048576",
            "Linux version",
        ],
    )?;
    says(
        &mut host,
        "nbdsh",
        &consoles[1],
        &[
            "network cards: 0",
            "1073741824",
            "disk of 8388608 bytes",
            "read back: same",
            "lab: exit 0",
        ],
    )?;

    host.check(
        "the host finds every byte that nbdsh wrote, and no other changed",
        "cat >/run/lab/expect.py <<'EOF'
before = bytearray(open('/run/lab/before', 'rb').read())
pattern = bytes(i * 7 % 251 for i in range(251)) * 4200
at = 1048576 - 13
before[at : at + len(pattern)] = pattern
before[-512:] = b'\\xff' * 512
open('/run/lab/expected', 'wb').write(before)
EOF
         /usr/bin/python3 /run/lab/expect.py
         cmp /run/lab/disk /run/lab/expected",
    )?;
    // Both guests run the VM host's kernel.
    host.check(
        "the host finds every byte that guest-tools wrote",
        "cat /proc/version >/run/lab/version
         nbdcopy 'nbd+unix:///?socket=/run/lab/memory.sock' - |
             tail -c +1048577 | head -c \"$(stat -c %s /run/lab/version)\" >/run/lab/written
         cmp /run/lab/version /run/lab/written",
    )?;
    for agent in ["memory", "file"] {
        host.check(
            &format!("the agent of the {agent} disk names the guest in its log"),
            &format!("{LAB}\nlog {agent} | grep -F vsock:"),
        )?;
    }
    Ok(())
}

fn cid(number: u32) -> Outcome<GuestCid> {
    GuestCid::new(number).map_err(|e| Failure::of("a guest's CID", &e))
}

/// Each text is on a line of that guest's console.
fn says(host: &mut Guest, guest: &str, console: &str, texts: &[&str]) -> Outcome<()> {
    println!("--- the console of the guest with {guest}\n{console}\n---");
    for text in texts {
        if !console.lines().any(|line| line.contains(text)) {
            return Err(
                host.failure(&format!("{guest} in its guest did not say {text:?}:\n{console}"))
            );
        }
        println!("ok: {guest} in a guest: {text:?}");
    }
    Ok(())
}
