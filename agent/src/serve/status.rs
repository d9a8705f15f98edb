//! Reports the agent's state to systemd, for `systemctl status`: sd_notify(3), STATUS=.

use std::time::Duration;

use super::Engine;
use crate::sys::process;

/// The minimum interval between two reports.
const PAUSE: Duration = Duration::from_secs(1);

/// Reports the number of connections whenever it changes. Never returns. Reports nothing if there is no service
/// manager.
pub(super) async fn tell(engine: &Engine) {
    if !process::has_manager() {
        return std::future::pending().await;
    }
    loop {
        let status = match engine.sessions() {
            0 => "STATUS=Serving; no connections".into(),
            1 => "STATUS=Serving 1 connection".into(),
            many => format!("STATUS=Serving {many} connections"),
        };
        notify(&status);
        tokio::time::sleep(PAUSE).await;
        engine.changed.notified().await;
    }
}

/// Reloads, as systemd.service(5) describes for `Type=notify-reload`. With `Type=notify` the unit shows as reloading
/// until it is done.
pub(super) fn reloading(reload: impl FnOnce()) {
    match process::monotonic_usec() {
        Ok(now) => notify(&format!("RELOADING=1\nMONOTONIC_USEC={now}")),
        Err(error) => tracing::debug!("no monotonic clock: {error}"),
    }
    reload();
    notify("READY=1");
}

/// Reports that the agent is stopping.
pub(super) fn stopping() {
    notify("STOPPING=1\nSTATUS=Ending: finishing the requests in flight");
}

/// Sends `state` to the service manager. A failure is logged only, because it is no reason to stop.
pub(super) fn notify(state: &str) {
    if let Err(error) = process::notify(state) {
        tracing::debug!(state, "cannot notify the service manager: {error}");
    }
}
