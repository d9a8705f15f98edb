//! What the command line says about who may connect: `--allow`, `--allow-cid`, `--access-file` and `--limit`.
//!
//! `cli` makes an `AccessConfig`. `plan` has it build its gates before the listeners are opened, and puts them around
//! the stack. The access file is read then, and again at HUP.

use std::{
    fs::File,
    io::{self, Read},
    path::{self, Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use human::chain;
use thiserror::Error;

use super::{
    Action, Caller, Changes, Denied, Gate, Limit, LineError, NeedsCertificate, Pass, Policy, Rule,
    Verdict, parse_file,
};
use crate::lifecycle::Lifecycle;

/// Longest access file, in bytes. A thousand guests with a line of a hundred letters each are a tenth of it.
const LONGEST: u64 = 1 << 20;

/// What the command line says about who may connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AccessConfig {
    /// `None`: neither `--allow` nor `--allow-cid` was given.
    pub allow: Option<Vec<Rule>>,
    /// `--access-file`.
    pub file: Option<PathBuf>,
    /// Most connections at once; 0 is no limit.
    pub limit: usize,
    /// Most connections at once from one CID; 0 is no limit.
    pub limit_per_cid: usize,
}

/// Why the gates of the command line cannot be built.
#[derive(Debug, Error)]
pub(crate) enum AccessConfigError {
    #[error("--access-file {} cannot be read", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error(
        "--access-file {} is not a regular file, and it has to be read again at HUP; name a regular file",
        .0.display()
    )]
    NotAFile(PathBuf),
    #[error("--access-file {} is longer than {LONGEST} bytes; use ranges and prefixes", .0.display())]
    TooLong(PathBuf),
    #[error("--access-file {}", .0.display())]
    Line(PathBuf, #[source] LineError),
    #[error(transparent)]
    Certificate(#[from] NeedsCertificate),
}

/// The gates of the command line.
#[derive(Debug, Default)]
pub(crate) struct ConfiguredGates {
    /// The rules. Asked before the gates of filters.
    pub first: Option<Arc<dyn Gate>>,
    /// The limits. Asked after the gates of filters, so that a client which is denied takes no place.
    pub last: Option<Arc<dyn Gate>>,
}

impl AccessConfig {
    /// Builds the gates, and reads the access file. The file is read again at each reload, and `changes` is told
    /// then. `certificates`: clients can show certificates.
    ///
    /// # Errors
    /// If the access file cannot be read or is wrong, or if a rule asks for a certificate that no client can show.
    pub(crate) fn gates(
        &self,
        lifecycle: &mut Lifecycle,
        changes: &Changes,
        certificates: bool,
    ) -> Result<ConfiguredGates, AccessConfigError> {
        let mut gates = ConfiguredGates::default();
        if self.limit > 0 || self.limit_per_cid > 0 {
            let words = ("--limit ", "--limit-per-cid ");
            gates.last = Some(Arc::new(Limit::new(self.limit, self.limit_per_cid, words)));
        }
        if self.allow.is_none() && self.file.is_none() {
            return Ok(gates);
        }
        let rules = Arc::new(RuleGate::new(self, certificates)?);
        if rules.file.is_some() {
            let rules = Arc::clone(&rules);
            let changes = changes.clone();
            lifecycle.at_reload(move || rules.reload(&changes));
        }
        gates.first = Some(rules);
        Ok(gates)
    }
}

/// Decides by the rules of the command line and of the access file as it was read last.
#[derive(Debug)]
struct RuleGate {
    allow: Vec<Rule>,
    /// Absolute, because the agent may have another working directory by the time of a HUP.
    file: Option<PathBuf>,
    /// The reason that is logged when no rule names the peer.
    unnamed: &'static str,
    /// Clients can show certificates.
    certificates: bool,
    policy: RwLock<Policy>,
}

impl RuleGate {
    fn new(config: &AccessConfig, certificates: bool) -> Result<Self, AccessConfigError> {
        let file = config.file.as_deref().map(|file| {
            path::absolute(file).map_err(|error| AccessConfigError::Read(file.into(), error))
        });
        let mut gate = Self {
            allow: config.allow.clone().unwrap_or_default(),
            file: file.transpose()?,
            unnamed: match (&config.allow, &config.file) {
                (Some(_), Some(_)) => "not named by --allow, --allow-cid or --access-file",
                (_, Some(_)) => "not named by --access-file",
                _ => "not named by --allow or --allow-cid",
            },
            certificates,
            policy: RwLock::new(Policy::open()),
        };
        let (policy, _) = gate.read()?;
        gate.policy = RwLock::new(policy);
        Ok(gate)
    }

    /// The policy by the file as it is now, and the number of rules in the file.
    fn read(&self) -> Result<(Policy, usize), AccessConfigError> {
        let mut policy = Policy::closed(self.unnamed);
        for rule in &self.allow {
            policy.add(Action::Allow, rule.clone(), rule.to_string());
        }
        self.check(&policy, "--allow")?;
        let mut count = 0;
        if let Some(path) = &self.file {
            let lines = parse_file(&read(path)?)
                .map_err(|error| AccessConfigError::Line(path.clone(), error))?;
            for line in lines {
                for rule in line.rules {
                    let words = format!("deny {rule} (line {} of --access-file)", line.number);
                    policy.add(line.action, rule, words);
                    count += 1;
                }
            }
            self.check(&policy, "--access-file")?;
        }
        Ok((policy, count))
    }

    fn check(&self, policy: &Policy, option: &'static str) -> Result<(), NeedsCertificate> {
        let error = NeedsCertificate::of(policy, option).filter(|_| !self.certificates);
        error.map_or(Ok(()), Err)
    }

    /// Runs at HUP. A file that has become wrong changes nothing.
    fn reload(&self, changes: &Changes) {
        match self.read() {
            Ok((policy, count)) => {
                *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
                let path = self.file.as_deref().unwrap_or_else(|| Path::new("")).display();
                tracing::info!(
                    "access rules read again: {count} in {path}; connections that they deny are closed"
                );
                changes.tell();
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!("the access rules stay as they were: {error}");
            }
        }
    }
}

fn read(path: &Path) -> Result<String, AccessConfigError> {
    let failed = |error| AccessConfigError::Read(path.into(), error);
    // Asked before the file is opened, because opening a pipe waits for its other end.
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(AccessConfigError::NotAFile(path.into()));
    }
    let mut text = String::new();
    let size = File::open(path).and_then(|it| it.take(LONGEST + 1).read_to_string(&mut text));
    if size.map_err(failed)? as u64 > LONGEST {
        return Err(AccessConfigError::TooLong(path.into()));
    }
    Ok(text)
}

