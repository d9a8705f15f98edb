//! Every command of guest-tools in a Debian guest, over vsock, compared with libnbd's tools on the same
//! disk. The tests in the tiny guest are in guest_vhost_user.

use tests::{Outcome, lab::Lab, vhost_user};

#[test]
fn every_command_in_a_debian_guest() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_tools")? else { return Ok(()) };
    let socket = lab.path("vm");
    let _agent = lab.agent_for(&socket, &["memory", "64M"])?;
    let mut guest = vhost_user::debian("guest-tools", &socket)?;
    guest.check(
        "probe, info and list say what nbdinfo says",
        "cd /run/lab
         guest-tools probe --wait 30s
         guest-tools probe --json >/dev/null
         guest-tools info --json >ours; guest-tools list --json >list
         nbdinfo --no-content --json nbd+vsock://2/ >theirs
         python3 - <<'END'
import json
ours, theirs, listed = (json.load(open(name)) for name in ('ours', 'theirs', 'list'))
ours, theirs = ours['exports'][0], theirs['exports'][0]
for key, value in theirs.items():
    if key not in ('export-name', 'uri'):
        assert ours[key] == value, (key, value, ours[key])
assert listed['exports'][0]['export-name'] == '', listed
END
         guest-tools info --can write
         guest-tools info --is read-only && exit 1 || [ $? = 2 ]
         [ \"$(guest-tools info --size)\" = \"$(nbdinfo --size nbd+vsock://2/)\" ]",
    )?;
    guest.check(
        "write, zero, trim, cache, read, dump and map do what nbdcopy and nbdinfo see",
        "cd /run/lab
         head -c 8M /dev/urandom >given
         guest-tools write --input given --offset 1M
         guest-tools read --offset 1M --length 8M --output read
         cmp given read
         guest-tools zero --offset 2M --length 1M --fua
         guest-tools trim --offset 4M --length 1M
         guest-tools cache --length 16M
         nbdcopy nbd+vsock://2/ whole
         cmp -n 1M -i 1M:0 whole given
         cmp -n 1M -i 2M:0 whole /dev/zero
         cmp -n 1M -i 4M:0 whole /dev/zero
         cmp -n 1M -i 3M:2M whole given
         cmp -n 4M -i 5M:4M whole given
         guest-tools dump --offset 2M --length 32 | grep -q '0000200000: 00 00'
         guest-tools map --json >ours
         nbdinfo --map --json nbd+vsock://2/ >theirs
         python3 -c 'import json; sizes = [sum(e[\"length\"] for e in json.load(open(n))) for n in (\"ours\", \"theirs\")]; assert sizes == [64 << 20] * 2, sizes'
         guest-tools map --totals",
    )?;
    guest.check(
        "copy each way, connect, test and bench",
        "cd /run/lab
         guest-tools copy --quiet nbd+vsock://2/ copied
         cmp whole copied
         guest-tools copy --quiet --verify whole nbd+vsock://2/
         guest-tools copy --quiet nbd+vsock://2/ - | cmp - whole
         guest-tools connect 10809 </dev/null | head -c 16 | grep -q NBDMAGICIHAVEOPT
         guest-tools test --destroy --length 8M
         guest-tools test --read-only --length 8M
         guest-tools bench --json --time 200ms --size 4k --depth 4 >/dev/null
         guest-tools bench --time 200ms --size 64k --depth 2 --html page
         grep -q '<svg' page",
    )?;
    guest.check(
        "attach, status and detach",
        "cd /run/lab
         device=$(guest-tools attach --background)
         head -c 4M given | dd of=$device bs=1M oflag=direct status=none
         guest-tools status $device --json | grep -q connected
         guest-tools detach $device
         guest-tools read --length 4M --output read
         cmp -n 4M read given",
    )?;
    Ok(())
}
