//! Calls virsh(1), libvirt's own program, so that no libvirt library is needed.

use std::{io, process::Command};

use clap::{Arg, ArgMatches};

use crate::{
    child::{ChildError, Job},
    units::parse_duration,
};

/// Maximum size of a domain's XML in bytes. The crate `libvirt` has a lower limit, with its own
/// message.
const MOST: usize = 64 << 20;
/// Maximum number of characters of virsh's error message.
const SHOWN: usize = 1000;

/// The option for libvirt's connection. Without it virsh uses its default.
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

/// The option for the time that libvirt may take.
pub(super) fn timeout_option() -> Arg {
    Arg::new("timeout")
        .long("timeout")
        .value_name("TIME")
        .default_value("60s")
        .value_parser(parse_duration)
        .help("How long virsh may take for each step")
}

/// Runs a virsh command about a domain. `input` is its stdin.
pub(super) fn run(matches: &ArgMatches, words: &[&str], input: &str) -> Result<String, String> {
    let mut virsh = Command::new("virsh");
    if let Some(uri) = matches.get_one::<String>("connect") {
        virsh.args(["--connect", uri]);
    }
    // Hints are recognized by virsh's English messages.
    virsh.arg("--quiet").args(words).env("LC_ALL", "C").env_remove("LANGUAGE");
    let time = matches.get_one("timeout").copied().unwrap_or_default();
    // A connection by ssh may ask for a password.
    let job = Job::new(virsh).input(input.as_bytes()).within(time).output(MOST).interruptible(true);
    let word = words.first().unwrap_or(&"");
    let domain = domain(matches);
    let answer = job.answer().map_err(|error| match error {
        ChildError::Start(error) if error.kind() == io::ErrorKind::NotFound => {
            "virsh is not installed; install it (Debian: libvirt-clients)".to_owned()
        }
        ChildError::Start(error) => format!("cannot start virsh: {error}"),
        ChildError::Deadline(_) => {
            let change = if *word == "dumpxml" {
                ""
            } else {
                "; whether it was done is not known, 'virsh dumpxml' shows it"
            };
            format!(
                "virsh {word} {domain:?}: {error} (--timeout); does libvirtd or virtqemud hang?{change}"
            )
        }
        error => format!("virsh {word} {domain:?}: {error}"),
    })?;
    if answer.status.success() {
        return Ok(String::from_utf8_lossy(&answer.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&answer.stderr);
    let lines = said.lines().map(|line| line.trim_start_matches("error: ").trim());
    let said = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let said = if said.is_empty() { answer.status.to_string() } else { said };
    let shown: String = said.chars().take(SHOWN).collect();
    let more = if shown.len() < said.len() { "..." } else { "" };
    Err(format!("virsh {word} {domain:?}: {shown}{more}{}", hint(&said)))
}

/// What to do about libvirt's most common errors. virsh ends with 1 after each of them and prints no code, so its
/// text is all there is to tell them apart. A text that libvirt changes costs the hint and nothing else.
fn hint(said: &str) -> &'static str {
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
