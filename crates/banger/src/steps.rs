//! The named steps of the CLI: what it changes for good, by name. A test build can be killed before and after each.

banger_durable::steps! {
    /// A change that must survive a crash.
    pub(crate) enum Step {
        /// Asks the daemon to delete a VM, whose work was saved.
        DeleteVm = "cli/delete-vm",
        /// Stores the user's permission to send files.
        Consent = "cli/consent",
        /// Creates a key.
        Key = "ssh/key",
        /// Writes a file that ssh reads.
        SshFile = "ssh/file",
        /// Changes the user's own ssh configuration.
        UsersConfig = "ssh/users-config",
    }
}

/// Returns every point at which a test build can be killed.
pub(crate) fn fail_points() -> Vec<String> {
    banger_durable::fail_points(Step::NAMES.iter().chain(banger_workspace::STEPS).copied())
}
