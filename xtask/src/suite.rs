//! Runs everything that CI runs, step by step.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    arrows, book,
    command::{cargo, check},
    deny, lab,
    programs::{self, TEST_FEATURES},
    project::Project,
    scenarios, setup, template, test_programs, words,
};

pub(crate) fn run(project: &Project, with_lab: bool) -> Result<()> {
    let mut steps = Steps::default();
    let result = run_steps(&mut steps, project, with_lab);
    steps.summary();
    result
}

fn run_steps(steps: &mut Steps, project: &Project, with_lab: bool) -> Result<()> {
    steps.step("setup", setup::run)?;
    // Runs beside the checks: it needs none of banger's programs and mostly waits for the mirror and the disk.
    let systems = || {
        if with_lab {
            lab::fetch(project)?;
        }
        template::build_systems(project)?;
        book::install(project).map(drop)
    };
    thread::scope(|scope| {
        let systems = scope.spawn(systems);
        before_scenarios(steps, project)?;
        steps.step("template", || {
            systems.join().unwrap_or_else(|_| bail!("a thread panicked"))?;
            template::prepare(project)
        })
    })?;
    steps.step("manual", || book::run(project))?;
    let (mut host_count, mut lab_count) = (0, 0);
    steps.step("scenarios here", || {
        host_count = scenarios::run(project)?;
        Ok(())
    })?;
    if with_lab {
        steps.step("scenarios in the lab", || {
            lab_count = lab::scenarios(project, false)?;
            Ok(())
        })?;
    }
    println!("scenarios run: {host_count} here, {lab_count} in the lab");
    Ok(())
}

/// Checks, tests and builds.
fn before_scenarios(steps: &mut Steps, project: &Project) -> Result<()> {
    let run = |arguments: &[&str]| check(&mut cargo(project, arguments));
    steps.step("format", || run(&["fmt", "--all", "--check"]))?;
    steps.step("arrows", || arrows::run(project))?;
    steps.step("words", || words::run(project))?;
    steps.step("third-party crates", || deny::run(project))?;
    let clippy = |targets: &[&str]| {
        let workspace = ["clippy", "--workspace", "--features", TEST_FEATURES];
        run(&[&workspace[..], targets, &["--", "-D", "warnings"]].concat())
    };
    // All targets are all but those with `test = false`.
    steps.step("clippy", || clippy(&["--all-targets"]).and_then(|()| clippy(&["--test", "scenarios"])))?;
    steps.step("documentation", || {
        let doc = ["doc", "--workspace", "--features", TEST_FEATURES, "--no-deps", "--quiet"];
        check(cargo(project, &doc).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    let mut tests = Vec::new();
    steps.step("compile unit tests", || {
        // `--tests` includes the tests in libraries and programs, but no doc tests: there are none.
        tests = test_programs::build(project, &["--tests"])?;
        Ok(())
    })?;
    // The tests also wait, and the compiler uses the processors meanwhile.
    steps.step("unit tests and build", || {
        thread::scope(|scope| {
            let build = scope.spawn(|| programs::build(project, None));
            let result = test_programs::run(project, &tests);
            build.join().unwrap_or_else(|_| bail!("a thread panicked"))?;
            result
        })
    })?;
    steps.step("build with fail points", || programs::build_with_fail_points(project))
}

/// The finished steps, each with its duration and whether it passed.
#[derive(Debug, Default)]
struct Steps {
    done: Vec<(&'static str, Duration, bool)>,
}

impl Steps {
    fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("==> {name} (after {:.1} s)", self.total().as_secs_f64());
        let start = Instant::now();
        let result = work();
        self.done.push((name, start.elapsed(), result.is_ok()));
        result.with_context(|| format!("step `{name}` failed"))
    }

    fn summary(&self) {
        println!("==> summary");
        for (name, time, passed) in &self.done {
            println!("{:8.1} s  {}  {name}", time.as_secs_f64(), if *passed { "ok    " } else { "FAILED" });
        }
        println!("{:8.1} s  in total", self.total().as_secs_f64());
    }

    fn total(&self) -> Duration {
        self.done.iter().map(|(_, time, _)| *time).sum()
    }
}
