//! Tells systemd that the agent is well, as long as all its threads are: sd_watchdog_enabled(3).

use tokio::time::{MissedTickBehavior, interval};

use super::{Engine, status::notify};
use crate::sys::process;

/// Says so at half the time that systemd waits, for ever; at once for ever where nobody wants to
/// know. Where a thread hangs it says nothing more, and systemd starts the agent again.
pub(super) async fn pings(engine: &Engine) {
    let Some(patience) = process::watchdog() else { return std::future::pending().await };
    let mut ticks = interval(patience / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        engine.answers().await;
        notify("WATCHDOG=1");
    }
}
