//! virsh(1): libvirt's own program, so that no library of it is needed here.

use std::{
    io::{self, Write},
    process::{Command, Stdio},
};

use clap::{Arg, ArgMatches};

/// Of libvirt's connection: what virsh takes if nothing is said.
pub(super) fn connect_option() -> Arg {
    Arg::new("connect")
        .long("connect")
        .short('c')
        .value_name("URI")
        .help("libvirt's connection, such as qemu:///system [default: virsh's]")
}

pub(super) fn domain_argument() -> Arg {
    Arg::new("domain")
        .value_name("DOMAIN")
        .required(true)
        .allow_hyphen_values(true)
        .help("The domain's name, id or UUID")
}

pub(super) fn domain(matches: &ArgMatches) -> &str {
    matches.get_one::<String>("domain").map_or("", String::as_str)
}

/// Runs a command about a domain; `input` is what it reads from /dev/stdin.
pub(super) fn run(matches: &ArgMatches, words: &[&str], input: &str) -> Result<String, String> {
    let mut virsh = Command::new("virsh");
    if let Some(uri) = matches.get_one::<String>("connect") {
        virsh.args(["--connect", uri]);
    }
    // Mends are found by its messages.
    virsh.arg("--quiet").args(words).env("LC_ALL", "C").env_remove("LANGUAGE");
    virsh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = virsh.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            "virsh is not installed; install it (Debian: libvirt-clients)".to_owned()
        }
        _ => format!("cannot start virsh: {error}"),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it says why.
        stdin.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output().map_err(|error| format!("virsh: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = said.lines().map(|line| line.trim_start_matches("error: ").trim());
    let said = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let domain = domain(matches);
    Err(format!("virsh {} {domain:?}: {said}{}", words.first().unwrap_or(&""), mend(&said)))
}

/// What to do about libvirt's commonest words.
fn mend(said: &str) -> &'static str {
    if said.contains("failed to get domain") {
        "; 'virsh list --all' names them, with the same --connect"
    } else if said.contains("failed to connect") {
        "; is libvirtd or virtqemud running, and may you use it (the group libvirt)?"
    } else if said.contains("domain is not running") {
        "; start it, or use --config alone"
    } else if said.contains("guest cid: Address already in use") {
        "; a machine that runs has this CID, and --cid N asks for another"
    } else if said.contains("No more available PCI slots") {
        "; a machine of type q35 needs a free <controller type='pci' model='pcie-root-port'/> for it"
    } else {
        ""
    }
}
