//! Kernels in every format: imported, shown, booted, refused.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use banger_smoke::{Host, scenario};
use serde_json::Value;

/// Maximum size of the boot initrd, in bytes: each start reads, copies and unpacks it.
const MAX_INITRD: u64 = 8 << 20;

/// Returns the directory of a kernel's files.
fn kernel_dir(host: &Host, kernel: &str) -> Result<PathBuf> {
    let id = host.ok(&["kernel", "show", "-q", kernel])?;
    Ok(host.path("state/banger/kernels").join(id.trim()))
}

/// Builds an RPM with these files, each a source and its path in the package.
fn rpm(host: &Host, name: &str, files: &[(&Path, &str)]) -> Result<String> {
    let (root, top) = (host.path(&format!("{name}.root")), host.path("rpm"));
    for (source, path) in files {
        let target = root.join(path);
        fs::create_dir_all(target.parent().context("no parent")?)?;
        let copied = Command::new("cp").arg("-rl").arg(source).arg(&target).status()?;
        ensure!(copied.success(), "cannot copy {}", source.display());
    }
    let spec = host.path(&format!("{name}.spec"));
    let text = format!(
        "Name: {name}\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nAutoReqProv: no\n%description\nx\n%install\n\
         cp -a {}/. %{{buildroot}}/\n%files\n/*\n",
        root.display()
    );
    fs::write(&spec, text)?;
    let mut build = Command::new("rpmbuild");
    for (macro_name, value) in [
        ("_topdir", top.to_str().context("no UTF-8")?),
        ("_rpmfilename", &format!("{name}.rpm")),
        ("_binary_payload", "w1.zstdio"),
        ("__os_install_post", "%{nil}"),
        ("_build_id_links", "none"),
    ] {
        build.arg("--define").arg(format!("{macro_name} {value}"));
    }
    let built = build.arg("-bb").arg(&spec).output().context("rpmbuild (package rpm)")?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Ok(top.join(format!("RPMS/{name}.rpm")).display().to_string())
}

/// Returns how a kernel provides a driver: built in, as a module, or not.
fn presence(kernel: &Value, driver: &str) -> Value {
    let drivers = kernel["details"]["drivers"].as_array().into_iter().flatten();
    drivers
        .filter(|entry| entry["name"] == driver)
        .map(|entry| entry["presence"].clone())
        .next()
        .unwrap_or_default()
}

#[scenario(Here)]
fn a_kernel_from_several_rpms_is_imported_and_boots() -> Result<()> {
    let host = Host::tiny()?;
    let debian = host.json(&["kernel", "show", "debian-cloud"])?;
    let release = debian["release"].as_str().context("release")?.to_owned();
    let files = kernel_dir(&host, "debian-cloud")?;
    let lib = format!("lib/modules/{release}");
    let core = rpm(
        &host,
        "kernel-core",
        &[
            (&files.join("vmlinux"), &format!("{lib}/vmlinuz")),
            (&files.join("modules/modules.builtin"), &format!("{lib}/modules.builtin")),
        ],
    )?;
    let modules = rpm(&host, "kernel-modules", &[(&files.join("modules/kernel"), &format!("{lib}/kernel"))])?;

    let alone = host.banger(&["kernel", "import", "rpm", &core])?;
    alone.fails(1, &["CONFIG_VIRTIO_BLK=y or =m", "in one command"])?;
    host.banger(&["kernel", "import", "rpm", &modules])?.fails(1, &["no kernel found"])?;
    assert_eq!(host.ok(&["kernel", "import", "rpm", &core, &modules])?, "rpm\n");

    let kernel = host.json(&["kernel", "show", "rpm"])?;
    assert_eq!((&kernel["release"], &kernel["source"]), (&debian["release"], &Value::from("rpm")));
    assert_eq!(kernel["details"], debian["details"]);
    assert_eq!(
        (presence(&kernel, "ext4"), presence(&kernel, "overlay")),
        ("built_in".into(), "module".into())
    );
    let shown = host.ok(&["kernel", "show", "rpm"])?;
    assert!(shown.contains("boots with:   firecracker, qemu"), "{shown}");

    let run =
        ["vm", "run", "--rm", "--kernel", "rpm", "--image", "tiny", "--", "/bin/busybox", "uname", "-r"];
    assert_eq!(host.ok(&run)?, format!("{release}\n"));
    let id = kernel["id"].as_str().context("id")?;
    let initrds = || -> Result<Vec<fs::Metadata>> {
        let entries =
            fs::read_dir(host.path("cache/banger/initrds"))?.collect::<std::io::Result<Vec<_>>>()?;
        let own = entries.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(id));
        own.map(|entry| Ok(entry.metadata()?)).collect()
    };
    let created = initrds()?;
    assert!(created.len() == 1 && created[0].len() < MAX_INITRD, "{created:?}");
    host.ok(&["kernel", "delete", "rpm"])?;
    assert!(initrds()?.is_empty());
    host.nothing_left()
}

