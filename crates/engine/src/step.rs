//! The store's writes, by name. A test build can be killed before and after each.

banger_durable::steps! {
    /// A write to the store.
    pub(crate) enum Step {
        /// Upgrades the schema by one version.
        Migrate = "store/migrate",
        /// Checkpoints the write-ahead log into the database file.
        Checkpoint = "store/checkpoint",
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
        VmPublish = "vm/publish",
        VmTouch = "vm/touch",
        VmAcknowledge = "vm/acknowledge",
        VmKeep = "vm/keep",
        /// From here on, the VM will be deleted with its resources, even if the daemon dies.
        VmMarkForDeletion = "vm/mark-for-deletion",
        VmDelete = "vm/delete",
        DeletedClear = "deleted/clear",
        CatalogRecord = "catalog/record",
        JournalDirectory = "journal/directory",
        JournalProcess = "journal/process",
        /// Before this, the journalled resource is taken and its row is incomplete: a process has no pid.
        JournalUpdate = "journal/update",
        /// Before these, the resource is released and its row still exists.
        JournalDeleteDirectory = "journal/delete/directory",
        JournalDeleteProcess = "journal/delete/process",
    }
}

/// Returns every point at which a test build can be killed.
#[cfg(feature = "fail-points")]
pub fn fail_points() -> Vec<String> {
    banger_durable::fail_points(Step::NAMES.iter().copied())
}

impl Step {
    /// Returns whether the write must be on the disk when it returns: a client learns of it next, or files are removed
    /// because of it. Otherwise it may be lost with the host's power, but only together with all later writes.
    pub(crate) fn is_durable(self) -> bool {
        match self {
            Self::Migrate
            | Self::Checkpoint
            | Self::ImageInsert
            | Self::ImageReplace
            | Self::ImageRename
            | Self::ImagePromote
            | Self::ImageDelete
            | Self::KernelInsert
            | Self::KernelDelete
            | Self::VmInsert
            | Self::VmSet
            | Self::VmPublish
            | Self::VmAcknowledge
            | Self::VmKeep
            | Self::VmMarkForDeletion
            | Self::CatalogRecord => true,
            // After a power loss, no VM runs, and what is marked for deletion is deleted again.
            Self::VmState
            | Self::VmRunning
            | Self::VmDown
            | Self::VmTouch
            | Self::VmDelete
            | Self::DeletedClear
            | Self::JournalDirectory
            | Self::JournalProcess
            | Self::JournalUpdate
            | Self::JournalDeleteDirectory
            | Self::JournalDeleteProcess => false,
        }
    }
}
