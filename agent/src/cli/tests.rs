//! Tables of command lines: each option, each contradiction, each option that is refused.

use std::{error::Error, path::PathBuf, time::Duration};

use nbd::negotiate::Offers;

use vsock_cid::Cid;

use super::*;
use crate::{access::AccessConfig, machines::Machines, plan::Memory, process::Process};

fn decided(line: &str) -> Plan {
    plan(words(line), None).unwrap_or_else(|stop| panic!("{line}: {stop}"))
}

fn stopped(line: &str) -> String {
    let stop = plan(words(line), None).err().unwrap_or_else(|| panic!("{line}: was taken"));
    assert!(stop.answer().is_none(), "{line}");
    let cause = stop.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{stop}{cause}")
}

/// Splits at spaces. `_` stands for an empty word.
fn words(line: &str) -> Vec<String> {
    let words = line.split_whitespace().map(|word| if word == "_" { "" } else { word });
    ["agent"].into_iter().chain(words).map(str::to_owned).collect()
}

fn tcp(host: Option<&str>, port: u16, family: Family) -> Address {
    Address::Tcp { host: host.map(str::to_owned), port, family }
}

#[test]
fn the_defaults_are_those_of_nbdkit() {
    assert_eq!(
        decided("memory 1G"),
        Plan {
            given: Given::Nothing,
            listen: vec![tcp(None, 10809, Family::Any)],
            filters: Vec::new(),
            plugin: "memory".into(),
            params: vec![(None, "1G".into())],
            access: AccessConfig::default(),
            connections_per_tenant: Some(1024),
            memory: Memory { connection: 128 << 20, tenant: 256 << 20, total: None, disks: None },
            machines: Machines::default(),
            read_only: false,
            export_name: String::new(),
            threads: None,
            io: Io::Auto,
            handshake_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(5),
            pid_file: None,
            print_uri: false,
            keep_alive: false,
            offers: Offers::default(),
            process: Process::default(),
            tls: crate::tls::Wanted::default(),
            log: Log { target: Target::Default, verbose: false },
        }
    );
}

#[test]
fn machines_are_named_once_and_reached_over_vsock() {
    let machines = decided("--vsock --qmp a --qmp=b --qmp-cid 100-199 memory 1").machines;
    assert_eq!(machines.sockets, [PathBuf::from("a"), PathBuf::from("b")]);
    assert_eq!(machines.cids.to_string(), "100-199");
    assert!(!decided("--listen vsock:1 --listen tcp:[::1]:0 --qmp a memory 1").machines.is_empty());
    assert_eq!(
        decided("--vsock --qmp a --qmp-cid auto memory 1").machines.cids,
        qemu::cid::Range::default()
    );
    for (line, part) in [
        ("--qmp a memory 1", "--qmp needs a listener that guests reach; add --vsock"),
        ("--vsock --qmp a --qmp a memory 1", "--qmp a is given twice"),
        ("--vsock --qmp-cid 5 memory 1", "name a machine with --qmp SOCKET"),
        ("--vsock --qmp a --qmp-cid 2 memory 1", "CID 2 is the host's"),
        ("--vsock --qmp a --allow-cid 5 memory 1", "--qmp and --allow-cid cannot be used together"),
        ("-s --qmp a memory 1", "--qmp and -s/--single cannot be used together"),
    ] {
        let stop = stopped(line);
        assert!(stop.contains(part), "{line}: {stop}");
    }
}

