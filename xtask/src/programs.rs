//! Builds the programs and puts them into one directory.

use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{cargo, check, say},
    elf,
    project::Project,
};

/// Target triple of all builds.
pub(crate) const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Features that only tests use. Cargo reuses a compiled library only if its features are the same, so all builds
/// select the whole workspace, and test builds have these features.
pub(crate) const TEST_FEATURES: &str =
    "banger/fail-points,bangerd/fail-points,banger-fuzz/libfuzzer,banger-hostile/clock";

/// Maximum size of the agent in bytes, because every boot initrd contains it.
const AGENT_LIMIT: usize = 3 << 20;

/// Builds the programs and copies them to `out`, by default `target/banger`.
pub(crate) fn build(project: &Project, out: Option<&Path>) -> Result<()> {
    say("building banger, bangerd and banger-vsock-device");
    let programs = [
        "build",
        "--release",
        "--workspace",
        "--bin",
        "banger",
        "--bin",
        "bangerd",
        "--bin",
        "banger-vsock-device",
    ];
    check(&mut cargo(project, &programs))?;
    say("building banger-agent");
    check(
        cargo(project, &["build", "-p", "banger-agent", "--profile", "agent", "--target", TRIPLE])
            .env("RUSTFLAGS", "-C target-feature=+crt-static"),
    )?;

    let target_dir = project.cargo_target();
    let agent = target_dir.join(TRIPLE).join("agent/banger-agent");
    let bytes = fs::read(&agent).with_context(|| agent.display().to_string())?;
    ensure!(elf::is_static(&bytes)?, "{} is not static", agent.display());
    ensure!(
        bytes.len() < AGENT_LIMIT,
        "banger-agent has {} bytes, over its limit of {AGENT_LIMIT}",
        bytes.len()
    );

    let out = out.map_or_else(|| project.programs(), Path::to_path_buf);
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    for program in ["banger", "bangerd", "banger-vsock-device"] {
        install(&target_dir.join("release").join(program), &out)?;
    }
    install(&agent, &out)
}

/// Builds banger and bangerd with fail points and copies them to `target/banger-fail`, together with the other
/// programs, which must already be built.
pub(crate) fn build_with_fail_points(project: &Project) -> Result<()> {
    say("building banger and bangerd with fail points");
    let programs = ["banger", "bangerd"];
    // With the test profile, whose libraries are already compiled.
    let build =
        ["build", "--workspace", "--features", TEST_FEATURES, "--bin", programs[0], "--bin", programs[1]];
    check(&mut cargo(project, &build))?;
    let out = project.programs_with_fail_points();
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    for program in programs {
        install(&project.cargo_target().join("debug").join(program), &out)?;
    }
    for program in ["banger-agent", "banger-vsock-device"] {
        install(&project.programs().join(program), &out)?;
    }
    Ok(())
}

/// Copies `program` into a directory atomically, unless that file has the same bytes: a new file is a new build, for
/// which the client replaces a running daemon.
fn install(program: &Path, dir: &Path) -> Result<()> {
    let target = dir.join(program.file_name().context("the program has no file name")?);
    let bytes = fs::read(program).with_context(|| program.display().to_string())?;
    if fs::read(&target).is_ok_and(|existing| existing == bytes) {
        return Ok(());
    }
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
    file.persist(&target).with_context(|| target.display().to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn install_keeps_an_identical_file_and_replaces_others() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("program"), dir.path().join("out"));
        fs::create_dir(&to).unwrap();
        let inode = || fs::metadata(to.join("program")).unwrap().ino();

        fs::write(&from, "one").unwrap();
        install(&from, &to).unwrap();
        let first = inode();
        install(&from, &to).unwrap();
        assert_eq!(inode(), first);

        fs::write(&from, "two").unwrap();
        install(&from, &to).unwrap();
        assert_ne!(inode(), first);
        assert_eq!(fs::metadata(to.join("program")).unwrap().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }
}
