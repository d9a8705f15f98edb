//! Inherited connections that replace the agent's own listeners: the sockets of systemd, or one
//! client on stdin and stdout. An option that asks for other listeners is a contradiction.

use super::{Said, Stop};
use crate::listen::{Given, activation::Handed};

const ACTIVATED: &str = "socket activation (LISTEN_FDS)";
const SINGLE: &str = "-s/--single";
const RUN: &str = "--run";

const OPENED: &str = "leave the option out: the sockets that were passed say where to listen";
const ONE_CLIENT: &str = "leave the second out: the one client is on stdin and stdout, and nothing \
                          else may be there";

impl Said {
    /// Decides which of them are used. `handed` is what the environment announces.
    pub(super) fn given(&self, handed: Option<Handed>) -> Result<Given, Stop> {
        let listening = [
            (self.ipaddr.is_some(), "-i/--ipaddr"),
            (self.port.is_some(), "-p/--port"),
            (self.unix.is_some(), "-U/--unix"),
            (self.vsock, "--vsock"),
            (!self.listen.is_empty(), "--listen"),
            (self.ipv4_only, "-4/--ipv4-only"),
            (self.ipv6_only, "-6/--ipv6-only"),
        ];
        let first = |contrary: &[(bool, &'static str)]| {
            contrary.iter().find(|(given, _)| *given).map(|(_, name)| *name)
        };
        let together = |one, other, hint| Err(Stop::Together { one, other, hint });
        if let Some(handed) = handed {
            let others = [(self.single, SINGLE), (self.run.is_some(), RUN)];
            let contrary = first(&listening).or_else(|| first(&others));
            return match contrary {
                Some(other) => together(ACTIVATED, other, OPENED),
                None => Ok(Given::Sockets(handed)),
            };
        }
        if self.single {
            let others = [(self.print_uri, "--print-uri"), (self.run.is_some(), RUN)];
            let contrary = first(&listening).or_else(|| first(&others));
            return match contrary {
                Some(other) => together(SINGLE, other, ONE_CLIENT),
                None => Ok(Given::Client),
            };
        }
        Ok(Given::Nothing)
    }
}

/// An answer on stdout, such as the help, would be sent to the client.
pub(super) fn no_answer() -> Stop {
    Stop::Together { one: SINGLE, other: "an option that prints on stdout", hint: ONE_CLIENT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::plan;

    const LISTENING: [&str; 9] = [
        "-i ::1",
        "--ipaddr=::1",
        "-p 1",
        "-U /s",
        "--unix=-",
        "--vsock",
        "--listen unix:/s",
        "-4",
        "--ipv6-only",
    ];

    fn words(line: &str) -> impl Iterator<Item = &str> {
        ["agent"].into_iter().chain(line.split_whitespace())
    }

    fn decided(line: &str, handed: Option<Handed>) -> (Given, usize) {
        let plan = plan(words(line), handed).unwrap_or_else(|stop| panic!("{line}: {stop}"));
        (plan.given, plan.listen.len())
    }

    fn stopped(line: &str, handed: Option<Handed>) -> String {
        let stop = plan(words(line), handed).err().unwrap_or_else(|| panic!("{line}: was taken"));
        assert!(stop.answer().is_none(), "{line}");
        stop.to_string()
    }

    #[test]
    fn inherited_connections_replace_all_listeners() {
        let handed = Handed::unnamed(2);
        for (line, given) in [
            ("null", Some(handed.clone())),
            ("-f -r --print-uri -e x null", Some(handed.clone())),
            ("-s null", None),
            ("--single -f -v null", None),
            ("--stdin null", None),
            ("-rs null", None),
        ] {
            let expected = given.clone().map_or(Given::Client, Given::Sockets);
            assert_eq!(decided(line, given), (expected, 0), "{line}");
        }
        assert_eq!(decided("null", None), (Given::Nothing, 1));
    }

    #[test]
    fn listening_options_contradict_inherited_connections_by_name() {
        for said in LISTENING {
            let name = said.split([' ', '=']).next().unwrap();
            let error = stopped(&format!("null {said}"), Some(Handed::unnamed(1)));
            assert!(error.contains("socket activation (LISTEN_FDS)"), "{said}: {error}");
            assert!(error.contains(name), "{said}: {error}");
            let error = stopped(&format!("null -s {said}"), None);
            assert!(error.contains("-s/--single") && error.contains(name), "{said}: {error}");
        }
        let error = stopped("null -s", Some(Handed::unnamed(1)));
        assert!(error.contains("LISTEN_FDS") && error.contains("-s/--single"), "{error}");
    }

    #[test]
    fn answers_are_refused_when_stdout_is_the_clients() {
        for line in [
            "-s --print-uri null",
            "-s --help",
            "--help --single",
            "-fs -V",
            "-h -vs null",
            "--version null --stdin",
        ] {
            let error = stopped(line, None);
            assert!(error.starts_with("-s/--single and"), "{line}: {error}");
        }
        for line in ["--help", "-V null", "--help -- null"] {
            assert!(plan(words(line), None).unwrap_err().answer().is_some(), "{line}");
        }
    }
}
