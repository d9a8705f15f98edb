//! The agent as a process: background or parent, user and group, memory, and the command of `--run`.
//!
//! `cli` makes the settings. `plan` calls these steps in order. Nothing here serves clients.

mod captive;

use std::io;

use thiserror::Error;

pub(crate) use self::captive::{Captive, Variables};
use crate::{
    listen::Listener,
    sys::{
        self,
        fork::{self, Forked},
        user::{Account, NotFound},
    },
};

/// Settings of the process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Process {
    pub background: bool,
    /// `--exit-with-parent`
    pub with_parent: bool,
    pub user: Option<String>,
    pub group: Option<String>,
    /// `--swap`: lock the process's memory.
    pub swap: bool,
    /// The label for the listening sockets.
    pub selinux_label: Option<String>,
    /// The shell command of `--run`.
    pub command: Option<String>,
}

/// Which process this is after `Process::part`.
#[derive(Debug)]
pub(crate) enum Parted {
    /// The process that does the work. It reports to `Background` when it is ready.
    Working(Option<Background>),
    /// The process that the user started. It ends with this status when the other one is ready or has failed.
    Over(u8),
}

/// The process whose end also ends the agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parent(sys::parent::Parent);

/// Reports to the waiting process.
#[derive(Debug)]
pub(crate) struct Background(fork::Background);

