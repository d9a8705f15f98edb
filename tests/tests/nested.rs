//! The real thing: the agent on a VM host, and a guest of that host reading and writing its disk
//! over `vhost-vsock-pci`. No stand-in anywhere.

use qemu::args::GuestCid;
use tests::{
    Failure, Outcome,
    guest::Guest,
    need,
    nest::{self, Inner},
};

const LAB: &str = ". /tools/scripts/lab.sh";

#[test]
fn a_disk_into_a_guest_of_the_vm_host() -> Outcome<()> {
    if need::guests_are_off("nested") {
        return Ok(());
    }
    need::guests()?;
    let mut host = Guest::boot("nested")?;
    let cid = GuestCid::new(3).map_err(|e| Failure::of("CID 3", &e))?;
    host.check(
        "the agents listen on the VM host",
        &format!(
            "{LAB}
             head -c 8388608 /dev/urandom >/run/lab/disk; cp /run/lab/disk /run/lab/before
             serve memory --vsock memory 1G
             serve file --vsock --port 10810 file /run/lab/disk"
        ),
    )?;

    let console = nest::run(&mut host, Inner::Debian("inner-nbdsh"), cid)?;
    println!("--- the inner guest's console\n{console}\n---");
    for line in [
        "network cards: 0",
        "1073741824",
        "disk of 8388608 bytes",
        "read back: same",
        "lab: exit 0",
    ] {
        if !console.lines().any(|said| said == line) {
            return Err(host.failure(&format!("the inner guest did not say {line:?}:\n{console}")));
        }
        println!("ok: the inner guest says {line:?}");
    }
    host.check(
        "the host finds every byte that the guest wrote, and no other changed",
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
    Ok(())
}
