//! What happens, as the API tells it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{ErrorKind, Id, ImageName, Name, OperationKind, VmName, VmState};

/// Something that happened: a line of JSON of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Happening {
    /// When.
    pub time: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: HappeningKind,
}

/// What happened. Kinds and fields are added, never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum HappeningKind {
    /// The daemon has taken over what the last one left, and serves.
    DaemonStarted {
        /// Its version.
        version: String,
    },
    /// There is a VM more.
    VmCreated {
        /// Its id.
        id: Id,
        /// Its name.
        name: VmName,
    },
    /// A VM is in another state.
    VmState {
        /// Its id.
        id: Id,
        /// Its name.
        name: VmName,
        /// The state before.
        from: VmState,
        /// The state now.
        to: VmState,
        /// Why, where nobody asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A VM has other hardware.
    VmChanged {
        /// Its id.
        id: Id,
        /// Its name.
        name: VmName,
    },
    /// A running VM is stopped because nobody has used it for long.
    VmUnused {
        /// Its id.
        id: Id,
        /// Its name.
        name: VmName,
        /// When it was last used.
        since: Timestamp,
    },
    /// A VM is gone, with its disks.
    VmDeleted {
        /// Its id.
        id: Id,
        /// Its name.
        name: VmName,
    },
    /// There is an image more.
    ImageCreated {
        /// Its id.
        id: Id,
        /// Its name.
        name: ImageName,
    },
    /// An image has another name.
    ImageRenamed {
        /// Its id.
        id: Id,
        /// The name before.
        from: ImageName,
        /// The name now.
        name: ImageName,
    },
    /// An image that was a file of its user's is banger's own now.
    ImagePromoted {
        /// Its id.
        id: Id,
        /// Its name.
        name: ImageName,
    },
    /// An image is gone.
    ImageDeleted {
        /// Its id.
        id: Id,
        /// Its name.
        name: ImageName,
    },
    /// There is a kernel more.
    KernelCreated {
        /// Its id.
        id: Id,
        /// Its name.
        name: Name,
    },
    /// A kernel is gone.
    KernelDeleted {
        /// Its id.
        id: Id,
        /// Its name.
        name: Name,
    },
    /// An operation has begun.
    OperationStarted {
        /// Its id.
        id: Id,
        /// What it does.
        operation: OperationKind,
        /// What it does it to.
        name: String,
    },
    /// An operation has ended.
    OperationEnded {
        /// Its id.
        id: Id,
        /// What it did.
        operation: OperationKind,
        /// What it did it to.
        name: String,
        /// The kind of error that it ended with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<ErrorKind>,
        /// That error in words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Whoever reads this was too slow: something is left out here.
    Missed {
        /// How much.
        count: u64,
    },
    /// A kind of a later build.
    #[serde(other)]
    Unknown,
}

/// Options of `GET /v1/events`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchEvents {
    /// Go on with what happens from now on.
    #[serde(default)]
    pub follow: bool,
    /// Begin with what is remembered since then; without it, with all that is, or when following with nothing.
    #[serde(default)]
    pub since: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_happening_is_one_flat_object() {
        let happening = Happening {
            time: "2026-11-25T10:00:00Z".parse().unwrap(),
            what: HappeningKind::VmState {
                id: Id::from_random([1; 8]),
                name: "box".parse().unwrap(),
                from: VmState::Starting,
                to: VmState::Running,
                reason: None,
            },
        };
        let line = serde_json::to_string(&happening).unwrap();
        assert_eq!(
            line,
            r#"{"time":"2026-11-25T10:00:00Z","kind":"vm_state","id":"0101010101010101","name":"box","from":"starting","to":"running"}"#
        );
        assert_eq!(serde_json::from_str::<Happening>(&line).unwrap(), happening);
    }

    #[test]
    fn a_happening_of_a_later_build_is_unknown_not_an_error() {
        let line = r#"{"time":"2026-11-25T10:00:00Z","kind":"eclipse","id":"x"}"#;
        assert_eq!(serde_json::from_str::<Happening>(line).unwrap().what, HappeningKind::Unknown);
    }
}
