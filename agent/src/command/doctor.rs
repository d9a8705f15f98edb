//! `agent doctor`: why guests cannot be served over AF_VSOCK on this machine, and how to fix it.

use std::{
    fmt::Write as _,
    io::{self, BufRead, Write as _},
};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use doctor::{
    Finding, Hint, StepError, Verdict,
    host::{Report, Way},
};
use human::chain;
use nbd::wire::DEFAULT_PORT;
use serde_json::{Value, json};

use super::{Entry, Outcome, print, print_json};
use crate::{
    diagnosis::{self, Programs},
    text,
};

pub(super) const ENTRY: Entry = Entry { word: "doctor", command, run };

const EXAMPLES: &str = "\
Examples:
  agent doctor
  agent doctor --port 10810 --json | jq -r '.findings[] | select(.verdict != \"ok\") | .hint'
  agent doctor --fix

The exit status is 0 when a guest could be served over the kernel's vsock (--vsock) now, else 1.
Where it could not, another way may be open, which needs neither a module nor root: see the ways.

With --json, one object, whose keys and ids stay:
  served    whether a guest could be served over the kernel's vsock now: there is no fault
  ways      in which a guest reaches the agent, each an object:
    way       \"vsock\", \"vhost-user\" (QEMU without the kernel's vsock) or \"hybrid\"
              (Firecracker, Cloud Hypervisor)
    option    the agent's option for it
    works     whether a guest could be served by it now; that of \"vsock\" is served
    why       what it works by, or what it lacks
  findings  what was checked, each an object:
    id        what was checked: kernel, vsock, vhost-vsock, vhost-vsock-mode, transport, cid,
              loopback, socket, port, unit, limits, qemu, libvirt, selinux, apparmor or
              namespace; some of them more than once, or not at all
    verdict   \"ok\", \"warning\" or \"fault\"
    checked   what was looked at
    evidence  what was seen
    meaning   what follows from it
    hint      what to do, or null
    steps     the commands of the hint, for a root shell, in their order; may be empty
    safe      whether --fix runs them
  fixed     with --fix, the commands that were run, each an object:
    step      the command
    error     why it failed, or null";

fn command() -> Command {
    Command::new(ENTRY.word)
        .about("Says why vsock does not work here, and how to fix it")
        .long_about(
            "Looks at all that lies between a guest and the agent: the kernel, its vsock transports, \
             /dev/vhost-vsock, what forbids sockets, the port, limits, QEMU and libvirt. Says what \
             it found, what it means and the exact fix. It changes nothing without --fix (but the \
             kernel may load its vsock modules, as it does when a guest starts). Where it \
             runs matters: as the user, and in the container or unit, that the agent and QEMU have.",
        )
        .after_help(EXAMPLES)
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one JSON object"))
        .arg(
            Arg::new("port")
                .short('p')
                .long("port")
                .value_name("PORT")
                .value_parser(value_parser!(u32).range(..i64::from(u32::MAX)))
                .help(format!("The vsock port of the agent [default: {DEFAULT_PORT}]")),
        )
        .arg(
            Arg::new("fix")
                .long("fix")
                .action(ArgAction::SetTrue)
                .help("Run the safe fixes, each after a yes, and look again"),
        )
        .arg(
            Arg::new("yes")
                .long("yes")
                .action(ArgAction::SetTrue)
                .requires("fix")
                .help("Take every answer for yes"),
        )
}

fn run(matches: &ArgMatches) -> Outcome {
    let port = matches.get_one("port").copied().unwrap_or_else(|| DEFAULT_PORT.into());
    let (json, fix) = (matches.get_flag("json"), matches.get_flag("fix"));
    let mut report = diagnosis::examine(port);
    let mut fixed = None;
    if fix {
        if !json {
            print(&in_words(&report))?;
        }
        let done = run_fixes(&report.findings, matches.get_flag("yes"), &mut io::stdin().lock());
        if !done.is_empty() {
            report = diagnosis::examine(port);
            if !json {
                print("\nAfter that:\n")?;
                print(&in_words(&report))?;
            }
        }
        fixed = Some(done);
    }
    if json {
        print_json(&in_json(&report, fixed.as_deref()))?;
    } else if !fix {
        print(&in_words(&report))?;
    }
    Ok(u8::from(!report.served()))
}

