//! What would help against an error, for a client to put into its own words.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Vmm;

/// What an error is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// What kind of thing.
    pub kind: SubjectKind,
    /// Its name, or the reference that the request had for it.
    pub name: String,
}

/// The kinds of things that errors are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SubjectKind {
    /// A VM.
    Vm,
    /// An image.
    Image,
    /// A kernel.
    Kernel,
    /// An operation.
    Operation,
    /// A kind that this build does not know.
    #[serde(other)]
    Unknown,
}

impl SubjectKind {
    /// Returns the name for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vm => "VM",
            Self::Image => "image",
            Self::Kernel => "kernel",
            Self::Operation => "operation",
            Self::Unknown => "thing",
        }
    }
}

/// A part of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConfigPart {
    /// A whole file.
    File,
    /// A line of a file.
    Line,
    /// An environment variable.
    Variable,
    /// A part that this build does not know.
    #[serde(other)]
    Unknown,
}

/// What would help, beyond what the error's kind and subject already say. Remedies are added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Remedy {
    /// Start the subject, a VM.
    StartVm,
    /// Stop the subject, a VM.
    StopVm,
    /// Stop the subject, a VM, or delete it by force.
    StopOrDeleteVm,
    /// Resume the subject, a VM.
    ResumeVm,
    /// Restart the subject, a VM.
    RestartVm,
    /// Kill the subject, a VM.
    KillVm,
    /// Delete the subject, a VM, by force.
    DeleteVmByForce,
    /// Restart the subject, a VM, to give it the agent of this build.
    UpdateAgent,
    /// Read the console of the subject, a VM.
    ReadLogs,
    /// Read the console of the subject, a VM, which stays.
    ReadConsole,
    /// Use another image or kernel: the VM does not boot.
    ChangeImageOrKernel,
    /// Wait until the work on the subject has ended.
    Wait,
    /// Delete these VMs.
    DeleteVms {
        /// Their names.
        vms: Vec<String>,
    },
    /// Tag an image, as the VM's disks are its own.
    TagImage {
        /// The image.
        image: String,
        /// The name that was asked for.
        name: String,
    },
    /// Give the bundle's image a name.
    NameBundle,
    /// See which images are here and which can be pulled.
    ListImages,
    /// Choose another kernel.
    ChooseKernel,
    /// Pull one of these kernels, or import one.
    PullKernel {
        /// The catalog's kernels.
        kernels: Vec<String>,
    },
    /// Import all packages of a kernel at once.
    ImportPackagesTogether,
    /// Have the catalog signed, or correct its key in the configuration.
    CheckCatalogSignature,
    /// Correct or remove this catalog file, or a line of it.
    CorrectCatalog {
        /// The line, from 1.
        line: Option<usize>,
    },
    /// Correct or remove a part of the configuration.
    CorrectConfig {
        /// The part.
        part: ConfigPart,
    },
    /// Put a file back, or delete the VMs that use the subject and the subject.
    RestoreFile,
    /// Put a registered file back, or delete the VMs that use the subject and register it again.
    RestoreRegisteredFile,
    /// Put a store back that is no longer in its place, or remove what it left.
    RestoreStore,
    /// Unmount a file and stop what writes to it.
    StopWriting,
    /// Move the store aside to begin anew.
    MoveStoreAside {
        /// The store's file.
        path: PathBuf,
    },
    /// Run the newer banger that wrote the store.
    RunNewerBanger,
    /// Make the store writable.
    MakeStoreWritable,
    /// Remove a file or link, or have another runtime directory.
    ReplaceDirectory,
    /// Make the directory that something is copied into.
    MakeDirectory,
    /// Copy to a directory, not to a file.
    CopyToDirectory,
    /// Make a directory writable, or have others.
    MakeDirectoryWritable,
    /// Have a runtime directory with a shorter path.
    ShortenRuntimeDirectory,
    /// Install banger again.
    Reinstall,
    /// Install all of banger's programs from one build.
    InstallOneBuild,
    /// Install `bangerd` beside the client or on `PATH`, or name its path.
    InstallDaemon,
    /// Install a program of the host's distribution.
    InstallProgram {
        /// The program.
        program: String,
    },
    /// Install a VMM.
    InstallVmm,
    /// Make KVM usable, or have VMs run without it.
    MakeKvmUsable,
    /// Have a new VM run with QEMU.
    RunWithQemu,
    /// Give this user ranges of subordinate user and group ids (subuid(5), subgid(5)).
    AddSubordinateIds,
    /// Stop the daemon by force.
    ForceDaemonStop,
    /// Restart the daemon.
    RestartDaemon,
    /// See the daemon's log, and try again.
    ReadDaemonLog,
    /// Stop the other daemon.
    StopOtherDaemon,
    /// Have the subject, a VM, run by this VMM from now on.
    SetVmm {
        /// The VMM.
        vmm: Vmm,
        /// Whether it would run without KVM.
        in_software: bool,
    },
    /// Try again when the host is less busy, or run a new VM in software.
    TryWhenLessBusy,
    /// Look at the host as a whole.
    RunDoctor,
    /// A remedy that this build does not know.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_of_a_later_build_is_unknown_and_no_error() {
        let later = r#"{"kind":"migrate_vm","to":"other"}"#;
        assert_eq!(serde_json::from_str::<Remedy>(later).unwrap(), Remedy::Unknown);
        let vms = Remedy::DeleteVms { vms: vec!["box".to_owned()] };
        let text = serde_json::to_string(&vms).unwrap();
        assert_eq!(text, r#"{"kind":"delete_vms","vms":["box"]}"#);
        assert_eq!(serde_json::from_str::<Remedy>(&text).unwrap(), vms);
    }
}
