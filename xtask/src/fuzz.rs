//! The fuzz targets, built and run for a while each.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{cargo, check, say},
    programs::TRIPLE,
    project::Project,
};

/// What libFuzzer sees of a program: its edges and what it compares, as `cargo fuzz` has it for a stable compiler.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions";

/// An input on which a target spends longer has brought it to a standstill.
const STANDSTILL: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The targets; all of them if none is named
    targets: Vec<String>,
    /// How long each is run, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    let all = all(project)?;
    let wanted = if arguments.targets.is_empty() { &all } else { &arguments.targets };
    for target in wanted {
        ensure!(all.contains(target), "there is no target {target}; there are {}", all.join(", "));
    }
    for_a_while(project, wanted, Duration::from_secs(arguments.seconds))
}

/// All targets, for `time` each.
pub(crate) fn run_all(project: &Project, time: Duration) -> Result<()> {
    for_a_while(project, &all(project)?, time)
}

fn for_a_while(project: &Project, targets: &[String], time: Duration) -> Result<()> {
    let out = project.target().join("fuzz");
    // With a triple, what runs while it is built is not instrumented.
    let mut build = cargo(project, &["build", "--release", "--target", TRIPLE]);
    check(
        build
            .args(["--manifest-path", "fuzz/Cargo.toml", "--target-dir"])
            .arg(&out)
            .env("RUSTFLAGS", COVERAGE),
    )?;
    for target in targets {
        say(format_args!("fuzzing {target} for {} s", time.as_secs()));
        let [corpus, artifacts] = ["corpus", "artifacts"].map(|kind| folder(project, kind, target));
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        let mut fuzz = std::process::Command::new(out.join(TRIPLE).join("release").join(target));
        fuzz.arg(&corpus)
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-max_total_time={}", time.as_secs()))
            .arg(format!("-timeout={}", STANDSTILL.as_secs()))
            .args(["-rss_limit_mb=1024", "-print_funcs=0", "-print_final_stats=1", "-verbosity=0"]);
        check(&mut fuzz).with_context(|| format!("what broke {target} is in {}", artifacts.display()))?;
    }
    Ok(())
}

/// The names of all targets.
fn all(project: &Project) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(project.root().join("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    ensure!(!names.is_empty(), "there are no fuzz targets");
    Ok(names)
}

fn folder(project: &Project, kind: &str, target: &str) -> PathBuf {
    project.root().join("fuzz").join(kind).join(target)
}
