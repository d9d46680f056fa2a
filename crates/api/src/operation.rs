//! Operations: long requests with a stream of events.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ApiError, Id};

/// Kind of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OperationKind {
    /// Creates and starts a VM.
    VmRun,
    /// Starts a stopped VM.
    VmStart,
    /// Stops a running VM.
    VmStop,
    /// Stops a VM and starts it again.
    VmRestart,
    /// Sends a signal to a VM's VMM.
    VmKill,
    /// Pauses a VM's virtual CPUs.
    VmPause,
    /// Resumes a paused VM.
    VmResume,
    /// Changes a VM's hardware.
    VmSet,
    /// Publishes ports of a VM.
    VmPublish,
    /// Stops publishing ports of a VM.
    VmUnpublish,
    /// Checks whether a VM matches its record in the store.
    #[serde(rename = "vm_look")]
    VmCheck,
    /// Deletes a VM.
    VmDelete,
    /// Creates an image from a tar archive.
    ImageImport,
    /// Pulls an image from the catalog or a registry.
    ImagePull,
    /// Adds a name to an image.
    ImageTag,
    /// Registers a user's file as an image, in place.
    ImageRegister,
    /// Copies the file of a registered image into banger's own store.
    ImagePromote,
    /// Creates an image from a VM's disks.
    ImageCommit,
    /// Empties the caches.
    CachePrune,
    /// Exports an image to a bundle.
    ImageBundle,
    /// Fetches the catalogs at URLs.
    CatalogRefresh,
    /// Creates a kernel from files or a package.
    KernelImport,
    /// Pulls a kernel from the catalog.
    KernelPull,
    /// A kind that this build does not know.
    #[serde(other)]
    Unknown,
}

impl OperationKind {
    /// Returns its name for people: "start VM".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VmRun => "run VM",
            Self::VmStart => "start VM",
            Self::VmStop => "stop VM",
            Self::VmRestart => "restart VM",
            Self::VmKill => "kill VM",
            Self::VmPause => "pause VM",
            Self::VmResume => "resume VM",
            Self::VmSet => "change VM",
            Self::VmPublish => "publish ports",
            Self::VmUnpublish => "unpublish ports",
            Self::VmCheck => "check VM",
            Self::VmDelete => "delete VM",
            Self::ImageImport => "import image",
            Self::ImagePull => "pull image",
            Self::ImageTag => "tag image",
            Self::ImageRegister => "register image",
            Self::ImagePromote => "promote image",
            Self::ImageCommit => "commit VM",
            Self::CachePrune => "prune caches",
            Self::ImageBundle => "bundle image",
            Self::CatalogRefresh => "refresh catalogs",
            Self::KernelImport => "import kernel",
            Self::KernelPull => "pull kernel",
            Self::Unknown => "unknown",
        }
    }
}

/// State of an operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// In progress.
    #[default]
    Running,
    /// Succeeded.
    Done,
    /// Failed; partial work was undone.
    Failed,
    /// Cancelled; partial work was undone.
    Cancelled,
    /// A state that this build does not know.
    #[serde(other)]
    Unknown,
}

impl OperationState {
    /// Returns its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

/// An operation that is in progress or ended recently.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Operation {
    /// Its id.
    pub id: Id,
    /// Its kind.
    pub kind: OperationKind,
    /// Its target.
    pub target: String,
    /// Its current stage.
    pub stage: String,
    /// Time of its start.
    pub since: Timestamp,
    /// Its state.
    #[serde(default)]
    pub state: OperationState,
    /// Bytes done in the current stage.
    #[serde(default)]
    pub done_bytes: Option<u64>,
    /// Total bytes of the current stage, if known.
    #[serde(default)]
    pub total_bytes: Option<u64>,
    /// Id of the user who requested it.
    #[serde(default)]
    pub owner: Option<u32>,
    /// Whether it continues when its client disconnects.
    #[serde(default)]
    pub detached: bool,
    /// Time of its end.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
}

/// One line of an operation's event stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum OperationEvent {
    /// The first event: the operation's id, which can be used to cancel it.
    Started {
        /// The id.
        operation: Id,
    },
    /// A new stage begins.
    Stage {
        /// Name of the stage, for people: "starting VM".
        stage: String,
    },
    /// Progress of the stage.
    Progress {
        /// Bytes done.
        done: u64,
        /// Total bytes, if known.
        total: Option<u64>,
    },
    /// Progress of one of several things that the stage does in parallel.
    Part {
        /// Name of the thing: for a layer, the beginning of its digest.
        name: String,
        /// Bytes done.
        done: u64,
        /// Total bytes, if known.
        total: Option<u64>,
    },
    /// A line of output from a program.
    Log {
        /// The line.
        line: String,
    },
    /// A message for the user.
    Note {
        /// A sentence.
        message: String,
    },
    /// A warning for the user, sent once.
    Warning {
        /// The problem, and what to do about it.
        message: String,
    },
    /// The last event: the operation succeeded.
    Done {
        /// The VM, image or kernel, as `show` prints it; null if it was deleted.
        result: serde_json::Value,
        /// Durations of the operation's steps.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        spans: Vec<Span>,
    },
    /// The last event: the operation failed, and partial work was undone.
    Error {
        /// The error.
        error: ApiError,
    },
    /// An event that this build does not know.
    #[serde(other)]
    Unknown,
}

/// A period on the host's monotonic clock, which makes spans of several programs comparable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Span {
    /// Name of the step.
    pub name: String,
    /// Start, in nanoseconds of `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// End, in nanoseconds of `CLOCK_MONOTONIC`.
    pub end_ns: u64,
}
