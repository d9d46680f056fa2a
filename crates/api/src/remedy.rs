//! Remedies for errors, which each client puts into its own words.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Vmm;

/// The thing that an error is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// Its kind.
    pub kind: SubjectKind,
    /// Its name, or the reference in the request.
    pub name: String,
}

/// Kinds of things that errors are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// A remedy, beyond what the error's kind and subject imply. Remedies are added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Delete the subject, a VM.
    DeleteVm,
    /// Delete the subject, a VM, by force.
    DeleteVmByForce,
    /// Restart the subject, a VM, to install the agent of this build in it.
    UpdateAgent,
    /// Read the console of the subject, a VM.
    ReadLogs,
    /// Read the console of the subject, a VM, which is kept.
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
    /// Tag the VM's image: the VM was never started, so its content is the same.
    TagImage {
        /// The image.
        image: String,
        /// The requested name.
        name: String,
    },
    /// Choose another name for the bundle's image.
    NameBundle,
    /// List the local images, and those that can be pulled.
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
        /// The line, counted from 1.
        line: Option<usize>,
    },
    /// Correct or remove a part of the configuration.
    CorrectConfig {
        /// The part.
        part: ConfigPart,
    },
    /// Restore a file, or delete the subject and the VMs that use it.
    RestoreFile,
    /// Restore a disk of the subject, a VM, or delete the VM.
    RestoreDisk,
    /// Restore a registered file, or delete the VMs that use the subject and register it again.
    RestoreRegisteredFile,
    /// Restore the store of files that were set aside, or save what is needed of them and remove them.
    RestoreStore,
    /// Unmount a file, and stop the programs that write to it.
    StopWriting,
    /// Move the store aside to start with an empty one.
    MoveStoreAside {
        /// The store's file.
        path: PathBuf,
    },
    /// Run the newer banger that wrote the store.
    RunNewerBanger,
    /// Make the store writable.
    MakeStoreWritable,
    /// Remove a file or link, or use other directories.
    ReplaceDirectory,
    /// Create the directory that is the destination of a copy.
    MakeDirectory,
    /// Copy to a directory, not to a file.
    CopyToDirectory,
    /// End the path with a slash, to copy into the directory that a symbolic link leads to.
    EndWithSlash,
    /// Free space on the file system of the target, or copy to another one.
    FreeTargetSpace,
    /// Make a directory writable, or use others.
    MakeDirectoryWritable,
    /// Install banger again.
    Reinstall,
    /// Install all of banger's programs from one build.
    InstallOneBuild,
    /// Install `bangerd` beside the client or on `PATH`, or set its path.
    InstallDaemon,
    /// Install a program from the host's distribution.
    InstallProgram {
        /// The program.
        program: String,
    },
    /// Install a VMM.
    InstallVmm,
    /// Make KVM usable, or run VMs without it.
    MakeKvmUsable,
    /// Load the kernel module `tun`.
    LoadTun,
    /// Let users open `/dev/net/tun`.
    OpenTun,
    /// Let ordinary users create namespaces: set a limit of the kernel.
    AllowNamespaces {
        /// The limit's name (sysctl(8)).
        limit: String,
        /// The value that allows it.
        value: String,
    },
    /// Read what a VM's network reports, or run VMs without a network.
    ReadNetworkLog,
    /// Assign this user ranges of subordinate user and group ids (subuid(5), subgid(5)).
    AddSubordinateIds,
    /// Stop the daemon by force.
    ForceDaemonStop,
    /// Restart the daemon.
    RestartDaemon,
    /// Read the daemon's log, and retry.
    ReadDaemonLog,
    /// Stop the other daemon.
    StopOtherDaemon,
    /// Stop the daemon and its VMs on another host, or remove the store's lock file if that host will not return.
    StopOnOtherHost {
        /// The host's name.
        host: String,
        /// The lock file.
        lock: PathBuf,
    },
    /// Run the subject, a VM, with this VMM from now on.
    SetVmm {
        /// The VMM.
        vmm: Vmm,
        /// Whether it would run without KVM.
        in_software: bool,
    },
    /// Publish the subject's port at another port of the host.
    PublishElsewhere,
    /// Publish the port at another port of the host, or unpublish it in this other VM.
    UnpublishPort {
        /// The other VM.
        vm: String,
        /// The host's port.
        port: u16,
    },
    /// Set another port for the reverse proxy, or turn it on, and restart the daemon.
    SetProxyPort,
    /// List the listening ports of the subject, a VM.
    ListPorts,
    /// List the ports that the subject, a VM, publishes.
    ShowPublished,
    /// Retry when the host is less busy, or run a new VM in software.
    TryWhenLessBusy,
    /// Check the whole host.
    RunDoctor,
    /// A remedy that this build does not know.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_of_a_later_build_parses_as_unknown() {
        let later = r#"{"kind":"migrate_vm","to":"other"}"#;
        assert_eq!(serde_json::from_str::<Remedy>(later).unwrap(), Remedy::Unknown);
        let vms = Remedy::DeleteVms { vms: vec!["box".to_owned()] };
        let text = serde_json::to_string(&vms).unwrap();
        assert_eq!(text, r#"{"kind":"delete_vms","vms":["box"]}"#);
        assert_eq!(serde_json::from_str::<Remedy>(&text).unwrap(), vms);
    }
}
