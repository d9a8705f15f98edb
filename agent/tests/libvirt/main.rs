//! `agent libvirt`, with libvirt's own programs: its test driver and its schemas.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

const BINARY: &str = env!("CARGO_BIN_EXE_agent");
/// Debian: apt-get install libvirt-clients libxml2-utils.
const VIRSH: &str = "virsh";

fn run(program: &str, words: &[&str], input: &str) -> Output {
    let mut command = Command::new(program);
    let command = command.args(words).stdin(Stdio::piped());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| {
        panic!("{program} is needed (Debian: libvirt-clients libxml2-utils): {error}")
    });
    // Whoever does not read it says why.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

fn prints(program: &str, words: &[&str], input: &str) -> String {
    let output = run(program, words, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(words: &[&str], input: &str) -> String {
    let output = run(BINARY, words, input);
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = said.lines().filter(|line| !line.contains("warning")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    lines[0].to_owned()
}

/// The domain that the test driver has.
fn domain() -> String {
    prints(VIRSH, &["--quiet", "--connect", "test:///default", "dumpxml", "test"], "")
}

fn is_valid(domain: &str, dir: &Path) {
    let path = dir.join("domain.xml");
    fs::write(&path, domain).unwrap();
    prints("virt-xml-validate", &[path.to_str().unwrap(), "domain"], "");
}

#[test]
fn what_is_edited_is_valid_and_libvirt_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    // QEMU's words in a namespace of their own, and what else people put into domains.
    let before = domain().replace("<domain type='test'", "<domain type='kvm'");
    let before = before.replace(" id='1'", "");
    let with_qemu = before
        .replace("<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ")
        .replace(
            "</domain>",
            "  <qemu:commandline>\n    <qemu:arg value='-no-hpet'/>\n  </qemu:commandline>\n</domain>",
        );
    for before in [&before, &with_qemu] {
        is_valid(before, dir.path());
        for cid in ["7", "4294967294", "auto"] {
            let words = ["libvirt", "edit", "-", "--cid", cid];
            let edited = prints(BINARY, &words, before);
            is_valid(&edited, dir.path());
            assert_eq!(prints(BINARY, &words, &edited), edited);
            let changed: Vec<_> = edited.lines().filter(|line| !before.contains(line)).collect();
            assert_eq!(changed.len(), 3, "{changed:#?}");
        }
    }
    // libvirt reads it, and prints it as we do.
    let edited = prints(BINARY, &["libvirt", "edit", "-", "--cid", "7"], &domain());
    let path = dir.path().join("test.xml");
    let edited = edited.replace("<name>test</name>", "<name>other</name>");
    let edited = edited.lines().filter(|line| !line.contains("<uuid>")).collect::<Vec<_>>();
    fs::write(&path, edited.join("\n")).unwrap();
    let script = format!("define {}; dumpxml other", path.display());
    let kept = prints(VIRSH, &["--quiet", "--connect", "test:///default", &script], "");
    assert!(kept.contains("<vsock model='virtio'>"), "{kept}");
    assert!(kept.contains("<cid auto='no' address='7'/>"), "{kept}");
}

#[test]
fn the_element_is_printed_and_auto_is_warned_of() {
    let element = "<vsock model='virtio'><cid auto='no' address='42'/></vsock>\n";
    assert_eq!(prints(BINARY, &["libvirt", "xml", "--cid", "42"], ""), element);
    let output = run(BINARY, &["libvirt", "xml", "--json"], "");
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.contains("it is no identity"), "{warning}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        said,
        "{\"cid\":null,\"xml\":\"<vsock model='virtio'><cid auto='yes'/></vsock>\"}\n"
    );
}

#[test]
fn domains_are_asked_and_given_by_virsh() {
    let connect = ["--connect", "test:///default"];
    let words = |words: &[&'static str]| [words, &connect].concat();
    let said = fails(&words(&["libvirt", "cid", "test"]), "");
    assert!(
        said.contains("test has no vsock device; 'agent libvirt attach' gives it one"),
        "{said}"
    );
    // The test driver has domains and no vsock devices to attach: its own words come through.
    let said = fails(&words(&["libvirt", "attach", "test", "--cid", "7", "--config"]), "");
    assert!(said.contains("virsh attach-device \"test\": "), "{said}");
    for name in ["nothing", "-x", "--help"] {
        let said = fails(&[&["libvirt", "cid"], &connect[..], &["--", name]].concat(), "");
        assert!(said.contains(&format!("virsh dumpxml {name:?}: ")), "{said}");
        assert!(said.contains("'virsh list --all' names them"), "{said}");
    }
    let said = fails(&["libvirt", "cid", "test", "--connect", "nowhere:///"], "");
    assert!(said.contains("failed to connect"), "{said}");
}

/// The test driver attaches no vsock device. So a script is virsh here: it says what it was asked, and
/// what it read.
#[test]
fn a_device_is_attached_to_what_has_none() {
    const SCRIPT: &str = r#"#!/bin/sh
cd "${0%/*}"
echo "$*" >> asked
case "$*" in
*--inactive*) cat kept ;;
*dumpxml*) cat live ;;
*) cat /dev/stdin >> given ;;
esac
"#;
    let given = "<vsock model='virtio'><cid auto='no' address='7'/></vsock>\n";
    let with = format!("<domain id='1'><devices>{}</devices></domain>", given.trim_end());
    let (without, stopped) = ("<domain id='1'><devices/></domain>", with.replace(" id='1'", ""));
    let attach = "--quiet attach-device --domain -x --file /dev/stdin";
    for (words, live, kept, asked) in [
        (&["--live", "--config"][..], without, without, &["--live", "--config"][..]),
        (&["--live", "--config"], with.as_str(), without, &["--config"]),
        (&["--live", "--config"], &with, &with, &[]),
        (&[], without, "", &["--current"]),
        (&[], &stopped, "", &[]),
        // Kept is not running: virsh says so.
        (&["--live"], &stopped, "", &["--live"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let virsh = dir.path().join("virsh");
        for (name, text) in [("virsh", SCRIPT), ("live", live), ("kept", kept), ("given", "")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        fs::set_permissions(&virsh, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        let mut agent = Command::new(BINARY);
        let agent = agent.env("PATH", path).args(["libvirt", "attach", "--json", "--cid", "7"]);
        let output = agent.args(words).args(["--", "-x"]).output().unwrap();
        let attached = !asked.is_empty();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("{{\"attached\":{attached},\"cid\":7,\"domain\":\"-x\"}}\n"),
            "{words:?}: {output:?}"
        );
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let log = read("asked");
        let done: Vec<_> = log.lines().filter(|line| line.contains("attach-device")).collect();
        let expected: Vec<_> = asked.iter().map(|flag| format!("{attach} {flag}")).collect();
        assert_eq!(done, expected, "{words:?}");
        assert_eq!(read("given"), given.repeat(asked.len()));
    }
}

#[test]
fn wrong_words_and_hostile_domains_are_one_line() {
    for (words, input, part) in [
        (&["libvirt", "edit", "/nonexistent"][..], "", "cannot read /nonexistent"),
        (&["libvirt", "edit", "-", "--cid", "2"], "", "CID 2 cannot be a guest's"),
        (&["libvirt", "edit", "-", "--cid", "x"], "", "write auto, or a number"),
        (&["libvirt", "xml", "--model", "vmware"], "", "'vmware'"),
        (&["libvirt", "edit"], "<domain>", "standard input: line 1, column 9: the XML ends"),
        (
            &["libvirt", "edit", "-"],
            "<!DOCTYPE a [<!ENTITY x SYSTEM '/etc/passwd'>]><domain>&x;</domain>",
            "line 1, column 1: a document type",
        ),
        (&["libvirt", "edit", "-"], "<pool/>", "<pool>, and a domain's is <domain>"),
        (
            &["libvirt", "edit", "-", "--cid", "7"],
            "<domain><devices><vsock><cid address='9'/></vsock></devices></domain>",
            "CID 9; --replace changes it",
        ),
        (&["libvirt"], "", "subcommand"),
    ] {
        let said = fails(words, input);
        assert!(said.starts_with("agent: error: ") && said.contains(part), "{words:?}: {said}");
    }
}
