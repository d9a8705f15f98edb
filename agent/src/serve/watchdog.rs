//! Tells systemd that the agent works, as long as all its threads do: sd_watchdog_enabled(3).

use tokio::time::{MissedTickBehavior, interval};

use super::{Engine, status::notify};
use crate::sys::process;

/// Notifies the watchdog at half the interval that systemd requires. Never returns. Without a watchdog it only waits.
/// If a thread hangs it stops notifying, and systemd restarts the agent.
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
