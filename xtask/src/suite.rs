//! Everything that CI runs, one step after the other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{
    arrows,
    command::{cargo, check},
    fuzz, lab, programs,
    project::Project,
    setup, template,
};

/// How long each fuzz target is run: enough to see that it still finds its way, not to look for what is rare.
const FUZZ: Duration = Duration::from_secs(5);

pub(crate) fn run(project: &Project, with_lab: bool) -> Result<()> {
    let mut steps = Steps::default();
    let result = all(&mut steps, project, with_lab);
    steps.summary();
    result
}

fn all(steps: &mut Steps, project: &Project, with_lab: bool) -> Result<()> {
    let run = |arguments: &[&str]| check(&mut cargo(project, arguments));
    steps.step("setup", setup::run)?;
    steps.step("format", || run(&["fmt", "--all", "--check"]))?;
    steps.step("arrows", || arrows::run(project))?;
    steps.step("clippy", || run(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    steps.step("documentation", || {
        let mut doc = cargo(project, &["doc", "--workspace", "--no-deps", "--quiet"]);
        check(doc.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    steps.step("unit tests", || run(&["test", "--workspace", "--exclude", "banger-smoke"]))?;
    steps.step("fuzz targets", || fuzz::run_all(project, FUZZ))?;
    steps.step("build", || programs::build(project, None))?;
    steps.step("build with fail points", || programs::build_failing(project))?;
    steps.step("template", || template::prepare(project))?;
    steps.step("scenarios here", || run(&["test", "-p", "banger-smoke", "--", "--test-threads=2"]))?;
    if with_lab {
        steps.step("scenarios in the lab", || lab::scenarios(project))?;
    }
    Ok(())
}

/// The steps done so far, each with its time and whether it passed.
#[derive(Debug, Default)]
struct Steps {
    done: Vec<(&'static str, Duration, bool)>,
}

impl Steps {
    fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("==> {name}");
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
        let total: Duration = self.done.iter().map(|(_, time, _)| *time).sum();
        println!("{:8.1} s  in all", total.as_secs_f64());
    }
}