#[test]
fn every_option_has_the_spellings_of_nbdkit() {
    for (lines, has) in [
        (&["-r", "--readonly", "--read-only"][..], (|plan| plan.read_only) as fn(&Plan) -> bool),
        (&["-e x", "--exportname=x", "--export x", "--export-name x"], |plan| {
            plan.export_name == "x"
        }),
        (&["-t 3", "-t3", "--threads=3"], |plan| plan.threads == Some(3)),
        (&["-t 0", "--threads 0"], |plan| plan.threads.is_none()),
        (&["--io=uring", "--io uring"], |plan| plan.io == Io::Uring),
        (&["--io=threads"], |plan| plan.io == Io::Threads),
        (&["-P x", "--pidfile=x", "--pid-file x"], |plan| {
            plan.pid_file == Some(PathBuf::from("x"))
        }),
        (&["--print-uri"], |plan| plan.print_uri),
        (&["-v", "--verbose", "--verb"], |plan| plan.log.verbose),
        (&["--log=null"], |plan| plan.log.target == Target::Null),
        (&["--log=syslog", "--background"], |plan| plan.log.target == Target::Syslog),
        (&["--log=journald"], |plan| plan.log.target == Target::Journald),
        (&["--log=json"], |plan| plan.log.target == Target::Json),
        (&["--log=/x"], |plan| plan.log.target == Target::File("/x".into())),
        (&["--log=stderr"], |plan| plan.log.target == Target::Stderr),
        (&["--log=default"], |plan| plan.log.target == Target::Default),
        (&["--timeout=2", "--timeout 2s"], |plan| plan.handshake_timeout == Duration::from_secs(2)),
        (&["--shutdown-timeout=0"], |plan| plan.shutdown_timeout.is_zero()),
        (
            &[
                "_",
                "-f",
                "--foreground",
                "--no-fork",
                "-n",
                "--newstyle",
                "--new-style",
                "--tls=off",
            ],
            |plan| !plan.read_only,
        ),
        (&["-rfv", "-r -r", "-fre x"], |plan| plan.read_only),
        (&["-t 1 -t 2"], |plan| plan.threads == Some(2)),
        (&["--keepalive", "--keep"], |plan| plan.keep_alive),
        (&["--no-sr", "--no-structured-replies"], |plan| {
            !plan.offers.structured && !plan.offers.extended
        }),
        (&["--no-mc", "--no-meta-contexts"], |plan| !plan.offers.contexts),
        (&["--mask-handshake=1", "--mask-handshake 0xfffffffd"], |plan| {
            plan.offers.fixed && !plan.offers.no_zeroes
        }),
        (&["--mask-handshake=3", "-r"], |plan| plan.offers == Offers::default()),
        (&["--mask-handshake=0"], |plan| !plan.offers.fixed && !plan.offers.no_zeroes),
        (&["-u x", "--user=x"], |plan| plan.process.user.as_deref() == Some("x")),
        (&["-g x", "--group x"], |plan| plan.process.group.as_deref() == Some("x")),
        (&["--swap"], |plan| plan.process.swap),
        (&["--selinux-label=x"], |plan| plan.process.selinux_label.as_deref() == Some("x")),
        (&["--run -x", "--run=-x"], |plan| plan.process.command.as_deref() == Some("-x")),
        (&["--exit-with-parent"], |plan| plan.process.with_parent),
        (&["--background"], |plan| plan.process.background),
    ] {
        for line in lines {
            let line = line.trim_matches('_');
            for line in [format!("{line} null"), format!("null {line}"), format!("null 1 {line}")] {
                assert!(has(&decided(&line)), "{line}");
            }
        }
    }
}

#[test]
fn listeners_are_decided() {
    let (any, v4, v6) = (Family::Any, Family::V4, Family::V6);
    let unix = |path: &str| Address::Unix(path.into());
    let vsock = |cid, port| Address::Vsock { cid, port };
    for (line, listen) in [
        ("-p 1", vec![tcp(None, 1, any)]),
        ("--port=0", vec![tcp(None, 0, any)]),
        ("-p 1 -p 2", vec![tcp(None, 2, any)]),
        ("-i ::1", vec![tcp(Some("::1"), 10809, any)]),
        ("--ipaddr=h -p 7", vec![tcp(Some("h"), 7, any)]),
        ("--ip-addr=h", vec![tcp(Some("h"), 10809, any)]),
        ("-4", vec![tcp(None, 10809, v4)]),
        ("-6 -4 --ipv6-only", vec![tcp(None, 10809, v6)]),
        ("-6 --ipv4-only", vec![tcp(None, 10809, v4)]),
        ("-U -", vec![Address::Private]),
        ("--unix=/s", vec![unix("/s")]),
        ("-U a -U b", vec![unix("b")]),
        ("--vsock", vec![vsock(None, 10809)]),
        ("--vsock -p 4294967294", vec![vsock(None, u32::MAX - 1)]),
        ("--listen vsock:1", vec![vsock(None, 1)]),
        ("--listen tcp:[::1]:0 --listen unix:/s", vec![tcp(Some("::1"), 0, any), unix("/s")]),
        ("--listen vsock:2:1 -p 5", vec![tcp(None, 5, any), vsock(Some(Cid::HOST), 1)]),
        ("--vsock --listen unix:/s", vec![vsock(None, 10809), unix("/s")]),
        ("-4 --vsock --listen tcp:h:1", vec![vsock(None, 10809), tcp(Some("h"), 1, v4)]),
        ("-U - --listen unix:-", vec![Address::Private, Address::Private]),
        ("--run x", vec![Address::Private]),
        ("--run x -p 5", vec![tcp(None, 5, any)]),
        ("--run x -4", vec![tcp(None, 10809, v4)]),
        ("--run x -i ::1", vec![tcp(Some("::1"), 10809, any)]),
        ("--run x --vsock", vec![vsock(None, 10809)]),
        ("--run x --listen vsock:7", vec![vsock(None, 7)]),
    ] {
        assert_eq!(decided(&format!("null {line}")).listen, listen, "{line}");
    }
}

