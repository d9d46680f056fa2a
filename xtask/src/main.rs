//! Work on the project: set up, build, check, test, and a throw-away host with real KVM.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a program for people at a terminal

mod arrows;
mod bench;
mod command;
mod debian;
mod deny;
mod elf;
mod fuzz;
mod lab;
mod programs;
mod project;
mod scenarios;
mod setup;
mod suite;
mod template;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use command::say;
use project::Project;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Work on the project")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Installs the packages and programs that are missing
    Setup,
    /// Builds the programs into target/banger/
    Build {
        /// Where to put the programs instead
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Sets up, builds, boots a VM and runs a command in it
    Try,
    /// Checks which crates and modules depend on which
    Arrows,
    /// Checks licences, banned crates, duplicates and sources of third-party crates
    Deny,
    /// Fetches the image and the kernel that the scenarios start from, once
    Template,
    /// Everything that CI runs
    Test {
        /// Leaves the lab out
        #[arg(long)]
        no_lab: bool,
    },
    /// A throw-away host with real KVM: runs a command in it, or a shell
    Lab(lab::Arguments),
    /// Runs the fuzz targets with libFuzzer
    Fuzz(fuzz::Arguments),
    /// Measures what banger adds to what it uses, beside the goals
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let project = Project::find()?;
    match task {
        Task::Setup => setup::run()?,
        Task::Build { out } => programs::build(&project, out.as_deref())?,
        Task::Try => {
            say("the first run takes about 8 minutes on 2 processors, later runs take seconds");
            say("step 1 of 3: installing packages");
            setup::run()?;
            say("step 2 of 3: compiling");
            programs::build(&project, None)?;
            say("step 3 of 3: booting a VM: banger vm run --rm --timing -- uname -a");
            let mut banger = std::process::Command::new(project.programs().join("banger"));
            return command::status_of(banger.args(["vm", "run", "--rm", "--timing", "--", "uname", "-a"]));
        }
        Task::Arrows => arrows::run(&project)?,
        Task::Deny => deny::run(&project)?,
        Task::Template => template::prepare(&project)?,
        Task::Test { no_lab } => suite::run(&project, !no_lab)?,
        Task::Fuzz(arguments) => fuzz::run(&project, &arguments)?,
        Task::Lab(arguments) => return lab::run(&project, &arguments),
        Task::Bench(arguments) => bench::run(&project, &arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
