//! Hints for errors of the daemon: the one table from kinds, subjects and remedies to words.

use banger_api::{ApiError, ConfigPart, ErrorKind, Remedy, Subject, SubjectKind, config::Variable};

/// Returns what the user can do next, if anything is known to help.
pub(crate) fn hint_for(error: &ApiError) -> Option<String> {
    if let Some(hint) = &error.hint {
        return Some(hint.clone());
    }
    let subject = error.subject.as_ref();
    match &error.remedy {
        Some(remedy) => for_remedy(remedy, subject),
        // A guest must not choose what the user does on the host.
        None if error.from_guest => None,
        None => for_kind(error.kind, subject),
    }
}

fn for_kind(kind: ErrorKind, subject: Option<&Subject>) -> Option<String> {
    Some(match (kind, subject.map(|subject| (subject.kind, subject.name.as_str()))) {
        (ErrorKind::NotFound, Some((SubjectKind::Vm, _))) => "see `banger ps -a`".to_owned(),
        (ErrorKind::NotFound, Some((SubjectKind::Image, _))) => list("image"),
        (ErrorKind::NotFound, Some((SubjectKind::Kernel, _))) => list("kernel"),
        (ErrorKind::NotFound, Some((SubjectKind::Operation, _))) => {
            "ended operations are listed for ten minutes: see `banger operations --all`".to_owned()
        }
        (ErrorKind::Ambiguous, Some(_)) => "use a longer prefix of the name or id".to_owned(),
        (ErrorKind::AlreadyExists, Some((kind, name))) => {
            format!("choose another name, or delete it with: banger {} delete {name}", command(kind)?)
        }
        (ErrorKind::NoMemory, _) => {
            "reduce --memory, or stop VMs that are not needed; `banger ps` lists running VMs".to_owned()
        }
        (ErrorKind::NoSpace, _) => {
            "delete VMs and images that are not needed: see `banger ps -a` and `banger image list`".to_owned()
        }
        _ => return None,
    })
}

fn list(command: &str) -> String {
    format!("see `banger {command} list`, or `banger {command} list --available` for the catalog")
}

/// Returns how to install a host program, or what works without it.
fn install(program: &str) -> String {
    match program {
        "firecracker" => "VMs run with qemu instead; firecracker starts them faster where KVM works",
        "qemu" => "qemu runs VMs where firecracker cannot (Debian: apt install qemu-system-x86)",
        "e2fsck" => "Debian: apt install e2fsprogs",
        "mmdebstrap" => "Debian: apt install mmdebstrap; elsewhere: banger image import",
        "newuidmap" => "Debian: apt install uidmap",
        "pasta" => "Debian: apt install passt; VMs have no network without it",
        "nft" => "Debian: apt install nftables; VMs have no network without it",
        "apt-get" | "apt-cache" => {
            "catalog kernels need a Debian or Ubuntu host; elsewhere import a kernel's package or files with: \
             banger kernel import"
        }
        other => return format!("install {other}"),
    }
    .to_owned()
}

/// Returns the command group for subjects of this kind.
fn command(kind: SubjectKind) -> Option<&'static str> {
    match kind {
        SubjectKind::Vm => Some("vm"),
        SubjectKind::Image => Some("image"),
        SubjectKind::Kernel => Some("kernel"),
        _ => None,
    }
}

