//! The program that gives QEMU's guests a vsock, built from its published source with what it lacks.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::{
    command::{cargo, check, say},
    project::Project,
};

const NAME: &str = "vhost-device-vsock";

/// The package that has all that is built, by the versions to which the fixes fit.
const MANIFEST: &str = r#"
[package]
name = "sources"
version = "0.0.0"
edition = "2024"

[dependencies]
vhost-device-vsock = "=0.3.0"
vhost-user-backend = "=0.20.0"

[workspace]
"#;

const PROGRAM: &str = "vhost-device-vsock-0.3.0";
const BACKEND: &str = "vhost-user-backend-0.20.0";

/// A change to a file of those sources.
struct Fix {
    file: &'static str,
    old: &'static str,
    new: &'static str,
}

const FIXES: [Fix; 2] = [
    // Whatever the host's side does while a VM is paused comes to a queue that QEMU has stopped, and that is an error. With the
    // first one the thread ended that serves the guest, for good.
    Fix {
        file: "vhost-user-backend-0.20.0/src/event_loop.rs",
        old: "                if self.handle_event(ev_type, evset)? {
                    break 'epoll;
                }
",
        new: "                match self.handle_event(ev_type, evset) {
                    Ok(true) => break 'epoll,
                    Ok(false) => {}
                    Err(e) => println!(\"epoll: event not handled: {e}\"),
                }
",
    },
    // Nor may it end because a client has gone before the guest has answered it.
    Fix {
        file: "vhost-device-vsock-0.3.0/src/vsock_conn.rs",
        old: "                    self.stream.write_all(response.as_bytes()).unwrap();
",
        new: "                    if self.stream.write_all(response.as_bytes()).is_err() {
                        self.rx_queue.enqueue(RxOps::Reset);
                        return Ok(());
                    }
",
    },
];

/// Builds it, unless it is there as it would be built now.
pub(crate) fn prepare(project: &Project) -> Result<()> {
    let tools = project.tools();
    let program = tools.join("bin").join(NAME);
    let recipe: String = FIXES.iter().flat_map(|fix| [MANIFEST, fix.file, fix.old, fix.new]).collect();
    let recipe: String = Sha256::digest(recipe).iter().map(|byte| format!("{byte:02x}")).collect();
    let built = tools.join(format!("{NAME}.recipe"));
    if program.exists() && fs::read_to_string(&built).is_ok_and(|there| there == recipe) {
        return Ok(());
    }
    say(format!("building {NAME}"));
    let sources = tools.join("sources");
    let _ = fs::remove_dir_all(&sources);
    fs::create_dir_all(sources.join("src")).with_context(|| sources.display().to_string())?;
    fs::write(sources.join("Cargo.toml"), MANIFEST)?;
    fs::write(sources.join("src/lib.rs"), "")?;
    let vendor = sources.join("vendor");
    check(
        cargo(project, &["vendor", "--quiet", "--versioned-dirs", "--manifest-path"])
            .arg(sources.join("Cargo.toml"))
            .arg(&vendor)
            .stdout(std::process::Stdio::null()),
    )?;
    for fix in &FIXES {
        apply(fix, &vendor)?;
    }
    // They are below this project's folder, and none of its members.
    for package in [PROGRAM, BACKEND] {
        let manifest = vendor.join(package).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        fs::write(&manifest, text + "\n[workspace]\n")?;
    }
    let backend = vendor.join(BACKEND).display().to_string();
    check(
        cargo(project, &["install", "--quiet", "--locked", "--force", "--path"])
            .arg(vendor.join(PROGRAM))
            .arg("--config")
            .arg(format!("patch.crates-io.vhost-user-backend.path={backend:?}"))
            .arg("--root")
            .arg(&tools)
            .env("CARGO_TARGET_DIR", sources.join("build"))
            .env("RUSTFLAGS", "--cap-lints allow"),
    )?;
    ensure!(program.exists(), "{NAME} was installed, but is not at {}", program.display());
    fs::remove_dir_all(&sources).with_context(|| sources.display().to_string())?;
    fs::write(&built, recipe).with_context(|| built.display().to_string())
}

fn apply(fix: &Fix, vendor: &Path) -> Result<()> {
    let path = vendor.join(fix.file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    ensure!(text.matches(fix.old).count() == 1, "{} is not as the fix expects it", path.display());
    fs::write(&path, text.replace(fix.old, fix.new)).with_context(|| path.display().to_string())
}
