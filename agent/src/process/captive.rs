//! The command of `--run`: the shell runs it beside the agent, with variables that say where the agent listens. When it
//! ends, the agent ends.
//!
//! nbdkit-captive(1) describes the variables and the meaning of the exit status.

use std::{
    ffi::OsString,
    io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        process::ExitStatusExt,
    },
    path::PathBuf,
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

use super::Parent;
use crate::{
    lifecycle::{Lifecycle, Stop},
    serve::{Ended, Signals},
    sys::parent::Tree,
};

/// How long the command has to end after TERM when the agent's parent has gone.
const GRACE: Duration = Duration::from_secs(2);
/// Time between two checks whether the command has ended.
const PAUSE: Duration = Duration::from_millis(10);
/// The exit status of a process that TERM has ended.
const TERMINATED: u8 = 128 + 15;

/// The shell variables that describe the agent. A `None` is set and empty. The variables of TLS are unset instead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Variables {
    /// The value of `$uri` and `$nbd`.
    pub uri: String,
    pub export_name: String,
    /// The port of TCP or vsock.
    pub port: Option<u32>,
    pub unix_socket: Option<PathBuf>,
    /// 1 if TLS is on, 2 if it is required.
    pub tls: Option<u8>,
    pub tls_certificates: Option<PathBuf>,
    pub tls_psk: Option<PathBuf>,
}

impl Variables {
    /// The lines that set the variables, followed by `command`.
    fn script(&self, command: &str) -> OsString {
        let number = |number: u32| OsString::from(number.to_string());
        let path = |path: &Option<PathBuf>| path.clone().map(OsString::from);
        let uri = OsString::from(&self.uri);
        let set = OsString::default;
        let mut script = Vec::new();
        for (name, value) in [
            ("uri", Some(uri.clone())),
            ("nbd", Some(uri)),
            ("exportname", Some((&self.export_name).into())),
            ("port", Some(self.port.map_or_else(set, number))),
            ("unixsocket", Some(path(&self.unix_socket).unwrap_or_default())),
            ("tls", self.tls.map(|tls| number(tls.into()))),
            ("tls_certificates", path(&self.tls_certificates)),
            ("tls_psk", path(&self.tls_psk)),
        ] {
            if let Some(value) = value {
                script.extend(name.as_bytes());
                script.push(b'=');
                quote(value.as_bytes(), &mut script);
            } else {
                // The environment may contain a variable of that name.
                script.extend(b"unset ");
                script.extend(name.as_bytes());
            }
            script.push(b'\n');
        }
        script.extend(command.as_bytes());
        OsString::from_vec(script)
    }
}

/// Quotes any bytes as one word for the shell.
fn quote(value: &[u8], into: &mut Vec<u8>) {
    into.push(b'\'');
    for &byte in value {
        match byte {
            b'\'' => into.extend(br"'\''"),
            byte => into.push(byte),
        }
    }
    into.push(b'\'');
}

/// The running command.
#[derive(Debug)]
pub(crate) struct Captive {
    id: Pid,
    end: JoinHandle<io::Result<ExitStatus>>,
}

impl Captive {
    /// Starts the command with this process's stdin, stdout, stderr and user. `stop` is called when it ends. Call it on
    /// a runtime that lives as long as the command.
    pub(crate) fn start(command: &str, variables: &Variables, stop: Stop) -> io::Result<Self> {
        // Registered before there is a child, so that its end is not missed.
        let mut ends = signal(SignalKind::child())?;
        let mut child = Command::new("/bin/sh")
            .arg("-c")
            .arg(variables.script(command))
            // These variables concern the agent and not its children.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .spawn()?;
        let id = Pid::from_raw(child.id().cast_signed());
        let end = tokio::spawn(async move {
            let status = loop {
                match child.try_wait() {
                    Ok(Some(status)) => break Ok(status),
                    Ok(None) => ends.recv().await,
                    Err(error) => break Err(error),
                };
            };
            stop.now("the command of --run has ended");
            status
        });
        Ok(Self { id, end })
    }

