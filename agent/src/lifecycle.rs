//! Hooks that are called when the agent is asked to reload, to report or to stop.
//!
//! Plugins and layers add hooks to a `Lifecycle` while they are built. `serve` calls them on its thread. A hook must
//! not block for long.

use std::{fmt, sync::Arc};

use tokio::sync::watch;

/// Called by `serve` at each event.
pub(crate) type Hook = Box<dyn Fn() + Send>;

/// All hooks of an agent.
#[derive(Default)]
pub(crate) struct Lifecycle {
    stop: Stop,
    reload: Vec<Hook>,
    report: Vec<Hook>,
    exit: Vec<Hook>,
}

impl Lifecycle {
    /// A handle that can stop the agent.
    pub(crate) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Adds a hook for HUP.
    pub(crate) fn at_reload(&mut self, hook: impl Fn() + Send + 'static) {
        self.reload.push(Box::new(hook));
    }

    /// Adds a hook for USR1.
    pub(crate) fn at_report(&mut self, hook: impl Fn() + Send + 'static) {
        self.report.push(Box::new(hook));
    }

    /// Adds a hook that is called once, when the last session is over.
    pub(crate) fn at_exit(&mut self, hook: impl Fn() + Send + 'static) {
        self.exit.push(Box::new(hook));
    }

    pub(crate) fn reload(&self) {
        self.reload.iter().for_each(|hook| hook());
    }

    pub(crate) fn report(&self) {
        self.report.iter().for_each(|hook| hook());
    }

    pub(crate) fn exit(&self) {
        self.exit.iter().for_each(|hook| hook());
    }
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = (self.reload.len(), self.report.len(), self.exit.len());
        f.debug_struct("Lifecycle").field("reload_report_exit", &count).finish_non_exhaustive()
    }
}

/// Stops the agent as TERM does. All clones stop the same agent.
#[derive(Debug, Clone)]
pub(crate) struct Stop(Arc<watch::Sender<Option<String>>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Stop {
    /// Stops the agent; `why` is logged. Only the first call has an effect.
    pub(crate) fn now(&self, why: impl Into<String>) {
        self.0.send_if_modified(|asked| {
            let first = asked.is_none();
            if first {
                *asked = Some(why.into());
            }
            first
        });
    }

    /// Waits until `now` is called, and returns its reason.
    pub(crate) async fn asked(&self) -> String {
        let mut watch = self.0.subscribe();
        // The sender lives as long as `self`, so the wait does not fail.
        let asked = watch.wait_for(Option::is_some).await.ok().and_then(|asked| asked.clone());
        asked.unwrap_or_default()
    }
}
