//! What is called when the agent is told something: to read its files again, to report, to stop.
//!
//! Plugins and layers put lifecycle in while they are built; `serve` calls them on its thread. A hook
//! must not wait for long.

use std::{fmt, sync::Arc};

use tokio::sync::watch;

/// Called by `serve`, each time.
pub type Hook = Box<dyn Fn() + Send>;

/// Every hook of an agent.
#[derive(Default)]
pub struct Lifecycle {
    stop: Stop,
    reload: Vec<Hook>,
    report: Vec<Hook>,
    exit: Vec<Hook>,
}

impl Lifecycle {
    /// Lets its holder stop the agent.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// At HUP.
    pub fn at_reload(&mut self, hook: impl Fn() + Send + 'static) {
        self.reload.push(Box::new(hook));
    }

    /// At USR1.
    pub fn at_report(&mut self, hook: impl Fn() + Send + 'static) {
        self.report.push(Box::new(hook));
    }

    /// Once, when the last session is over.
    pub fn at_exit(&mut self, hook: impl Fn() + Send + 'static) {
        self.exit.push(Box::new(hook));
    }

    pub fn reload(&self) {
        self.reload.iter().for_each(|hook| hook());
    }

    pub fn report(&self) {
        self.report.iter().for_each(|hook| hook());
    }

    pub fn exit(&self) {
        self.exit.iter().for_each(|hook| hook());
    }
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = (self.reload.len(), self.report.len(), self.exit.len());
        f.debug_struct("Lifecycle").field("reload_report_exit", &count).finish_non_exhaustive()
    }
}

/// Stops the agent as TERM does; all clones stop the same one.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<Option<String>>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Stop {
    /// Stops; `why` stands in the log. Only the first counts.
    pub fn now(&self, why: impl Into<String>) {
        self.0.send_if_modified(|asked| {
            let first = asked.is_none();
            if first {
                *asked = Some(why.into());
            }
            first
        });
    }

    /// Waits until somebody says so, and says why.
    pub async fn asked(&self) -> String {
        let mut watch = self.0.subscribe();
        // The sender lives as long as `self`: there is always an answer in the end.
        let asked = watch.wait_for(Option::is_some).await.ok().and_then(|asked| asked.clone());
        asked.unwrap_or_default()
    }
}