fn for_remedy(remedy: &Remedy, subject: Option<&Subject>) -> Option<String> {
    let name = subject.map_or("VM", |subject| subject.name.as_str());
    let group = subject.and_then(|subject| command(subject.kind)).unwrap_or("image");
    Some(match remedy {
        Remedy::StartVm => format!("start it with: banger vm start {name}"),
        Remedy::StopVm => format!("stop it first with: banger vm stop {name}"),
        Remedy::StopOrDeleteVm => {
            format!("stop it first with: banger vm stop {name}; or use: banger vm delete --force {name}")
        }
        Remedy::ResumeVm => format!("resume it with: banger vm resume {name}"),
        Remedy::RestartVm => {
            format!("see `banger vm logs {name}`, or restart it with: banger vm restart {name}")
        }
        Remedy::UpdateAgent => format!("update its agent with: banger vm restart {name}"),
        Remedy::ReadLogs => format!("see `banger vm logs {name}`"),
        Remedy::KillVm => format!("kill it with: banger vm kill {name}"),
        Remedy::DeleteVm => format!("delete it with: banger vm delete {name}"),
        Remedy::DeleteVmByForce => format!("interrupt that with: banger vm delete --force {name}"),
        Remedy::ReadConsole => {
            format!("see `banger vm logs {name}`, then delete it with: banger vm delete {name}")
        }
        Remedy::ChangeImageOrKernel => {
            "the kernel or the image does not boot; the console shows how far it got".to_owned()
        }
        Remedy::Wait => {
            "wait until that ends, then try again; `banger operations` shows its progress".to_owned()
        }
        Remedy::DeleteVms { .. } => "delete these VMs first".to_owned(),
        Remedy::TagImage { image, name } => format!("tag the image with: banger image tag {image} {name}"),
        Remedy::NameBundle => {
            format!("choose another name with --name, or delete it with: banger image delete {name}")
        }
        Remedy::ListImages => list("image"),
        Remedy::ChooseKernel => {
            "choose another with --kernel; `banger kernel show` lists the VMMs that boot a kernel".to_owned()
        }
        Remedy::PullKernel { kernels } => {
            format!("it has {}; import other kernels with: banger kernel import", kernels.join(", "))
        }
        Remedy::ImportPackagesTogether => {
            "import all packages of a kernel in one command (kernel-core and kernel-modules-core, linux-image and \
             linux-modules); `banger kernel list --available` lists other kernels"
                .to_owned()
        }
        Remedy::CheckCatalogSignature => {
            "the catalog's owner lists its URLs in it (`urls = [\"URL\"]`) and signs each version with \
             `minisign -S -m catalog.toml`; if the key has changed, correct [[catalog]] in config.toml"
                .to_owned()
        }
        Remedy::CorrectCatalog { line } => {
            let object = if line.is_some() { "line" } else { "file" };
            format!("correct or remove that {object}, then run the command again; local images do not need it")
        }
        Remedy::CorrectConfig { part } => {
            let action = match part {
                ConfigPart::Line => "correct or remove that line",
                ConfigPart::Variable => "correct or unset that variable",
                _ => "correct or remove that file",
            };
            format!("{action}, then run the command again")
        }
        Remedy::RestoreFile => format!(
            "restore it; or delete the VMs that use it, run `banger {group} delete {name}`, and pull or import it again"
        ),
        Remedy::RestoreDisk => format!("restore it, or delete the VM with: banger vm delete {name}"),
        Remedy::RestoreRegisteredFile => format!(
            "restore it; or delete the VMs that use it, run `banger image delete {name}`, and register it again"
        ),
        Remedy::RestoreStore => {
            "to use those of another store, restore it in its original place; else copy what you need, and remove \
             the directory"
                .to_owned()
        }
        Remedy::StopWriting => "unmount it, stop programs that write to it, and try again".to_owned(),
        Remedy::MoveStoreAside { path } => format!(
            "nothing was changed; to start with an empty store, move {} aside, with its -wal and -shm files",
            path.display()
        ),
        Remedy::RunNewerBanger => "run the newer banger that wrote it; nothing was changed".to_owned(),
        Remedy::MakeStoreWritable => {
            "it must belong to you and be writable, on a writable file system".to_owned()
        }
        Remedy::ReplaceDirectory => {
            "remove it, or set XDG_STATE_HOME and XDG_CACHE_HOME to directories that belong to you".to_owned()
        }
        Remedy::MakeDirectory => "create it first".to_owned(),
        Remedy::CopyToDirectory => "specify a directory as the target".to_owned(),
        Remedy::EndWithSlash => "to copy into that directory, end the path with a slash".to_owned(),
        Remedy::FreeTargetSpace => "free space there, or copy to another file system".to_owned(),
        Remedy::MakeDirectoryWritable => {
            "make it writable, or set XDG_STATE_HOME and XDG_CACHE_HOME to writable directories".to_owned()
        }
        Remedy::Reinstall => {
            "banger-agent must be in the directory of bangerd; build it with `cargo xtask build`, or reinstall"
                .to_owned()
        }
        Remedy::InstallOneBuild => "banger and bangerd must be of the same build; reinstall them".to_owned(),
        Remedy::InstallDaemon => format!("install it there, or set {} to its path", Variable::BANGERD.name),
        Remedy::InstallProgram { program } => install(program),
        Remedy::InstallVmm => {
            "install firecracker where KVM works, or qemu; then check it with: banger doctor".to_owned()
        }
        Remedy::MakeKvmUsable => "make KVM usable, or set vm.vmm to qemu".to_owned(),
        Remedy::LoadTun => "sudo modprobe tun".to_owned(),
        Remedy::OpenTun => "sudo chmod 0666 /dev/net/tun".to_owned(),
        Remedy::AllowNamespaces { limit, value } => format!("sudo sysctl -w {limit}={value}"),
        Remedy::ReadNetworkLog => {
            "VMs start without a network; --network none starts one without this check".to_owned()
        }
        Remedy::AddSubordinateIds => {
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER".to_owned()
        }
        Remedy::ForceDaemonStop => {
            "wait until it ends, or stop anyway with: banger daemon stop --force".to_owned()
        }
        Remedy::RestartDaemon => "run `banger daemon restart`; VMs keep running".to_owned(),
        Remedy::ReadDaemonLog => "run the command again, and see `banger daemon logs`".to_owned(),
        Remedy::StopOtherDaemon => "stop it with: banger daemon stop".to_owned(),
        Remedy::StopOnOtherHost { host, lock } => format!(
            "on {host}, stop its VMs and run `banger daemon stop`; if {host} will not return, remove {}",
            lock.display()
        ),
        Remedy::SetVmm { vmm, in_software } => {
            let how =
                if *in_software { "in software, about ten times slower".to_owned() } else { format!("with {vmm}") };
            format!(
                "`banger doctor` checks KVM again; to run the VM {how}, use: banger vm set --vmm {vmm} {name}"
            )
        }
        Remedy::PublishElsewhere => {
            "choose another port of this host: the first of HOST:GUEST, such as 8081 in 8081:80".to_owned()
        }
        Remedy::UnpublishPort { vm, port } => {
            format!("choose another port of this host, or use: banger vm unpublish {vm} {port}")
        }
        Remedy::SetProxyPort => {
            "set daemon.proxy in config.toml to a port that is free, then run `banger daemon restart`".to_owned()
        }
        Remedy::ListPorts => format!("see what listens in it with: banger vm ports {name}"),
        Remedy::ShowPublished => format!("see the ports that it publishes with: banger vm show {name}"),
        Remedy::TryWhenLessBusy => {
            "try again when the host is less busy; --vmm qemu runs a new VM in software".to_owned()
        }
        Remedy::RunDoctor => "check the whole host with: banger doctor".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use banger_api::GuestText;

    use super::*;

    fn hint(error: ApiError) -> String {
        hint_for(&error).unwrap_or_default()
    }

    #[test]
    fn the_hint_depends_on_the_kind_and_the_subject() {
        let not_found = ApiError::new(ErrorKind::NotFound, "").about(SubjectKind::Vm, "box");
        assert_eq!(hint(not_found), "see `banger ps -a`");
        let existing = ApiError::new(ErrorKind::AlreadyExists, "").about(SubjectKind::Image, "tiny");
        assert!(hint(existing).ends_with("banger image delete tiny"));
        assert_eq!(hint_for(&ApiError::new(ErrorKind::NotFound, "")), None);
    }

    #[test]
    fn no_kind_of_a_guests_error_implies_a_hint() {
        let text = GuestText::new("no space left");
        for kind in [ErrorKind::NoSpace, ErrorKind::NoMemory, ErrorKind::NotFound, ErrorKind::AlreadyExists] {
            let error = ApiError::from_guest(kind, &text).about(SubjectKind::Vm, "box");
            assert_eq!(hint_for(&error), None, "{kind}");
        }
        let error = ApiError::from_guest(ErrorKind::Invalid, &text).remedy(Remedy::StopVm);
        assert_eq!(hint(error), "stop it first with: banger vm stop VM");
    }

    /// Adds the source files below `dir` to `files`.
    fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                rust_files(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }

    #[test]
    fn only_the_cli_mentions_banger_commands() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut files = Vec::new();
        for entry in fs::read_dir(crates).unwrap() {
            let member = entry.unwrap().path();
            if !member.ends_with("banger") && member.join("src").is_dir() {
                rust_files(&member.join("src"), &mut files);
            }
        }
        assert!(files.len() > 100, "{files:?}");
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            for (number, line) in text.lines().enumerate() {
                let is_comment = line.trim_start().starts_with("//");
                let names_command =
                    ["`banger ", ": banger ", ".hint(\""].iter().any(|words| line.contains(words));
                assert!(is_comment || !names_command, "{}:{}: {line}", path.display(), number + 1);
            }
        }
    }

    #[test]
    fn an_explicit_hint_overrides_the_remedy_and_a_remedy_the_kind() {
        let busy = ApiError::new(ErrorKind::Busy, "").about(SubjectKind::Vm, "box");
        assert_eq!(hint_for(&busy), None);
        let busy = busy.remedy(Remedy::StopVm);
        assert_eq!(hint(busy.clone()), "stop it first with: banger vm stop box");
        assert_eq!(hint(busy.hint("do that")), "do that");
        assert_eq!(hint_for(&ApiError::new(ErrorKind::Io, "").remedy(Remedy::Unknown)), None);
    }
}