    /// After the agent has served: waits until the command ends by itself, as nbdkit does even when it is killed, and
    /// returns the exit status. A second signal to the agent is passed on as TERM, without waiting. If `parent` has
    /// gone (`--exit-with-parent`), the command and all processes that it has started are ended.
    pub(crate) async fn outlast(
        mut self,
        served: Ended,
        parent: Option<Parent>,
        signals: &mut Signals,
        lifecycle: &Lifecycle,
    ) -> u8 {
        let orphaned = parent.is_some_and(|parent| parent.0.is_gone());
        if orphaned && !self.end.is_finished() {
            tracing::info!("the parent of agent has ended, and so the command of --run is ended");
            self.end_all().await;
            return TERMINATED;
        }
        if served == Ended::InOrder {
            if !self.end.is_finished() {
                tracing::info!("waiting for the command of --run to end");
            }
            tokio::select! {
                status = self.ended() => return status,
                name = signals.stop(lifecycle) => tracing::warn!("{name}: the command of --run is ended"),
            }
        }
        TERMINATED
    }

    /// Sends TERM to the whole process tree, and KILL to the processes that remain.
    async fn end_all(&mut self) {
        let mut tree = Tree::of(self.id);
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            tree.freeze();
            if let Err(error) = tree.signal(signal) {
                tracing::warn!("--run: a process of the command cannot be sent {signal}: {error}");
            }
            tree.signal(Signal::SIGCONT).ok();
            let end = Instant::now() + GRACE;
            while !tree.has_ended() && Instant::now() < end {
                tokio::time::sleep(PAUSE).await;
                tree.grow();
            }
        }
    }

    /// Waits for the end of the command. Returns the agent's exit status: that of the command, or 128 plus the number
    /// of the signal that ended it. The future can be dropped without losing the status.
    async fn ended(&mut self) -> u8 {
        match (&mut self.end).await {
            Ok(Ok(status)) => code(status),
            Ok(Err(error)) => {
                tracing::error!("--run: the command cannot be waited for: {error}");
                1
            }
            Err(_) => 1,
        }
    }
}

impl Drop for Captive {
    /// Ends the command if it still runs.
    fn drop(&mut self) {
        if !self.end.is_finished()
            && let Err(error) = Tree::of(self.id).signal(Signal::SIGTERM)
        {
            tracing::warn!("--run: TERM cannot be sent to the command, which continues: {error}");
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| {
        let signal = status.signal().unwrap_or_default();
        tracing::warn!("the command of --run was killed by signal {signal}");
        128 + signal
    });
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    /// The output of a real shell that runs the script.
    fn said(variables: &Variables, command: &str) -> Vec<u8> {
        let script = variables.script(command);
        Command::new("/bin/sh").arg("-c").arg(script).env("tls", "7").output().unwrap().stdout
    }

    #[test]
    fn the_shell_gets_every_byte_and_nothing_runs() {
        let strange = "a'b\"c$HOME`touch x`\\ *?\n;exit 3 & \u{fc}";
        let path = PathBuf::from(OsStr::from_bytes(b"/s \xff'"));
        let variables = Variables {
            uri: strange.into(),
            export_name: strange.into(),
            port: Some(u32::MAX),
            unix_socket: Some(path.clone()),
            tls: Some(2),
            tls_certificates: Some(path),
            tls_psk: None,
        };
        let text = said(
            &variables,
            r#"printf '%s|' "$uri" "$nbd" "$exportname" "$port" "$unixsocket" "$tls" "$tls_certificates" "${tls_psk-unset}""#,
        );
        let parts: Vec<&[u8]> = text.split(|byte| *byte == b'|').collect();
        let strange = strange.as_bytes();
        let path: &[u8] = b"/s \xff'";
        assert_eq!(
            parts,
            [strange, strange, strange, b"4294967295", path, b"2", path, b"unset", b""]
        );
    }

    #[test]
    fn without_tls_its_variables_are_unset_whatever_the_environment_has() {
        let text = said(&Variables::default(), "echo \"${tls-unset} [$port] [$unixsocket]\"");
        assert_eq!(text, b"unset [] []\n");
    }
}
