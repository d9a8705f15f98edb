//! The names, descriptions and block sizes that clients are told, compared with nbdkit's.

use std::{fs, path::Path, process::Command};

use support::{
    agent::{Agent, NBDKIT},
    process::assert_refuses,
};

use crate::BINARY;

/// Prints the list, and for some names whether they can be opened, their description and their
/// block sizes.
const LOOK: &str = r#"
import nbd, sys
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(sys.argv[1])
def one(name, desc):
    print("listed", repr(name), repr(desc))
try:
    print(h.opt_list(one))
except nbd.Error as e:
    print("list refused")
for name in ["", "one", "two", "three", "no"]:
    h.set_export_name(name)
    try:
        h.opt_info()
        try:
            desc = h.get_export_description()
        except nbd.Error:
            desc = None
        sizes = [h.get_block_size(n) for n in (0, 1)]
        # Where nobody says anything of them, nbdkit does not either.
        print("had", repr(name), h.get_size(), desc, sizes if "sizes" in sys.argv else "")
    except nbd.Error:
        print("not had", repr(name))
h.opt_abort()
"#;

fn found(program: &str, words: &[&str], dir: &Path, what: &str) -> String {
    let script = dir.join("look.py");
    fs::write(&script, LOOK).unwrap();
    let look = format!("/usr/bin/python3 {} \"$uri\" {what}", script.display());
    let output = Command::new(program)
        .args(["-U", "-", "--run", &look])
        .args(words)
        .env("DIR", dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn names_and_descriptions_are_as_from_nbdkit() {
    let dir = tempfile::tempdir().unwrap();
    let disks = dir.path().join("disks");
    fs::create_dir(&disks).unwrap();
    for (i, name) in ["one", "two", "three"].into_iter().enumerate() {
        fs::write(disks.join(name), vec![0; 512 << i]).unwrap();
    }
    let whole = format!("dir={}", disks.display());
    let directory = ["--filter=exportname", "file", &whole];
    let memory = ["--filter=exportname", "memory", "1M"];
    let three = ["exportname=one", "exportname=three", "exportname="];
    for more in [
        &["default-export=two"][..],
        &["exportname-list=error"],
        &["exportname-list=empty"],
        &["exportname-list=defaultonly"],
        &["exportname-list=defaultonly", "default-export=two"],
        &["exportname-list=explicit", three[0], three[1], three[2]],
        &["exportname-strict=true", three[0], three[1]],
        &["exportname-strict=true", three[0], "default-export=one"],
        &["exportname-strict=true", three[0], "default-export=two"],
        &["exportdesc=none"],
        &["exportdesc=fixed:a disk; $name"],
        &["exportdesc=script:echo about \"$name\"; echo more"],
    ] {
        for base in [directory, memory] {
            let words = [&base[..], more].concat();
            let (ours, theirs) = (
                found(BINARY, &words, dir.path(), "names"),
                found(NBDKIT, &words, dir.path(), "names"),
            );
            let sorted = |text: &str| {
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            // The order of a directory is unspecified.
            assert_eq!(sorted(&ours), sorted(&theirs), "{words:?}");
        }
    }
}

#[test]
fn a_name_never_becomes_a_part_of_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made");
    let look = format!(
        "/usr/bin/python3 -c 'import nbd, sys; h = nbd.NBD(); h.set_export_name(sys.argv[2]); \
         h.set_full_info(True); h.connect_uri(sys.argv[1]); print(h.get_export_description())' \
         \"$uri\" '$(touch {0}); touch {0}'",
        made.display()
    );
    let output = Command::new(BINARY)
        .args(["-U", "-", "--run", &look, "--filter=exportname", "memory", "1M"])
        .arg("exportdesc=script:echo \"<$name>\"")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("<$(touch ") || said.contains("<>"), "{output:?}");
    assert!(!made.exists());
}

#[test]
fn block_sizes_are_advised_as_by_nbdkit_and_others_refused_on_request() {
    let dir = tempfile::tempdir().unwrap();
    for more in [
        &["blocksize-minimum=512"][..],
        &["blocksize-preferred=32K"],
        &["blocksize-minimum=4K", "blocksize-preferred=64K", "blocksize-maximum=1M"],
    ] {
        let words = [&["--filter=blocksize-policy", "memory", "1M"][..], more].concat();
        let said = |program| found(program, &words, dir.path(), "sizes");
        assert_eq!(said(BINARY), said(NBDKIT), "{words:?}");
    }
    let reads = r#"/usr/bin/python3 -c '
import nbd, sys
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
for (count, offset) in [(512, 0), (511, 0), (512, 1), (4096, 512), (8192, 0)]:
    try:
        h.pread(count, offset); print(count, offset, "read")
        h.pwrite(bytes(count), offset); print(count, offset, "written")
    except nbd.Error as e:
        print(count, offset, e.errno)
' "$uri""#;
    for policy in ["allow", "error"] {
        let policy = format!("blocksize-error-policy={policy}");
        let ask = |program: &str| {
            let mut command = Command::new(program);
            command.args(["-U", "-", "--run", reads, "--filter=blocksize-policy", "memory", "1M"]);
            let command = command.args(["blocksize-minimum=512", "blocksize-maximum=4K", &policy]);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        let ours = ask(BINARY);
        assert_eq!(ours, ask(NBDKIT), "{policy}");
        assert!(ours.lines().count() >= 5, "{ours}");
    }
}

/// nbdkit has these from 1.34 on, so the behaviour in its manual is tested.
#[test]
fn a_write_that_is_too_long_ends_the_connection_unanswered() {
    let mut agent = Agent::start(
        BINARY,
        "-U {}/s --filter=blocksize-policy memory 1M \
         blocksize-error-policy=error blocksize-minimum=512 blocksize-write-disconnect=64K",
    );
    let client = "import nbd, sys\nh = nbd.NBD()\nh.set_strict_mode(0)\nh.connect_unix(sys.argv[1])\n\
         print(h.get_block_size(2))\n\
         h.pwrite(bytes(65536), 0)\n\
         try: h.pwrite(b'x' * 66048, 0)\nexcept nbd.Error as e: print('dropped', h.aio_is_dead() or h.aio_is_closed())\n\
         h = nbd.NBD()\nh.connect_unix(sys.argv[1])\nprint(h.pread(65536, 0) == bytes(65536))\nh.shutdown()";
    let output = Command::new("/usr/bin/python3")
        .args(["-c", client])
        .arg(agent.path("s"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "65536\ndropped True\nTrue\n", "{output:?}");
    let lines = agent.end().join("\n");
    assert!(lines.contains("a write of 66048 bytes is too long"), "{lines}");
}

#[test]
fn the_file_of_readonly_comes_and_goes_while_a_client_stays() {
    let mut agent = Agent::start(BINARY, "-U {}/s --filter=readonly memory 1M readonly-file={}/ro");
    let client = "import nbd, os, sys\nh = nbd.NBD()\nh.connect_unix(sys.argv[1])\n\
         def tried():\n try: h.pwrite(b'x', 0); h.zero(512, 0); h.trim(512, 0); return 'done'\n \
         except nbd.Error as e: return e.errno\n\
         print(h.is_read_only(), tried())\nopen(sys.argv[2], 'w')\nprint(tried())\nh.pread(1, 0)\n\
         os.remove(sys.argv[2])\nprint(tried())\nh.shutdown()";
    let output = Command::new("/usr/bin/python3")
        .args(["-c", client])
        .args([agent.path("s"), agent.path("ro")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "False done\nEPERM\ndone\n", "{output:?}");
    agent.end();
}

#[test]
fn wrong_words_are_one_line() {
    for (words, part) in [
        (
            "--filter=blocksize-policy null 1M blocksize-minimum=3",
            "blocksize-minimum=3 is not a block size",
        ),
        ("--filter=blocksize-policy null 1M blocksize-minimum=128K", "up to 64K"),
        ("--filter=blocksize-policy null 1M blocksize-preferred=256", "from 512 to 32M"),
        (
            "--filter=blocksize-policy null 1M blocksize-minimum=4K blocksize-maximum=5000",
            "multiple of blocksize-minimum",
        ),
        ("--filter=blocksize-policy null 1M blocksize-error-policy=maybe", "allow"),
        (
            "--filter=blocksize-policy null 1M blocksize-minimum=4K blocksize-write-disconnect=4K",
            "blocksize-write-disconnect=4096 is not a block size",
        ),
        (
            "--filter=blocksize-policy null 1M blocksize-write-disconnect=many",
            "blocksize-write-disconnect=many",
        ),
        ("--filter=exportname null 1M exportname-list=all", "exportname-list"),
        ("--filter=exportname null 1M exportdesc=long", "fixed:TEXT or script:COMMAND"),
        ("--filter=exportname null 1M exportname-strict=perhaps", "exportname-strict"),
        ("--filter=readonly null 1M readonly=yes", "readonly"),
    ] {
        assert_refuses(BINARY, words, part);
    }
}