/// A step that was run, and its result.
type Done = (String, Result<(), StepError>);

/// Runs the safe fixes. Questions and messages are written to stderr, because stdout may be JSON.
fn run_fixes(findings: &[Finding], yes: bool, answers: &mut impl BufRead) -> Vec<Done> {
    let mut done = Vec::new();
    let mut seen: Vec<&Hint> = Vec::new();
    let wrong = findings.iter().filter(|finding| finding.verdict != Verdict::Ok);
    for (finding, hint) in wrong.filter_map(|finding| Some((finding, finding.hint.as_ref()?))) {
        // Two findings may have the same hint.
        let again = seen.iter().any(|other| other.steps == hint.steps);
        if !hint.safe || hint.steps.is_empty() || again {
            continue;
        }
        seen.push(hint);
        tell(&format!("{}: {}\n", finding.id, finding.meaning));
        if !hint.advice.is_empty() {
            tell(&format!("{}\n", hint.advice));
        }
        for step in &hint.steps {
            let question = if yes { "\n" } else { " - do it? [y/N] " };
            tell(&format!("{step}{question}"));
            if !yes && !is_yes(answers) {
                // Later steps depend on this one.
                break;
            }
            let result = step.apply(&Programs);
            if let Err(error) = &result {
                tell(&format!("failed: {}\n", chain(error)));
            }
            let failed = result.is_err();
            done.push((step.to_string(), result));
            if failed {
                break;
            }
        }
    }
    if seen.is_empty() {
        tell("there is no fix that is safe to run\n");
    }
    done
}

fn is_yes(answers: &mut impl BufRead) -> bool {
    let mut line = String::new();
    let read = answers.read_line(&mut line);
    read.is_ok() && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

fn tell(text: &str) {
    let mut stderr = io::stderr().lock();
    // If stderr is gone, there is nowhere to report it.
    stderr.write_all(text::lines(text).as_bytes()).and_then(|()| stderr.flush()).ok();
}

fn in_words(Report { findings, ways }: &Report) -> String {
    let mut text = String::new();
    for finding in findings {
        // Writing to a string cannot fail.
        write!(text, "{finding}").ok();
    }
    for Way { option, works, why, .. } in ways {
        writeln!(text, "way      {option}: {}: {why}", if *works { "yes" } else { "no" }).ok();
    }
    let (faults, warnings) = (count(findings, Verdict::Fault), count(findings, Verdict::Warning));
    let verdict =
        if faults == 0 { "a guest can be served" } else { "no guest can be served by --vsock" };
    writeln!(text, "{verdict}: {faults} faults, {warnings} warnings").ok();
    text
}

fn count(findings: &[Finding], verdict: Verdict) -> usize {
    findings.iter().filter(|finding| finding.verdict == verdict).count()
}

fn in_json(report: &Report, fixed: Option<&[Done]>) -> Value {
    let ways = report.ways.iter().map(|Way { id, option, works, why }| {
        json!({ "way": id, "option": option, "works": works, "why": why })
    });
    let ways: Vec<_> = ways.collect();
    let list: Vec<_> = report
        .findings
        .iter()
        .map(|Finding { id, verdict, checked, evidence, meaning, hint }| {
            let steps = hint.iter().flat_map(|hint| &hint.steps);
            let steps: Vec<_> = steps.map(ToString::to_string).collect();
            json!({
                "id": id,
                "verdict": verdict.word(),
                "checked": checked,
                "evidence": evidence,
                "meaning": meaning,
                "hint": hint.as_ref().map(ToString::to_string),
                "steps": steps,
                "safe": hint.as_ref().is_some_and(|hint| hint.safe),
            })
        })
        .collect();
    let mut object = json!({ "served": report.served(), "ways": ways, "findings": list });
    if let Some(fixed) = fixed {
        let step = |(step, result): &Done| {
            let error = result.as_ref().err().map(|error| chain(error).to_string());
            json!({ "step": step, "error": error })
        };
        object["fixed"] = fixed.iter().map(step).collect();
    }
    object
}

#[cfg(test)]
mod tests;
