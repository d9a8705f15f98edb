//! The gates of the command line: `--allow`, `--allow-cid`, `--access-file` and `--limit`.
//!
//! `plan` puts them up before the listeners are opened; the file is read then, and again at HUP.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use thiserror::Error;

use crate::{
    access::{
        Action, Caller, Changes, Denied, Gate, Limit, LineError, NeedsCertificate, Pass, Policy,
        Rule, Verdict, parse_file,
    },
    causes::chain,
    lifecycle::Lifecycle,
    stack::Stack,
    tenant::Limits,
};

/// Longest access file, bytes. A thousand guests with a line of a hundred letters are a tenth.
const LONGEST: u64 = 1 << 20;

/// What the command line says about who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// `None`: neither `--allow` nor `--allow-cid` was given.
    pub allow: Option<Vec<Rule>>,
    /// `--access-file`.
    pub file: Option<PathBuf>,
    /// Most connections at once; 0 is no limit.
    pub limit: usize,
    /// Most connections at once from one CID; 0 is no limit.
    pub limit_per_cid: usize,
    /// Most connections at once of one tenant; 0 is no limit.
    pub limit_per_tenant: usize,
}

impl Default for Admission {
    fn default() -> Self {
        let limit_per_tenant = Limits::default().connections;
        Self { allow: None, file: None, limit: 0, limit_per_cid: 0, limit_per_tenant }
    }
}

/// Why the gates cannot be put up.
#[derive(Debug, Error)]
pub enum AdmissionError {
    #[error("--access-file {} cannot be read", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error(
        "--access-file {} is not a regular file, and it has to be read again at HUP; name one that is",
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

impl Admission {
    /// Puts the gates before and behind those that `stack` has. The limits are asked last: who is
    /// denied anyway takes no place. `changes` is told when the file has been read again. Without
    /// `certificates` no client can show one.
    pub fn guard(
        &self,
        mut stack: Stack,
        lifecycle: &mut Lifecycle,
        changes: &Changes,
        certificates: bool,
    ) -> Result<Stack, AdmissionError> {
        let needy = stack.gates.iter().find_map(|gate| gate.needs_certificate());
        if let Some(error) = needy.filter(|_| !certificates) {
            return Err(error.into());
        }
        if self.limit > 0 || self.limit_per_cid > 0 {
            let words = ("--limit ", "--limit-per-cid ");
            stack.gates.push(Arc::new(Limit::new(self.limit, self.limit_per_cid, words)));
        }
        if self.allow.is_none() && self.file.is_none() {
            return Ok(stack);
        }
        let list = Arc::new(List::new(self, certificates)?);
        if list.file.is_some() {
            let list = Arc::clone(&list);
            let changes = changes.clone();
            lifecycle.at_reload(move || list.reload(&changes));
        }
        Ok(stack.with_first_gate(list))
    }
}

/// Who may come in, by the command line and the file as it was read last.
#[derive(Debug)]
struct List {
    allow: Vec<Rule>,
    /// Absolute: the agent may be elsewhere by the time of a HUP.
    file: Option<PathBuf>,
    /// What is said to whom nothing names.
    last: String,
    /// Clients can show some.
    certificates: bool,
    policy: RwLock<Policy>,
}

impl List {
    fn new(words: &Admission, certificates: bool) -> Result<Self, AdmissionError> {
        let file = words.file.as_deref().map(|path| {
            std::path::absolute(path).map_err(|error| AdmissionError::Read(path.into(), error))
        });
        let mut list = Self {
            allow: words.allow.clone().unwrap_or_default(),
            file: file.transpose()?,
            last: match (&words.allow, &words.file) {
                (Some(_), Some(_)) => "not named by --allow, --allow-cid or --access-file",
                (_, Some(_)) => "not named by --access-file",
                _ => "not named by --allow or --allow-cid",
            }
            .into(),
            certificates,
            policy: RwLock::new(Policy::open()),
        };
        let (policy, _) = list.read()?;
        list.policy = RwLock::new(policy);
        Ok(list)
    }

