//! Events of the daemon, as the API reports them.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ErrorKind, Id, ImageName, Name, OperationKind, VmName, VmState};

/// An event: a JSON line of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Time of the event.
    pub time: Timestamp,
    /// The event itself.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Kinds of events. Kinds and fields are added, never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The daemon took over the state of the previous one and accepts requests.
    DaemonStarted {
        /// Its version.
        version: String,
    },
    /// A VM was created.
    VmCreated {
        /// Its id.
        id: Id,
        /// Its name.
        name: VmName,
    },
    /// A VM's state changed.
    VmState {
        /// Its id.
        id: Id,
        /// Its name.
        name: VmName,
        /// The previous state.
        from: VmState,
        /// The new state.
        to: VmState,
        /// The reason, if no request caused the change.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A VM's hardware changed.
    VmChanged {
        /// Its id.
        id: Id,
        /// Its name.
        name: VmName,
    },
    /// A running VM is being stopped because it was unused for too long.
    #[serde(rename = "vm_unused")]
    VmIdleStop {
        /// Its id.
        id: Id,
        /// Its name.
        name: VmName,
        /// Time of its last use.
        since: Timestamp,
    },
    /// A VM and its disks were deleted.
    VmDeleted {
        /// Its id.
        id: Id,
        /// Its name.
        name: VmName,
    },
    /// An image was created.
    ImageCreated {
        /// Its id.
        id: Id,
        /// Its name.
        name: ImageName,
    },
    /// An image was renamed.
    ImageRenamed {
        /// Its id.
        id: Id,
        /// The previous name.
        from: ImageName,
        /// The new name.
        name: ImageName,
    },
    /// The file of a registered image was copied into banger's own store.
    ImagePromoted {
        /// Its id.
        id: Id,
        /// Its name.
        name: ImageName,
    },
    /// An image was deleted.
    ImageDeleted {
        /// Its id.
        id: Id,
        /// Its name.
        name: ImageName,
    },
    /// A kernel was created.
    KernelCreated {
        /// Its id.
        id: Id,
        /// Its name.
        name: Name,
    },
    /// A kernel was deleted.
    KernelDeleted {
        /// Its id.
        id: Id,
        /// Its name.
        name: Name,
    },
    /// An operation started.
    OperationStarted {
        /// Its id.
        id: Id,
        /// Its kind.
        operation: OperationKind,
        /// Its target.
        name: String,
    },
    /// An operation ended.
    OperationEnded {
        /// Its id.
        id: Id,
        /// Its kind.
        operation: OperationKind,
        /// Its target.
        name: String,
        /// The kind of its error, if it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<ErrorKind>,
        /// The message of that error.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The client read too slowly: events were dropped here.
    Missed {
        /// Number of dropped events.
        count: u64,
    },
    /// A kind that this build does not know.
    #[serde(other)]
    Unknown,
}

/// Options of `GET /v1/events`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WatchEvents {
    /// Continue with new events.
    #[serde(default)]
    pub follow: bool,
    /// Start with the remembered events since this time. If unset: all remembered events, or none when following.
    #[serde(default)]
    pub since: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_serialises_to_one_flat_object() {
        let event = Event {
            time: "2026-11-25T10:00:00Z".parse().unwrap(),
            kind: EventKind::VmState {
                id: Id::from_random([1; 8]),
                name: "box".parse().unwrap(),
                from: VmState::Starting,
                to: VmState::Running,
                reason: None,
            },
        };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(
            line,
            r#"{"time":"2026-11-25T10:00:00Z","kind":"vm_state","id":"0101010101010101","name":"box","from":"starting","to":"running"}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }

    #[test]
    fn an_event_of_a_later_build_parses_as_unknown() {
        let line = r#"{"time":"2026-11-25T10:00:00Z","kind":"eclipse","id":"x"}"#;
        assert_eq!(serde_json::from_str::<Event>(line).unwrap().kind, EventKind::Unknown);
    }
}