/// Why a setting of the process failed.
#[derive(Debug, Error)]
pub(crate) enum ProcessError {
    #[error("--background: cannot make a second process")]
    Fork(#[source] io::Error),
    #[error("--background: cannot leave the terminal")]
    Detach(#[source] io::Error),
    #[error("--exit-with-parent: the kernel does not tell of the parent's end")]
    Parent(#[source] io::Error),
    #[error("--exit-with-parent: the process that started agent has ended already")]
    Orphan,
    #[error(
        "{option} '{name}': there is no such {kind}; give a name or a number ('getent {database}' lists them)"
    )]
    NoAccount { option: &'static str, name: String, kind: &'static str, database: &'static str },
    #[error(
        "-u/--user {name}: the number belongs to no user, so that its group is not known; add -g GROUP"
    )]
    GroupOfUser { name: String },
    #[error("{options}: the user database cannot be read")]
    Accounts { options: String, source: io::Error },
    #[error("{options}: cannot change to it; only root may: start agent as root, or leave it out")]
    Change { options: String, source: io::Error },
    #[error(
        "--selinux-label: SELinux is not enabled on this machine, so that no socket can have a label; \
         leave it out"
    )]
    NoSelinux,
    #[error(
        "--selinux-label '{label}': the kernel refuses it; is it a label of the loaded policy?"
    )]
    Label { label: String, source: io::Error },
    #[error(
        "--swap: cannot lock the process into memory; start agent as root, or raise RLIMIT_MEMLOCK \
         (LimitMEMLOCK=infinity, 'ulimit -l unlimited')"
    )]
    Lock(#[source] io::Error),
    #[error("--run: cannot start /bin/sh")]
    Command(#[source] io::Error),
}

impl Process {
    /// Moves to the background, if that was asked for. Must be called before any thread runs.
    pub(crate) fn part(&self) -> Result<Parted, ProcessError> {
        if !self.background {
            return Ok(Parted::Working(None));
        }
        Ok(match fork::fork_once().map_err(ProcessError::Fork)? {
            Forked::Parent(waiting) => Parted::Over(waiting.wait().map_err(ProcessError::Fork)?),
            Forked::Child(background) => Parted::Working(Some(Background(background))),
        })
    }

    /// Checks what can be checked before anything is opened, and looks up the account to change to.
    pub(crate) fn check(&self) -> Result<Option<Change>, ProcessError> {
        self.follow_parent()?;
        if self.selinux_label.is_some() && !sys::selinux::is_enabled() {
            return Err(ProcessError::NoSelinux);
        }
        let (user, group) = (self.user.as_deref(), self.group.as_deref());
        let found = sys::user::find(user, group)
            .map_err(|source| ProcessError::Accounts { options: self.account(), source })?;
        let name = |name: Option<&str>| name.unwrap_or_default().to_owned();
        match found {
            Ok(account) => Ok(account.map(|account| Change { account, options: self.account() })),
            Err(NotFound::User) => Err(ProcessError::NoAccount {
                option: "-u/--user",
                name: name(user),
                kind: "user",
                database: "passwd",
            }),
            Err(NotFound::Group) => Err(ProcessError::NoAccount {
                option: "-g/--group",
                name: name(group),
                kind: "group",
                database: "group",
            }),
            Err(NotFound::GroupOfUser) => Err(ProcessError::GroupOfUser { name: name(user) }),
        }
    }

    /// Makes this process end with its parent from now on, if that was asked for. A change of the user undoes this.
    pub(crate) fn follow_parent(&self) -> Result<Option<Parent>, ProcessError> {
        if !self.with_parent {
            return Ok(None);
        }
        match sys::parent::Parent::end_with() {
            Ok(Some(parent)) => Ok(Some(Parent(parent))),
            Ok(None) => Err(ProcessError::Orphan),
            Err(error) => Err(ProcessError::Parent(error)),
        }
    }

    /// Runs `bind` so that the sockets it makes have the label. Nothing else on this thread may make sockets meanwhile.
    pub(crate) async fn labelled<T>(
        &self,
        bind: impl Future<Output = T>,
    ) -> Result<T, ProcessError> {
        let Some(label) = &self.selinux_label else { return Ok(bind.await) };
        let refused = |source| ProcessError::Label { label: label.clone(), source };
        sys::selinux::label_sockets(Some(label)).map_err(refused)?;
        let bound = bind.await;
        sys::selinux::label_sockets(None).map_err(refused)?;
        Ok(bound)
    }

    /// Locks the process's memory, if that was asked for.
    pub(crate) fn lock(&self) -> Result<(), ProcessError> {
        if !self.swap {
            return Ok(());
        }
        sys::memory::lock_all().map_err(ProcessError::Lock)
    }

    /// Protects this process as far as possible from the kernel's OOM killer, if `--swap` was given. Processes started
    /// later inherit the protection.
    pub(crate) fn spare(&self) {
        if self.swap
            && let Err(error) = sys::memory::spare_from_oom()
        {
            tracing::warn!("--swap: when memory runs out, the kernel may kill agent: {error}");
        }
    }

    /// The options that name the account, as they were given.
    fn account(&self) -> String {
        let user = self.user.iter().map(|name| format!("-u/--user {name}"));
        user.chain(self.group.iter().map(|name| format!("-g/--group {name}")))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// The user and group to change to.
#[derive(Debug)]
pub(crate) struct Change {
    account: Account,
    options: String,
}

impl Change {
    /// Changes to the account, for good. The files that the listeners must remove at exit are given to it if the
    /// listeners made them for their own use. Files that it will not be able to remove are logged.
    pub(crate) fn make(self, listeners: &[Listener]) -> Result<(), ProcessError> {
        let Self { account, options } = self;
        for listener in listeners {
            if let Err(error) = listener.hand_over(account.uid(), account.gid()) {
                tracing::debug!("{listener} is not given away: {error}");
            }
        }
        account.assume().map_err(|source| ProcessError::Change { options, source })?;
        for listener in listeners {
            if let Some(path) = listener.left_behind() {
                tracing::warn!(
                    "the socket {} will stay behind at the end: the new user may not remove it there",
                    path.display()
                );
            }
        }
        Ok(())
    }
}

impl Background {
    /// Leaves the terminal and lets the waiting process exit with status 0.
    pub(crate) fn detach(self, keep_stderr: bool) -> Result<(), ProcessError> {
        self.0.detach(keep_stderr).map_err(ProcessError::Detach)
    }
}
