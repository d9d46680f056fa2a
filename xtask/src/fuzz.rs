//! Runs the fuzz targets with libFuzzer.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{cargo, check, say},
    programs::TRIPLE,
    project::Project,
};

/// Compiler flags for libFuzzer's coverage of edges and comparisons, the same as `cargo fuzz` uses.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions";

/// Timeout for one input, which is then reported as a failure.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Targets to run; all by default
    targets: Vec<String>,
    /// Seconds per target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Add inputs that reach new code to fuzz/corpus/
    #[arg(long)]
    save: bool,
}

pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    let corpus = project.root().join("fuzz/corpus");
    let all = target_names(&corpus)?;
    let targets = if arguments.targets.is_empty() { &all } else { &arguments.targets };
    for target in targets {
        ensure!(all.contains(target), "unknown target {target}; the targets are {}", all.join(", "));
    }

    let out = project.target().join("fuzz");
    // With a target triple, build scripts and macros are not instrumented.
    let build = ["build", "--release", "-p", "banger-fuzz", "--features", "link", "--target", TRIPLE];
    check(cargo(project, &build).arg("--target-dir").arg(&out).env("RUSTFLAGS", COVERAGE))?;
    let program = out.join(TRIPLE).join("release/banger-fuzz");
    for target in targets {
        say(format_args!("fuzzing {target} for {} s", arguments.seconds));
        let [new_inputs, artifacts] = ["found", "artifacts"].map(|kind| out.join(kind).join(target));
        fs::create_dir_all(&new_inputs)?;
        fs::create_dir_all(&artifacts)?;
        let saved_inputs = corpus.join(target);
        let fuzz = |directories: [&Path; 2]| {
            let mut fuzz = Command::new(&program);
            fuzz.env("BANGER_FUZZ_TARGET", target)
                .args(directories)
                .arg(format!("-artifact_prefix={}/", artifacts.display()))
                .arg(format!("-timeout={}", TIMEOUT.as_secs()))
                .args(["-rss_limit_mb=1024", "-print_funcs=0", "-verbosity=0"]);
            fuzz
        };
        // libFuzzer writes new inputs to the first directory.
        check(
            fuzz([&new_inputs, &saved_inputs])
                .arg(format!("-max_total_time={}", arguments.seconds))
                .arg("-print_final_stats=1"),
        )
        .with_context(|| format!("{target} failed; its input is in {}", artifacts.display()))?;
        if arguments.save {
            // Keep only inputs that reach new code: hit counts and comparisons would add hundreds.
            check(fuzz([&saved_inputs, &new_inputs]).args([
                "-set_cover_merge=1",
                "-use_counters=0",
                "-use_cmp=0",
            ]))?;
        }
    }
    Ok(())
}

/// Returns the targets' names. Each target has a corpus, or its test fails.
fn target_names(corpus: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(corpus).with_context(|| corpus.display().to_string())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
