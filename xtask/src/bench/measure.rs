//! Times, ratios and goals.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::command::{check, say};

/// Measures both in turn, so that other load on the machine affects both.
pub(super) fn compare(
    name: &str,
    goal: f64,
    runs: usize,
    mut banger: impl FnMut() -> Result<Duration>,
    mut bare: impl FnMut() -> Result<Duration>,
) -> Result<()> {
    say(format!("measuring {name}"));
    let (banger, bare) = medians(runs, &mut banger, &mut bare)?;
    print_comparison(name, banger, bare, goal);
    Ok(())
}

fn medians(
    runs: usize,
    banger: &mut impl FnMut() -> Result<Duration>,
    bare: &mut impl FnMut() -> Result<Duration>,
) -> Result<(Duration, Duration)> {
    // The first run fills the caches and is not counted.
    banger()?;
    bare()?;
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..runs {
        times.0.push(banger()?);
        times.1.push(bare()?);
    }
    Ok((median(&mut times.0), median(&mut times.1)))
}

pub(super) fn print_comparison(name: &str, banger: Duration, bare: Duration, goal: f64) {
    let ratio = banger.as_secs_f64() / bare.as_secs_f64();
    let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let (banger, bare) = (milliseconds(banger), milliseconds(bare));
    println!("{name:36} {banger:>10} {bare:>10} {ratio:8.2} {goal:8.2}  {}", verdict(ratio, goal));
}

pub(super) fn print_measurement(name: &str, measured: f64, goal: f64) {
    println!("{name:36} {measured:10.1} {:>10} {:>8} {goal:8.1}  {}", "", "", verdict(measured, goal));
}

/// Measures both in turn, as [`compare`] does, and prints the rates at which they carry `bytes`.
pub(super) fn compare_rates(
    name: &str,
    goal: f64,
    runs: usize,
    bytes: u64,
    mut banger: impl FnMut() -> Result<Duration>,
    mut bare: impl FnMut() -> Result<Duration>,
) -> Result<()> {
    say(format!("measuring {name}"));
    let (banger, bare) = medians(runs, &mut banger, &mut bare)?;
    let rate = |time: Duration| bytes as f64 / time.as_secs_f64() / 1e6;
    print_share(name, rate(banger), rate(bare), goal);
    Ok(())
}

/// Prints rates in MB/s, of which banger's must be at least `goal` times the bare one.
pub(super) fn print_share(name: &str, banger: f64, bare: f64, goal: f64) {
    let share = banger / bare;
    let verdict = if share >= goal { "ok" } else { "UNDER" };
    let rate = |rate: f64| format!("{rate:.1} MB/s");
    println!("{name:36} {:>10} {:>10} {share:8.2} {goal:8.2}  {verdict}", rate(banger), rate(bare));
}

/// Prints a figure that has no goal.
pub(super) fn print_figure(name: &str, measured: f64) {
    println!("{name:36} {measured:10.1}");
}

fn verdict(measured: f64, goal: f64) -> &'static str {
    if measured <= goal { "ok" } else { "OVER" }
}

pub(super) fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

pub(super) fn timed(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    check(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value() {
        let mut times = [9, 1, 5].map(Duration::from_secs);
        assert_eq!(median(&mut times), Duration::from_secs(5));
    }
}
