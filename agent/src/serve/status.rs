//! Tells systemd what the agent does, for `systemctl status`: sd_notify(3), STATUS=.

use std::time::Duration;

use super::Engine;
use crate::sys::process;

/// Between two of them, at least.
const PAUSE: Duration = Duration::from_secs(1);

/// Says how many are connected whenever that changes, for ever; nothing where nobody wants to know.
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

/// Reads again what can be, in the words of systemd.service(5), `Type=notify-reload`; with
/// `Type=notify` it shows as reloading until it is done.
pub(super) fn reloading(reload: impl FnOnce()) {
    match process::monotonic_usec() {
        Ok(now) => notify(&format!("RELOADING=1\nMONOTONIC_USEC={now}")),
        Err(error) => tracing::debug!("no monotonic clock: {error}"),
    }
    reload();
    notify("READY=1");
}

/// The last words.
pub(super) fn stopping() {
    notify("STOPPING=1\nSTATUS=Ending: what is in flight is finished");
}

/// A manager that cannot be told is no reason to stop.
pub(super) fn notify(state: &str) {
    if let Err(error) = process::notify(state) {
        tracing::debug!(state, "the service manager cannot be told: {error}");
    }
}