#[test]
fn contradictions_name_both_options() {
    for (line, parts) in [
        ("--vsock -U /s", ["--vsock", "-U"]),
        ("-U /s -p 1", ["-U", "-p"]),
        ("-U - -p 1", ["-U", "-p"]),
        ("-U /s -i ::1", ["-U", "-i"]),
        ("--vsock -i ::1", ["--vsock", "-i"]),
        ("--vsock -4", ["-4", "--vsock"]),
        ("-U /s -6", ["-6", "-U"]),
        ("--listen vsock:1 -6", ["-6", "--listen"]),
        ("--background -f", ["-f", "--background"]),
        ("--mask-handshake=2 --tls=require", ["--mask-handshake", "--tls=require"]),
        ("--background --run x", ["--run", "--background"]),
        ("--background --exit-with-parent", ["--exit-with-parent", "--background"]),
    ] {
        let error = stopped(&format!("null {line}"));
        assert!(parts.iter().all(|part| error.contains(part)), "{line}: {error}");
        assert!(error.contains("cannot be used together"), "{line}: {error}");
    }
}

#[test]
fn wrong_values_are_refused_with_the_option_and_the_value() {
    let long = format!("-e {}", "x".repeat(4097));
    for (line, parts) in [
        ("-p 70000", &["-p/--port '70000'", "TCP port"][..]),
        ("-p http", &["-p/--port 'http'"]),
        ("--port= -r", &["-p/--port ''"]),
        ("--vsock -p 4294967296", &["'4294967296'", "vsock port"]),
        ("--listen udp:1", &["--listen 'udp:1'", "vsock:PORT"]),
        ("--listen unix:/s --listen unix:/s", &["unix:/s", "twice"]),
        ("-p 1 --listen tcp:1", &["tcp:1", "twice"]),
        ("--unix=", &["a value is required", "--unix"]),
        ("--timeout 1x", &["--timeout '1x'"]),
        ("--timeout 0", &["--timeout 0"]),
        ("--shutdown-timeout _", &["--shutdown-timeout ''"]),
        ("--log=file", &["--log 'file'", "stderr"]),
        ("-t x", &["'x'", "--threads"]),
        ("--mask-handshake x", &["--mask-handshake 'x'"]),
        ("-t -1", &["-1"]),
        (&long, &["--exportname", "4097"]),
        ("--nonsense", &["unexpected argument '--nonsense'"]),
        ("-z", &["unexpected argument '-z'"]),
    ] {
        let error = stopped(&format!("null {line}"));
        assert!(parts.iter().all(|part| error.contains(part)), "{line}: {error}");
    }
    assert!(stopped("-r").contains("no plugin"));
}

#[test]
fn nbdkit_options_that_are_not_built_are_refused_by_name() {
    for line in ["--name=x", "--tls-priority=x"] {
        for line in [line.to_owned(), format!("null {line}")] {
            let error = stopped(&line);
            let name = line.trim_start_matches("null ").split([' ', '=']).next().unwrap();
            assert!(error.contains(name), "{line}: {error}");
            assert!(error.contains("known to nbdkit, not built into agent yet"), "{line}: {error}");
        }
    }
    for line in ["--debug memory.x=1", "-D memory.x=1", "--oldstyle", "--old-style", "-o"] {
        let error = stopped(&format!("{line} null"));
        let name = line.split(' ').next().unwrap();
        assert!(error.contains(name) && error.contains(" is refused: "), "{line}: {error}");
    }
    assert!(stopped("null @/no/words").contains("in the file '/no/words'"));
}

#[test]
fn called_as_nbdkit_the_agent_goes_into_the_background() {
    for (line, background) in [
        ("/usr/sbin/nbdkit null", true),
        ("nbdkit -v null", true),
        ("nbdkit -f null", false),
        ("nbdkit --run x null", false),
        ("nbdkit --exit-with-parent null", false),
        ("nbdkit-agent null", false),
        ("./agent null", false),
        ("agent --background null", true),
    ] {
        let plan = plan(line.split(' '), None).unwrap();
        assert_eq!(plan.process.background, background, "{line}");
    }
}

#[test]
fn words_after_two_dashes_are_parameters() {
    let values = ["-r", "--run"].map(|value| (None, value.to_owned()));
    assert_eq!(decided("null -- -r --run").params, values);
}

#[test]
fn clap_finds_no_fault_in_the_options() {
    refused::add_to(Said::command()).debug_assert();
}

/// Each option of the nbdkit on this machine is either an option here or refused by name.
#[test]
fn no_option_of_the_installed_nbdkit_is_unknown() {
    let output = std::process::Command::new("nbdkit")
        .args(["--long-options"])
        .output()
        .expect("nbdkit is needed to compare with (Debian: apt-get install nbdkit)");
    let known = refused::add_to(Said::command());
    let known: Vec<String> = known
        .get_arguments()
        .flat_map(|arg| {
            arg.get_long_and_visible_aliases()
                .into_iter()
                .flatten()
                .chain(arg.get_all_aliases().into_iter().flatten())
        })
        .map(|name| format!("--{name}"))
        .collect();
    for option in String::from_utf8(output.stdout).unwrap().lines() {
        assert!(known.iter().any(|name| name == option), "{option} is unknown");
    }
}
