//! Developer tasks: set up, build, check, test, and run a throw-away host with real KVM.
#![allow(clippy::print_stdout, clippy::print_stderr)] // prints to a terminal

mod arrows;
mod bench;
mod book;
mod command;
mod debian;
mod deny;
mod elf;
mod fuzz;
mod lab;
#[cfg(test)]
mod messages;
mod programs;
mod project;
#[cfg(test)]
mod promises;
mod python;
mod scenarios;
mod setup;
mod suite;
mod template;
mod test_programs;
mod words;

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
    /// Install missing packages and programs
    Setup,
    /// Build the programs into target/banger/
    Build {
        /// Output directory instead of target/banger/
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Set up, build, boot a VM and run a command in it
    Try,
    /// Check dependencies between crates and between modules
    Arrows,
    /// Check licences, banned crates, duplicates and sources of third-party crates
    Deny,
    /// Build the manual into target/book, and check links
    Book,
    /// Find words in comments and documents that have a plainer one
    Words,
    /// Download the image and the kernel that the scenarios start from, once
    Template,
    /// Run everything that CI runs
    Test {
        /// Skip the lab
        #[arg(long)]
        no_lab: bool,
    },
    /// Run a command or a shell on a throw-away host with real KVM
    Lab(lab::Arguments),
    /// Run the fuzz targets with libFuzzer
    Fuzz(fuzz::Arguments),
    /// Measure banger's overhead and compare it with the goals
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
        Task::Book => book::run(&project)?,
        Task::Words => words::run(&project)?,
        Task::Template => template::prepare(&project)?,
        Task::Test { no_lab } => suite::run(&project, !no_lab)?,
        Task::Fuzz(arguments) => fuzz::run(&project, &arguments)?,
        Task::Lab(arguments) => return lab::run(&project, &arguments),
        Task::Bench(arguments) => bench::run(&project, &arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
