//! What becomes of a machine, as its QEMU tells: the events that matter to who serves its guest.
//!
//! The agent's leases and `agent qemu watch` follow it. The end of the connection is the end of the
//! machine, as far as can be known: nothing that was granted to it may outlive that.

use qapi::qmp;

use crate::{
    qmp::{Client, Error, Event, Heard},
    text::Text,
};

/// Something that happened to a machine.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Happening {
    /// The guest's end. The process of QEMU may live on, with `-no-shutdown`.
    Shutdown(Cause),
    /// The guest starts again, and knows nothing of what was before.
    Reset(Cause),
    /// The guest was asked to end itself.
    Powerdown,
    /// The processors stand still.
    Stopped,
    /// They go on.
    Resumed,
    /// A device is out of the machine.
    DeviceDeleted { id: Option<Text>, path: Text },
    /// So many events are missing, which may have been any.
    Lost(u64),
    /// Nothing of the above.
    Other(Event),
}

/// Who ended or restarted a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The guest itself.
    pub guest: bool,
    /// QEMU's word, such as `guest-shutdown`, `host-qmp-quit`, `host-signal`.
    pub reason: Text,
}

/// The events of a machine's QMP connection.
#[derive(Debug)]
pub struct Life {
    client: Client,
}

impl Life {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// To ask the machine something in between. What happens meanwhile is kept.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Waits for what happens next. An error is the end of the connection, and no further one comes.
    /// The future may be dropped.
    pub async fn next(&mut self) -> Result<Happening, Error> {
        self.client.event().await.map(Happening::from)
    }
}

impl From<Heard> for Happening {
    fn from(heard: Heard) -> Self {
        match heard {
            Heard::Event(event) => event.into(),
            Heard::Lost(count) => Self::Lost(count),
        }
    }
}

impl From<Event> for Happening {
    /// Known by its name: data of another form, as of a newer QEMU, takes nothing from it.
    fn from(event: Event) -> Self {
        match event.name.as_str() {
            "SHUTDOWN" => Self::Shutdown(cause(&event)),
            "RESET" => Self::Reset(cause(&event)),
            "POWERDOWN" => Self::Powerdown,
            "STOP" => Self::Stopped,
            "RESUME" => Self::Resumed,
            "DEVICE_DELETED" => match event.parse::<qmp::DEVICE_DELETED>() {
                Some(data) => {
                    Self::DeviceDeleted { id: data.device.map(Text::from), path: data.path.into() }
                }
                // It may have been any device.
                None => Self::Lost(1),
            },
            _ => Self::Other(event),
        }
    }
}

/// The reasons are an open list.
fn cause(event: &Event) -> Cause {
    let data: serde_json::Value = event.parse().unwrap_or_default();
    let guest = data["guest"].as_bool().unwrap_or_default();
    Cause { guest, reason: data["reason"].as_str().unwrap_or("unknown").into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::{Message, decode};

    fn happening(line: &str) -> Happening {
        match decode(line.as_bytes()) {
            Ok(Message::Event(event)) => event.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_end_is_an_end_whatever_its_data_say() {
        for (data, guest, reason) in [
            (r#", "data": {"guest": true, "reason": "guest-shutdown"}"#, true, "guest-shutdown"),
            (
                r#", "data": {"guest": false, "reason": "by-a-newer-qemu", "more": []}"#,
                false,
                "by-a-newer-qemu",
            ),
            (r#", "data": {"guest": 7, "reason": {}}"#, false, "unknown"),
            (r#", "data": []"#, false, "unknown"),
            ("", false, "unknown"),
        ] {
            let expected = Cause { guest, reason: reason.into() };
            for name in ["SHUTDOWN", "RESET"] {
                let (Happening::Shutdown(cause) | Happening::Reset(cause)) =
                    happening(&format!(r#"{{"event": "{name}"{data}}}"#))
                else {
                    panic!("{data}")
                };
                assert_eq!(cause, expected);
            }
        }
    }

    #[test]
    fn other_events_are_told_apart() {
        assert!(matches!(happening(r#"{"event": "POWERDOWN"}"#), Happening::Powerdown));
        assert!(matches!(happening(r#"{"event": "STOP"}"#), Happening::Stopped));
        assert!(matches!(happening(r#"{"event": "RESUME"}"#), Happening::Resumed));
        assert!(matches!(happening(r#"{"event": "NEWER"}"#), Happening::Other(_)));
        let deleted = r#"{"event": "DEVICE_DELETED", "data": {"device": "v", "path": "/p"}}"#;
        let Happening::DeviceDeleted { id, path } = happening(deleted) else { panic!() };
        assert_eq!((id, path), (Some("v".into()), "/p".into()));
        let unknown = r#"{"event": "DEVICE_DELETED", "data": 7}"#;
        assert!(matches!(happening(unknown), Happening::Lost(1)));
    }
}
