//! What the store writes, by name. A test build can be killed before and after each: see `fail`.

/// Declares the steps, so that none can be left out of the list of all.
macro_rules! steps {
    ($($(#[doc = $doc:literal])* $step:ident = $name:literal,)*) => {
        /// A write of the store.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Step {
            $($(#[doc = $doc])* $step,)*
        }

        impl Step {
            /// All of them.
            #[cfg(feature = "fail-points")]
            pub(crate) const ALL: &[Self] = &[$(Self::$step,)*];

            #[cfg(feature = "fail-points")]
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$step => $name,)*
                }
            }
        }
    };
}

steps! {
    /// The schema is brought up one version.
    Migrate = "store/migrate",
    /// The write-ahead log is put into the one file.
    Settle = "store/settle",
    ImageInsert = "image/insert",
    ImageReplace = "image/replace",
    ImageRename = "image/rename",
    ImagePromote = "image/promote",
    ImageDelete = "image/delete",
    KernelInsert = "kernel/insert",
    KernelDelete = "kernel/delete",
    VmInsert = "vm/insert",
    VmState = "vm/state",
    VmRunning = "vm/running",
    VmDown = "vm/down",
    VmSet = "vm/set",
    VmTouch = "vm/touch",
    VmAcknowledge = "vm/acknowledge",
    VmKeep = "vm/keep",
    /// From here on it is to go, with what it holds, whatever happens.
    VmCondemn = "vm/condemn",
    VmDelete = "vm/delete",
    JournalFolder = "journal/folder",
    JournalProcess = "journal/process",
    /// Until this, what was journalled is taken, and not all about it is in its row: a process without its pid.
    JournalAmend = "journal/amend",
    /// Before these, the resource is gone and its row is not.
    JournalStrikeFolder = "journal/strike/folder",
    JournalStrikeProcess = "journal/strike/process",
}

/// Every point at which a build for the tests can be killed.
#[cfg(feature = "fail-points")]
pub fn fail_points() -> Vec<String> {
    use crate::fail::{Moment, point};
    let both = |step: &Step| [Moment::Before, Moment::After].map(|moment| point(step.name(), moment));
    Step::ALL.iter().flat_map(both).collect()
}

impl Step {
    /// Does the step.
    pub(crate) fn around<T, E>(self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        #[cfg(feature = "fail-points")]
        crate::fail::reach(self.name(), crate::fail::Moment::Before);
        let done = work()?;
        #[cfg(feature = "fail-points")]
        crate::fail::reach(self.name(), crate::fail::Moment::After);
        Ok(done)
    }
}
