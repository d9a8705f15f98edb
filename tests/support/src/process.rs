//! Processes, as /proc and their output show them.

use std::{
    fs,
    path::Path,
    process::{Child, Command, ExitStatus, Output},
    time::Duration,
};

use crate::until;

/// A number from `/proc/PID/status`: `VmRSS` in KiB, `Threads`.
pub fn status(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = value.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {key} in {text}"))
}

/// How many entries a directory of `/proc/PID` has: open descriptors in `fd`, threads in `task`.
pub fn count(pid: u32, directory: &str) -> usize {
    fs::read_dir(format!("/proc/{pid}/{directory}")).expect("a running process").count()
}

/// The processor time that a process has used so far, in steps of 10 ms.
pub fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let fields = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(|n| n.parse::<u64>().expect("a number")).sum();
    // USER_HZ is 100 wherever Linux runs.
    Duration::from_millis(ticks * 10)
}

/// Whether a process exists that is no zombie.
pub fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|text| !text.contains("State:\tZ"))
}

/// Waits for the end of `child` until the deadline, and kills it then.
pub fn ended(child: &mut Child) -> ExitStatus {
    let pid = child.id();
    let mut status = None;
    until(&format!("the end of process {pid}"), || {
        status = child.try_wait().expect("a child");
        status.is_some()
    });
    status.expect("the child has ended")
}

/// Runs a client to its end. `package` is the Debian package that has it.
pub fn run(program: &str, package: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap_or_else(|error| {
        panic!("cannot run {program}: {error}; install the Debian package {package}")
    })
}

/// Runs a client that has to succeed, and returns its standard output.
pub fn succeeds(program: &str, package: &str, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = run(program, package, args);
    let text = String::from_utf8_lossy(&stdout).into_owned();
    let errors = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{program} {args:?}: {status}\n{text}{errors}");
    text
}

/// Runs a program that must not start to serve: its exit code and its standard error. Standard output has to stay
/// empty.
pub fn fails(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().expect("a program");
    assert!(stdout.is_empty(), "nothing is printed on stdout");
    (status.code().expect("an exit code"), String::from_utf8(stderr).expect("UTF-8"))
}

/// As [`fails`], for a program and words that are split at spaces.
pub fn fails_with(program: &str, words: &str) -> (i32, String) {
    fails(Command::new(program).args(words.split_whitespace()))
}

/// Runs a program that must refuse its words by one line of error and exit code 1; the line.
pub fn refused(command: &mut Command) -> String {
    let (code, stderr) = fails(command);
    assert_eq!((code, stderr.lines().count()), (1, 1), "{command:?}: {stderr}");
    stderr
}

/// As [`refused`], for a program and words that are split at spaces. The line has to contain `part`.
pub fn assert_refuses(program: &str, words: &str, part: &str) {
    let line = refused(Command::new(program).args(words.split_whitespace()));
    assert!(line.contains(part), "{words}: {line}");
}

/// What `client`, a shell command, prints as the `--run` of a server that has nbdkit's command line. It connects to
/// `$uri`.
pub fn printed_by_client(server: &str, words: &[&str], client: &str) -> String {
    succeeds(server, "nbdkit", &[words, &["-U", "-", "--run", client]].concat())
}

/// Runs a script of Python with libnbd, which has to succeed; what it prints.
pub fn python(script: &str, args: &[&str]) -> String {
    // Debian's own Python has the package; another one may stand first in PATH.
    succeeds("/usr/bin/python3", "python3-libnbd", &[&["-c", script], args].concat())
}

/// Waits until a file has the number of a process and a line end, as `echo $$` writes them; the number.
pub fn pid_in(path: &Path) -> u32 {
    let mut text = String::new();
    until(&format!("a process writes its number to {}", path.display()), || {
        text = fs::read_to_string(path).unwrap_or_default();
        text.ends_with('\n')
    });
    text.trim().parse().expect("a number")
}

/// Waits until a process that need not be a child has ended.
pub fn assert_ends(pid: u32) {
    until(&format!("process {pid} ends"), || !is_running(pid));
}
