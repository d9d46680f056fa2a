//! Builds the scenarios' test program, lists its scenarios and runs them on this machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{check, find_program, output},
    project::Project,
    test_programs,
};

/// A scenario of a tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) slow: bool,
}

/// Compiles the test program and returns its path.
pub(crate) fn build(project: &Project) -> Result<PathBuf> {
    let mut programs = test_programs::build(project, &["--test", "scenarios"])?;
    Ok(programs.pop().context("cargo has built no scenarios")?.path)
}

/// Returns the scenarios of a tier, in the order in which they start.
pub(crate) fn list(program: &Path, tier: &str) -> Result<Vec<Scenario>> {
    let listed = output(Command::new(program).args(["--list", "--tier", tier]))?;
    let scenarios = parse(&String::from_utf8(listed)?);
    ensure!(!scenarios.is_empty(), "there is no scenario of tier {tier}");
    Ok(scenarios)
}

fn parse(listed: &str) -> Vec<Scenario> {
    let scenario = |line: &str| match line.strip_suffix(" slow") {
        Some(name) => Scenario { name: name.to_owned(), slow: true },
        None => Scenario { name: line.to_owned(), slow: false },
    };
    listed.lines().map(scenario).collect()
}

/// Number of scenarios that run at a time: on two processors a tenth faster than two, since they also wait.
const AT_A_TIME: &str = "3";

/// Runs the scenarios of tier `here`, and returns how many there are.
pub(crate) fn run(project: &Project) -> Result<usize> {
    let program = build(project)?;
    let count = list(&program, "here")?.len();
    check(Command::new(program).args([
        "--tier",
        "here",
        "--test-threads",
        AT_A_TIME,
        "--expect",
        &expected_vmm(),
    ]))?;
    Ok(count)
}

/// Returns the VMM and accelerator that VMs must use on this machine, found without banger's own check of KVM.
fn expected_vmm() -> String {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_kvm = flags.split_whitespace().any(|word| word == "vmx" || word == "svm")
        && fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let vmm = env::var("BANGER_VMM").unwrap_or_else(|_| {
        let firecracker = has_kvm && find_program("firecracker").is_some();
        if firecracker { "firecracker".to_owned() } else { "qemu".to_owned() }
    });
    format!("{vmm}/{}", if has_kvm { "kvm" } else { "tcg" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_scenario_is_slow_if_its_line_ends_with_slow() {
        let [slow, other] = [("soak::many", true), ("ssh::slow", false)]
            .map(|(name, slow)| Scenario { name: name.into(), slow });
        assert_eq!(parse("soak::many slow\nssh::slow\n"), [slow, other]);
    }
}
