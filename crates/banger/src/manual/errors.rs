//! The kinds of errors, and the hints for each remedy.

use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf};

use banger_api::{ApiError, ConfigPart, ErrorKind, Remedy, SubjectKind, Vmm};
use serde_json::{Value, json};

use super::GENERATED;
use crate::hints::hint_for;

/// Returns the names in the schema of an enum: of its variants, or of their tag `kind`.
fn names<T: schemars::JsonSchema>() -> BTreeSet<String> {
    let schema = schemars::schema_for!(T).to_value();
    let variants = schema["oneOf"].as_array().unwrap().iter();
    let name = |variant: &Value| {
        let name =
            [&variant["const"], &variant["properties"]["kind"]["const"]].into_iter().find_map(Value::as_str);
        name.unwrap().to_owned()
    };
    variants.map(name).collect()
}

/// Returns a remedy of each kind, with a subject that it fits.
fn remedies() -> Vec<(Remedy, SubjectKind)> {
    use Remedy::*;
    let vm = [
        StartVm,
        StopVm,
        StopOrDeleteVm,
        ResumeVm,
        RestartVm,
        KillVm,
        DeleteVm,
        DeleteVmByForce,
        UpdateAgent,
        ReadLogs,
        ReadConsole,
        ChangeImageOrKernel,
        Wait,
        TagImage { image: "tools".to_owned(), name: "mine".to_owned() },
        SetVmm { vmm: Vmm::Qemu, in_software: true },
        SetVmm { vmm: Vmm::Qemu, in_software: false },
        TryWhenLessBusy,
        PublishElsewhere,
        UnpublishPort { vm: "web".to_owned(), port: 8080 },
        ShowPublished,
        ListPorts,
        RestoreDisk,
    ];
    let image = [
        DeleteVms { vms: vec!["box".to_owned()] },
        NameBundle,
        ListImages,
        RestoreFile,
        RestoreRegisteredFile,
        StopWriting,
    ];
    let kernel = [
        ChooseKernel,
        PullKernel { kernels: vec!["debian-cloud".to_owned(), "firecracker-6.1".to_owned()] },
        ImportPackagesTogether,
    ];
    let host = [
        CheckCatalogSignature,
        CorrectCatalog { line: None },
        CorrectCatalog { line: Some(3) },
        CorrectConfig { part: ConfigPart::File },
        CorrectConfig { part: ConfigPart::Line },
        CorrectConfig { part: ConfigPart::Variable },
        RestoreStore,
        MoveStoreAside { path: PathBuf::from("/home/ada/.local/state/banger/store.db") },
        RunNewerBanger,
        MakeStoreWritable,
        ReplaceDirectory,
        MakeDirectory,
        CopyToDirectory,
        EndWithSlash,
        FreeTargetSpace,
        MakeDirectoryWritable,
        Reinstall,
        InstallOneBuild,
        InstallDaemon,
        InstallProgram { program: "mmdebstrap".to_owned() },
        InstallProgram { program: "e2fsck".to_owned() },
        InstallProgram { program: "pasta".to_owned() },
        LoadTun,
        OpenTun,
        AllowNamespaces { limit: "user.max_user_namespaces".to_owned(), value: "65536".to_owned() },
        ReadNetworkLog,
        InstallVmm,
        MakeKvmUsable,
        AddSubordinateIds,
        ForceDaemonStop,
        RestartDaemon,
        ReadDaemonLog,
        StopOtherDaemon,
        StopOnOtherHost {
            host: "alpha".to_owned(),
            lock: PathBuf::from("/home/ada/.local/state/banger/store.lock"),
        },
        SetProxyPort,
        RunDoctor,
        Unknown,
    ];
    let with = |kind: SubjectKind| move |remedy| (remedy, kind);
    let of_vms = vm.into_iter().map(with(SubjectKind::Vm));
    let of_images = image.into_iter().map(with(SubjectKind::Image));
    let of_kernels = kernel.into_iter().map(with(SubjectKind::Kernel));
    of_vms
        .chain(of_images)
        .chain(of_kernels)
        .chain(host.into_iter().map(with(SubjectKind::Unknown)))
        .collect()
}

#[test]
fn the_page_lists_the_hint_for_each_remedy() {
    let mut page = format!(
        "# Hints\n\n{GENERATED}\nThe hint that `banger` prints for each remedy of an error whose subject is called \
         `box`. An API client\nputs remedies into its own words.\n\n| remedy | hint |\n|---|---|\n"
    );
    let mut seen = BTreeSet::new();
    for (remedy, subject) in remedies() {
        let json = json!(remedy);
        seen.insert(json["kind"].as_str().unwrap().to_owned());
        let error = ApiError::new(ErrorKind::Io, "").about(subject, "box").remedy(remedy);
        let hint = hint_for(&error).unwrap_or_else(|| "(none)".to_owned());
        let _ = writeln!(page, "| `{json}` | {} |", hint.replace('|', "\\|"));
    }
    assert_eq!(seen, names::<Remedy>());
    banger_contract::check("docs/src/reference/hints.md", &page);
}

#[test]
fn the_manual_explains_each_kind_of_error() {
    let page = include_str!("../../../../docs/src/reference/errors.md");
    let kinds = names::<ErrorKind>();
    for name in &kinds {
        let kind: ErrorKind = serde_json::from_value(json!(name)).unwrap();
        let row = format!("\n| `{name}` | {} | ", ApiError::new(kind, "").http_status());
        assert!(page.contains(&row), "errors.md has no row {row}");
    }
    let (_, table) = page.split_once("| kind | HTTP status |").unwrap();
    let rows = table.split("\n\n").next().unwrap_or_default().lines().filter(|line| line.starts_with("| `"));
    assert_eq!(rows.count(), kinds.len());
}