    /// The policy as the file says now, and how many rules the file has.
    fn read(&self) -> Result<(Policy, usize), AdmissionError> {
        let mut policy = Policy::closed(&*self.last);
        for rule in &self.allow {
            policy.add(Action::Allow, rule.clone(), rule.to_string());
        }
        self.check(&policy, "--allow")?;
        let mut count = 0;
        if let Some(path) = &self.file {
            let lines = parse_file(&read(path)?)
                .map_err(|error| AdmissionError::Line(path.clone(), error))?;
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

    /// At HUP. A file that has become wrong changes nothing.
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

fn read(path: &Path) -> Result<String, AdmissionError> {
    let failed = |error| AdmissionError::Read(path.into(), error);
    // Before it is opened: to open a pipe waits for its other end.
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(AdmissionError::NotAFile(path.into()));
    }
    let mut text = String::new();
    let size = File::open(path).and_then(|it| it.take(LONGEST + 1).read_to_string(&mut text));
    if size.map_err(failed)? as u64 > LONGEST {
        return Err(AdmissionError::TooLong(path.into()));
    }
    Ok(text)
}

impl Gate for List {
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

    use super::*;
    use crate::{
        access::{parse_cids, parse_list},
        exports::Single,
        peer::Peer,
    };
    use disk::NullDisk;

    fn guarded(words: &Admission, lifecycle: &mut Lifecycle) -> Result<Vec<Arc<dyn Gate>>, String> {
        let stack = Stack::new(Single(Arc::new(NullDisk::new(0))));
        words
            .guard(stack, lifecycle, &Changes::default(), false)
            .map(|stack| stack.gates)
            .map_err(|error| chain(&error).to_string())
    }

    /// The CIDs up to 9 that are let in.
    fn let_in(gates: &[Arc<dyn Gate>]) -> Vec<u32> {
        let passes = |cid: &u32| {
            let peer = Peer::Vsock { cid: *cid, port: 1, to: 2 };
            gates.iter().all(|gate| gate.admit(&Caller::new(&peer, &|| None)).is_ok())
        };
        (0..10).filter(passes).collect()
    }

    #[test]
    fn without_words_there_is_no_gate() {
        let mut lifecycle = Lifecycle::default();
        assert_eq!(guarded(&Admission::default(), &mut lifecycle).unwrap().len(), 0);
    }

    #[test]
    fn what_is_not_named_is_refused() {
        let mut lifecycle = Lifecycle::default();
        let mut allow = parse_list("vsock-cid:1").unwrap();
        allow.extend(parse_cids("3,5-6").unwrap());
        let words = Admission { allow: Some(allow), ..Admission::default() };
        let gates = guarded(&words, &mut lifecycle).unwrap();
        assert_eq!(let_in(&gates), [1, 3, 5, 6]);
        let denied = gates[0].admit(&Caller::new(&Peer::Pipe, &|| None)).unwrap_err();
        assert_eq!(denied.rule, "not named by --allow or --allow-cid");
    }

    #[test]
    fn the_file_is_read_again_and_a_wrong_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules");
        let words = Admission {
            allow: Some(parse_cids("9").unwrap()),
            file: Some(path.clone()),
            ..Admission::default()
        };
        let mut lifecycle = Lifecycle::default();
        let error = guarded(&words, &mut lifecycle).unwrap_err();
        assert!(error.contains("--access-file") && error.contains("No such file"), "{error}");

        fs::write(&path, "deny vsock-cid:4\nvsock-guest:3-6").unwrap();
        let gates = guarded(&words, &mut lifecycle).unwrap();
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
    fn what_cannot_be_read_again_is_no_access_file() {
        let mut lifecycle = Lifecycle::default();
        for (path, part) in [
            ("/dev/null", "not a regular file"),
            ("/", "not a regular file"),
            ("", "cannot be read"),
        ] {
            let words = Admission { file: Some(path.into()), ..Admission::default() };
            let error = guarded(&words, &mut lifecycle).unwrap_err();
            assert!(error.contains(part), "{path}: {error}");
        }
    }
}
