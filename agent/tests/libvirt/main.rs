//! `agent libvirt`, with libvirt's own programs: its test driver and its schemas.

mod hostile;

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
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
    // A program that does not read its input reports why.
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

/// The domain of the test driver.
fn domain() -> String {
    prints(VIRSH, &["--quiet", "--connect", "test:///default", "dumpxml", "test"], "")
}

fn is_valid(domain: &str, dir: &Path) {
    let path = dir.join("domain.xml");
    fs::write(&path, domain).unwrap();
    prints("virt-xml-validate", &[path.to_str().unwrap(), "domain"], "");
}

#[test]
fn an_edited_domain_is_valid_and_libvirt_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    // QEMU's options in their own namespace, and other common content of domains.
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
    // libvirt parses it, and prints it as the agent does.
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

/// Forms that were once refused or given a second device. libvirt accepts the result.
#[test]
fn odd_and_harmless_domains_are_edited_once() {
    let dir = tempfile::tempdir().unwrap();
    let domain = domain().replace(" id='1'", "").replace("<name>test</name>", "<name>other</name>");
    let domain: Vec<_> = domain.lines().filter(|line| !line.contains("<uuid>")).collect();
    let domain = domain.join("\n");
    let described = |inside: &str| {
        domain.replacen(
            "  <memory",
            &format!("  <description>{inside}</description>\n  <memory"),
            1,
        )
    };
    let values = " a=\"x\"".repeat(300);
    for (before, shown) in [
        (domain.replacen("<devices>", "<devices xmlns=''>", 1), "an empty namespace"),
        (domain.replacen("<domain ", "<domain xmlns='' ", 1), "an empty namespace at the root"),
        (described(&values), "300 values in a text"),
        (described(&format!("<![CDATA[<{values}]]>")), "300 values in a section"),
        (
            domain.replacen("<devices>", &format!("<!--{}--><devices>", " xmlns".repeat(300)), 1),
            "300 declarations in a comment",
        ),
        (format!("<?xml version='1.0' encoding='UTF8'?>\n{domain}"), "encoding='UTF8'"),
    ] {
        let words = ["libvirt", "edit", "-", "--cid", "7"];
        let edited = prints(BINARY, &words, &before);
        assert_eq!(prints(BINARY, &words, &edited), edited, "{shown}");
        let path = dir.path().join("domain.xml");
        fs::write(&path, edited).unwrap();
        let script = format!("define {}; dumpxml other", path.display());
        let kept = prints(VIRSH, &["--quiet", "--connect", "test:///default", &script], "");
        assert_eq!(kept.matches("<vsock").count(), 1, "{shown}: {kept}");
    }
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
    // The test driver has domains but cannot attach vsock devices. Its own error is passed on.
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

/// The test driver cannot attach vsock devices, so virsh is a script here, which records its arguments
/// and its input.
#[test]
fn a_device_is_attached_to_what_has_none() {
    let given = "<vsock model='virtio'><cid auto='no' address='7'/></vsock>\n";
    let with = format!("<domain id='1'><devices>{}</devices></domain>", given.trim_end());
    let (without, stopped) = ("<domain id='1'><devices/></domain>", with.replace(" id='1'", ""));
    let transitional = with.replace("'virtio'", "'virtio-transitional'");
    let attach = "--quiet attach-device --domain -x --file /dev/stdin";
    for (words, live, kept, asked) in [
        (&["--live", "--config"][..], without, without, "--live --config"),
        (&["--live", "--config"], with.as_str(), without, "--config"),
        (&["--live", "--config"], &with, &with, ""),
        (&["--live"], &transitional, "", ""),
        (&[], without, "", "--current"),
        (&[], &stopped, "", ""),
        // The domain is defined but not running. The real virsh would report an error.
        (&["--live"], &stopped, "", "--live"),
    ] {
        let virsh = Virsh::with(live, kept);
        let attached = !asked.is_empty();
        let words = [&["attach", "--json", "--cid", "7"], words, &["--", "-x"]].concat();
        assert_eq!(
            virsh.agent(&words),
            Ok(format!("{{\"attached\":{attached},\"cid\":7,\"domain\":\"-x\"}}\n")),
            "{words:?}"
        );
        let log = virsh.read("asked");
        let done: Vec<_> = log.lines().filter(|line| line.contains("attach-device")).collect();
        let expected: Vec<_> = [asked]
            .into_iter()
            .filter(|asked| !asked.is_empty())
            .map(|asked| format!("{attach} {asked}"))
            .collect();
        assert_eq!(done, expected, "{words:?}");
        assert_eq!(virsh.read("given"), given.repeat(expected.len()));
    }
}

/// With auto libvirt chooses the CID, and the agent prints the CID that libvirt chose.
#[test]
fn the_cid_that_libvirt_chose_is_read_back() {
    let chosen = "<domain id='1'><devices><vsock model='virtio'><cid auto='yes' address='5'/></vsock>\
                  </devices></domain>";
    let kept = chosen.replace(" address='5'", "").replace(" id='1'", "");
    for (live, words, cid) in [
        (chosen, &["--live"][..], "5"),
        (chosen, &["--live", "--config"], "5"),
        (chosen, &[], "5"),
        (chosen, &["--config"], "null"),
        (&kept, &[], "null"),
    ] {
        let virsh = Virsh::with(live, &kept);
        let words = [&["attach", "guest", "--json"], words].concat();
        assert_eq!(
            virsh.agent(&words),
            Ok(format!("{{\"attached\":false,\"cid\":{cid},\"domain\":\"guest\"}}\n")),
            "{words:?}"
        );
    }
    let virsh = Virsh::with(chosen, &kept);
    let said = virsh.agent(&["attach", "guest", "--live"]);
    assert_eq!(said, Ok("guest: the device is there already, CID 5\n".to_owned()));
}

#[test]
fn a_cid_is_a_running_domains_or_the_kept_one_is_asked_for() {
    let domain = |id: &str, cid: &str| format!("<domain{id}><devices>{cid}</devices></domain>");
    let vsock = |cid: &str| format!("<vsock model='virtio'>{cid}</vsock>");
    let auto = vsock("<cid auto='yes'/>");
    let live = domain(" id='1'", &vsock("<cid auto='yes' address='3'/>"));
    let fixed = domain("", &vsock("<cid auto='no' address='7'/>"));
    for (live, kept, words, answer) in [
        (live.as_str(), "", &[][..], Ok("3\n")),
        (&live, "", &["--json"], Ok("{\"cid\":3,\"domain\":\"guest\",\"of\":\"live\"}\n")),
        (
            &live,
            &fixed,
            &["--config", "--json"],
            Ok("{\"cid\":7,\"domain\":\"guest\",\"of\":\"config\"}\n"),
        ),
        (
            &fixed,
            "",
            &["--json"],
            Err("does not run, so it has no CID now; it starts with CID 7, which --config prints"),
        ),
        (&domain("", &auto), "", &[], Err("has no CID now; at its start libvirt chooses one")),
        (&live, &domain("", &auto), &["--config"], Err("libvirt chooses its CID at each start")),
        (&domain("", ""), "", &[], Err("'agent libvirt attach' gives it one")),
        (&domain(" id='1'", &auto), "", &[], Err("libvirt says no CID")),
    ] {
        let virsh = Virsh::with(live, kept);
        let said = virsh.agent(&[&["cid", "guest"], words].concat());
        match (&said, answer) {
            (Ok(said), Ok(answer)) => assert_eq!(said, answer),
            (Err(said), Err(part)) => {
                assert!(said.starts_with("agent: error: guest "), "{said}");
                assert!(said.contains(part), "{said}");
            }
            _ => panic!("{live} {words:?}: {said:?}"),
        }
    }
}

/// A virsh in its own folder, which the agent finds before the real one.
struct Virsh(tempfile::TempDir);

impl Virsh {
    /// With the running and the defined form of a domain.
    fn with(live: &str, kept: &str) -> Self {
        const SCRIPT: &str = r#"#!/bin/sh
cd "${0%/*}"
echo "$*" >> asked
case "$*" in
*--inactive*) cat kept ;;
*dumpxml*) cat live ;;
*) cat /dev/stdin >> given ;;
esac
"#;
        let virsh = Self::running(SCRIPT);
        for (name, text) in [("live", live), ("kept", kept), ("given", "")] {
            fs::write(virsh.path(name), text).unwrap();
        }
        virsh
    }

    fn running(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("virsh"), script).unwrap();
        let all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path().join("virsh"), all).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn search_path(&self) -> String {
        format!("{}:/usr/bin:/bin", self.0.path().display())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut agent = Command::new(BINARY);
        agent.env("PATH", self.search_path()).arg("libvirt").args(words);
        agent
    }

    /// The output of `agent libvirt`, or its error.
    fn agent(&self, words: &[&str]) -> Result<String, String> {
        let output = self.command(words).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

#[test]
fn an_edit_is_one_object_with_json() {
    let transitional = "<domain><devices><vsock model='virtio-transitional'><cid auto='no' address='7'/></vsock>\
         </devices></domain>";
    for (before, words, changed, model, cid) in [
        ("<domain/>", &["--cid", "9"][..], true, "virtio", "9"),
        (
            "<domain/>",
            &["--model", "virtio-non-transitional"],
            true,
            "virtio-non-transitional",
            "null",
        ),
        (transitional, &["--cid", "7"], false, "virtio-transitional", "7"),
        (transitional, &["--cid", "9", "--replace"], true, "virtio-transitional", "9"),
        (transitional, &["--model", "virtio", "--replace"], true, "virtio", "7"),
        (transitional, &["--replace"], true, "virtio-transitional", "null"),
    ] {
        let words = [&["libvirt", "edit", "-"], words].concat();
        let xml = prints(BINARY, &words, before);
        let said = prints(BINARY, &[&words[..], &["--json"]].concat(), before);
        let escaped = xml.replace('"', "\\\"").replace('\n', "\\n");
        assert_eq!(
            said,
            format!(
                "{{\"changed\":{changed},\"cid\":{cid},\"model\":\"{model}\",\"xml\":\"{escaped}\"}}\n"
            )
        );
        assert_eq!(xml != before, changed);
    }
}

#[test]
fn wrong_words_and_hostile_domains_are_one_line() {
    for (words, input, part) in [
        (&["libvirt", "edit", "/nonexistent"][..], "", "cannot read /nonexistent"),
        (&["libvirt", "edit", "-", "--cid", "2"], "", "CID 2 is the host's"),
        (&["libvirt", "edit", "-", "--cid", "x"], "", "from 3 to 4294967294, or 'auto'"),
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
        (
            &["libvirt", "edit", "--replace", "--model", "virtio"],
            "<domain><devices><vsock><cid address='2'/></vsock></devices></domain>",
            "which is no guest's; --cid changes it",
        ),
        (&["libvirt"], "", "subcommand"),
    ] {
        let said = fails(words, input);
        assert!(said.starts_with("agent: error: ") && said.contains(part), "{words:?}: {said}");
    }
}