#[scenario(Here, Lab)]
fn vm_run_rejects_a_kernel_that_the_vmm_cannot_boot() -> Result<()> {
    let host = Host::tiny()?;
    let files = kernel_dir(&host, "debian-cloud")?;
    let image = files.join("vmlinux").display().to_string();
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "tiny"])?;
    let vmm = host.json(&["vm", "show", "box"])?["vmm"].as_str().context("no VMM")?.to_owned();
    let (module, option) = match vmm.as_str() {
        "qemu" => ("virtio_pci", "CONFIG_VIRTIO_PCI"),
        _ => ("virtio_mmio", "CONFIG_VIRTIO_MMIO"),
    };
    let modules = host.path("modules");
    let copied = Command::new("cp").arg("-rl").arg(files.join("modules")).arg(&modules).status()?;
    ensure!(copied.success(), "cannot copy the modules");
    fs::remove_file(modules.join(format!("kernel/drivers/virtio/{module}.ko")))?;
    host.ok(&["kernel", "import", "other", "--image", &image, "--modules", &modules.display().to_string()])?;
    let kernel = host.json(&["kernel", "show", "other"])?;
    assert_eq!(
        (&kernel["details"][&vmm], presence(&kernel, module)),
        (&Value::from(false), "missing".into())
    );
    let run = ["vm", "run", "--rm", "--kernel", "other", "--image", "tiny", "--", "/bin/busybox", "true"];
    host.banger(&run)?.fails(125, &[&format!("{vmm} cannot boot kernel other"), option, "--kernel"])?;
    host.ok(&["vm", "delete", "--force", "box"])?;
    host.nothing_left()
}

#[scenario(Here, LabMore)]
fn a_kernel_is_imported_from_a_directory() -> Result<()> {
    let host = Host::new()?;
    let files = kernel_dir(&host, "debian-cloud")?;
    let dir = host.path("directory");
    fs::create_dir(&dir)?;
    fs::hard_link(files.join("vmlinux"), dir.join("vmlinux"))?;
    fs::write(dir.join("config"), "CONFIG_9P_FS=y\n")?;
    let path = dir.display().to_string();

    // Without modules, the drivers that Debian builds as modules are missing.
    host.banger(&["kernel", "import", "alone", &path])?.fails(1, &["CONFIG_VIRTIO_BLK=y or =m"])?;
    let vmlinux = dir.join("vmlinux").display().to_string();
    host.banger(&["kernel", "import", "alone", &vmlinux])?.fails(1, &["CONFIG_VIRTIO_BLK=y or =m"])?;

    std::os::unix::fs::symlink(files.join("modules"), dir.join("modules"))?;
    assert_eq!(host.ok(&["kernel", "import", "directory", &path])?, "directory\n");
    let kernel = host.json(&["kernel", "show", "directory"])?;
    assert_eq!(kernel["source"], "files");
    let debian = host.json(&["kernel", "show", "debian-cloud"])?;
    assert_eq!(kernel["details"]["modules"], debian["details"]["modules"]);

    fs::hard_link(files.join("modules/modules.builtin"), dir.join("vmlinuz"))?;
    let several = host.banger(&["kernel", "import", "other", &path])?;
    several.fails(1, &["several kernels", "/vmlinux, ", "/vmlinuz", "--image FILE"])?;
    host.banger(&["kernel", "import", "other", &path, &vmlinux])?.fails(2, &["must be imported alone"])?;
    host.banger(&["kernel", "import", "directory", &path])?.fails(1, &["--image FILE"])?;
    Ok(())
}

#[scenario(Here)]
fn the_catalog_lists_kernels_and_marks_local_ones() -> Result<()> {
    let host = Host::new()?;
    let available = host.json(&["kernel", "list", "--available"])?;
    let kernels = available.as_array().context("no list")?;
    let is_local = |name: &str| {
        kernels.iter().find(|kernel| kernel["name"] == name).map(|kernel| kernel["here"].clone())
    };
    assert_eq!(is_local("debian-cloud"), Some(true.into()));
    assert_eq!(is_local("firecracker-6.1"), Some(false.into()));
    let names = host.ok(&["kernel", "list", "--available", "-q"])?;
    assert_eq!(names.lines().count(), kernels.len());
    host.banger(&["kernel", "pull", "other"])?
        .fails(1, &["the catalog has no kernel other", "debian-cloud"])?;
    // A local kernel is not downloaded again.
    assert_eq!(host.ok(&["kernel", "pull", "debian-cloud"])?, "debian-cloud\n");
    Ok(())
}