impl Gate for RuleGate {
    fn admit(&self, caller: &Caller<'_>) -> Result<Pass, Denied> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).admit(caller)
    }

    fn judge(&self, caller: &Caller<'_>) -> Verdict {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).decide(caller)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vsock_cid::Cid;

    use super::*;
    use crate::{
        access::{parse_cids, parse_list},
        peer::Peer,
    };

    fn gates_of(
        config: &AccessConfig,
        lifecycle: &mut Lifecycle,
    ) -> Result<Vec<Arc<dyn Gate>>, String> {
        config
            .gates(lifecycle, &Changes::default(), false)
            .map(|gates| gates.first.into_iter().chain(gates.last).collect())
            .map_err(|error| chain(&error).to_string())
    }

    /// The CIDs up to 9 that all gates let in.
    fn let_in(gates: &[Arc<dyn Gate>]) -> Vec<u32> {
        let passes = |cid: &u32| {
            let peer = Peer::Vsock { cid: Cid::new(*cid), port: 1, to: Cid::HOST };
            gates.iter().all(|gate| gate.admit(&Caller::new(&peer, &|| None)).is_ok())
        };
        (0..10).filter(passes).collect()
    }

    #[test]
    fn without_options_there_is_no_gate() {
        let mut lifecycle = Lifecycle::default();
        assert_eq!(gates_of(&AccessConfig::default(), &mut lifecycle).unwrap().len(), 0);
    }

    #[test]
    fn a_peer_that_no_rule_names_is_refused() {
        let mut lifecycle = Lifecycle::default();
        let mut allow = parse_list("vsock-cid:1").unwrap();
        allow.extend(parse_cids("3,5-6").unwrap());
        let config = AccessConfig { allow: Some(allow), ..AccessConfig::default() };
        let gates = gates_of(&config, &mut lifecycle).unwrap();
        assert_eq!(let_in(&gates), [1, 3, 5, 6]);
        let denied = gates[0].admit(&Caller::new(&Peer::Pipe, &|| None)).unwrap_err();
        assert_eq!(denied.rule, "not named by --allow or --allow-cid");
    }

    #[test]
    fn the_file_is_read_again_and_a_wrong_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules");
        let config = AccessConfig {
            allow: Some(parse_cids("9").unwrap()),
            file: Some(path.clone()),
            ..AccessConfig::default()
        };
        let mut lifecycle = Lifecycle::default();
        let error = gates_of(&config, &mut lifecycle).unwrap_err();
        assert!(error.contains("--access-file") && error.contains("No such file"), "{error}");

        fs::write(&path, "deny vsock-cid:4\nvsock-guest:3-6").unwrap();
        let gates = gates_of(&config, &mut lifecycle).unwrap();
        assert_eq!(let_in(&gates), [3, 5, 6, 9]);
        for wrong in ["vsock-cid:x", "dn:CN=me", "any\u{0}"] {
            fs::write(&path, wrong).unwrap();
            lifecycle.reload();
            assert_eq!(let_in(&gates), [3, 5, 6, 9], "{wrong}");
        }
        fs::remove_file(&path).unwrap();
        lifecycle.reload();
        assert_eq!(let_in(&gates), [3, 5, 6, 9]);
        fs::write(&path, "# nobody\n").unwrap();
        lifecycle.reload();
        assert_eq!(let_in(&gates), [9]);
    }

    #[test]
    fn an_access_file_that_cannot_be_read_again_is_refused() {
        let mut lifecycle = Lifecycle::default();
        for (path, part) in [
            ("/dev/null", "not a regular file"),
            ("/", "not a regular file"),
            ("", "cannot be read"),
        ] {
            let config = AccessConfig { file: Some(path.into()), ..AccessConfig::default() };
            let error = gates_of(&config, &mut lifecycle).unwrap_err();
            assert!(error.contains(part), "{path}: {error}");
        }
    }
}
