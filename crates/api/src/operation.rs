//! Operations: long requests, as a stream of events.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{ApiError, Id};

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OperationKind {
    /// Makes a VM and starts it.
    VmRun,
    /// Starts a stopped VM.
    VmStart,
    /// Stops a running VM.
    VmStop,
    /// Stops a VM and starts it again.
    VmRestart,
    /// Sends a signal to a VM's VMM.
    VmKill,
    /// Lets a VM's virtual CPUs stand still.
    VmPause,
    /// Lets a paused VM go on.
    VmResume,
    /// Changes a VM's hardware.
    VmSet,
    /// Looks whether a VM is as the store says.
    VmLook,
    /// Deletes a VM.
    VmDelete,
    /// Makes an image of a tar.
    ImageImport,
    /// Gets an image from the catalog.
    ImagePull,
    /// Gives an image one more name.
    ImageTag,
    /// Makes a file of the user's an image, where it is.
    ImageRegister,
    /// Copies such a file into banger's own store.
    ImagePromote,
    /// Makes an image of what is on a VM's disks.
    ImageCommit,
    /// Empties the caches.
    CachePrune,
    /// Writes an image into a bundle.
    ImageBundle,
    /// Asks the catalogs at URLs.
    CatalogRefresh,
    /// Makes a kernel of files or a package.
    KernelImport,
    /// Gets a kernel from the catalog.
    KernelPull,
    /// A kind that this build does not know.
    #[serde(other)]
    Unknown,
}

impl OperationKind {
    /// What it is called: "start VM".
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
            Self::VmLook => "look at VM",
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

/// How far an operation is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// It is under way.
    #[default]
    Running,
    /// It worked.
    Done,
    /// It failed, and what was half made is undone.
    Failed,
    /// It was cancelled, and what was half made is undone.
    Cancelled,
    /// A state that this build does not know.
    #[serde(other)]
    Unknown,
}

impl OperationState {
    /// The word for it, as in JSON.
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

/// An operation, under way or ended not long ago.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: Id,
    /// What it does.
    pub kind: OperationKind,
    /// What it does it to.
    pub target: String,
    /// What it is doing now.
    pub stage: String,
    /// Since when it runs.
    pub since: Timestamp,
    /// How far it is.
    #[serde(default)]
    pub state: OperationState,
    /// Bytes of its stage that are done.
    #[serde(default)]
    pub done_bytes: Option<u64>,
    /// Bytes of its stage in all, where known.
    #[serde(default)]
    pub total_bytes: Option<u64>,
    /// Number of the user who asked for it.
    #[serde(default)]
    pub owner: Option<u32>,
    /// Whether it goes on when its client hangs up.
    #[serde(default)]
    pub detached: bool,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
}

/// One line of an operation's stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First: the operation's id, by which it can be cancelled.
    Started {
        /// The id.
        operation: Id,
    },
    /// It does something else now.
    Stage {
        /// What, for people: "starting VM".
        stage: String,
    },
    /// How far the stage is.
    Progress {
        /// Bytes done.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// How far one of several things is that the stage does at once.
    Part {
        /// Which: a layer, by the beginning of its digest.
        name: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// A line from a program that is run.
    Log {
        /// The line.
        line: String,
    },
    /// Something worth knowing.
    Note {
        /// A sentence.
        message: String,
    },
    /// Something the user should know; said once.
    Warning {
        /// What, and what to do about it.
        message: String,
    },
    /// The end: it worked.
    Done {
        /// The VM, image or kernel, as `show` gives it; null when it is gone.
        result: serde_json::Value,
        /// Where the time went.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        spans: Vec<Span>,
    },
    /// The end: it failed, and what was half made is undone.
    Error {
        /// Why.
        error: ApiError,
    },
    /// An event of a later build.
    #[serde(other)]
    Unknown,
}

/// A stretch of time, on the host's monotonic clock, so that spans of several programs can be put side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// What was done.
    pub name: String,
    /// Begin, in nanoseconds of `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// End, in nanoseconds of `CLOCK_MONOTONIC`.
    pub end_ns: u64,
}
