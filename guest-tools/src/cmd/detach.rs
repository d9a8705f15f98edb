//! `detach`: flushes a device, disconnects it, and waits for its relay to end.

use std::time::{Duration, Instant};

use clap::Args;
use human::parse_duration;
use serde_json::json;

use super::{
    CommandError,
    print::{print, print_json},
};
use crate::attach::{AttachError, Device, attached, release};

/// The interval at which a relay that is ending is checked.
const LOOK: Duration = Duration::from_millis(20);

const EXAMPLES: &str = "\
Examples:
  guest-tools detach                   the only device that is attached
  guest-tools detach /dev/nbd3 --force

Keys of --json: device, flushed.";

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Detach {
    /// The device; default: the one that is attached
    #[arg(value_name = "DEVICE", value_parser = Device::parse)]
    device: Option<Device>,
    /// Detach without a flush, even while it is in use; unwritten data is lost
    #[arg(long)]
    force: bool,
    /// How long the relay may take to end
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(words: &Detach) -> Result<(), CommandError> {
    let all = attached();
    let device = match (words.device, all.as_slice()) {
        (Some(device), all) if all.iter().any(|disk| disk.device == device) => device,
        (Some(device), _) => return Err(AttachError::NotAttached(device).into()),
        (None, [only]) => only.device,
        (None, []) => return Err(CommandError::Words("nothing is attached")),
        (None, _) => {
            return Err(CommandError::Words(
                "several devices are attached: say which; 'guest-tools status' lists them",
            ));
        }
    };
    release(device, words.force)?;
    let until = Instant::now() + words.timeout;
    while attached().iter().any(|disk| disk.device == device) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = words.timeout.as_secs();
            return Err(AttachError::Stays { device, seconds }.into());
        }
        std::thread::park_timeout(LOOK.min(left));
    }
    if words.json {
        return print_json(&json!({ "device": device.to_string(), "flushed": !words.force }));
    }
    print(&format!("{device} is detached\n"))
}
