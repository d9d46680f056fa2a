//! The named steps of this crate: what it writes for good, by name.

banger_durable::steps! {
    /// A write that must survive a crash.
    pub(crate) enum Step {
        /// Before this, nothing was sent.
        RecordBegin = "record/begin",
        /// Before this, everything is in place in the guest.
        RecordComplete = "record/complete",
        RecordUndo = "record/undo",
        RecordPulled = "record/pulled",
        RecordMark = "record/mark",
        RecordRemove = "record/remove",
        /// Copies the guest's objects into the user's repository.
        PullObjects = "pull/objects",
        /// Sets the refs that keep those objects.
        PullRefs = "pull/refs",
    }
}

/// The names of all steps at which a test build can be killed.
pub const STEPS: &[&str] = Step::NAMES;
