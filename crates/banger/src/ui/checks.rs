//! Checks, one a line, and under each that is not as it should be what to do about it.

use std::{fmt::Write as _, io, io::Write as _, process::ExitCode};

use anstyle::{AnsiColor, Style};
use banger_api::{Check, Verdict};
use unicode_width::UnicodeWidthStr;

use super::{Format, HINT, Ui, harmless, table::Output};
use crate::hints::hint_for;

impl Ui {
    /// Prints `checks` as a table, as JSON, or as the names of those that do not pass; fails when one of them does.
    pub(crate) fn checks(&self, format: &Format, checks: &[Check]) -> io::Result<ExitCode> {
        let checks: Vec<_> = checks.iter().map(with_hint).collect();
        match format {
            Format { quiet: true, .. } => {
                let troubled = checks.iter().filter(|check| check.verdict != Verdict::Pass);
                troubled.map(|check| &check.name).try_for_each(|name| self.line(harmless(name)))?;
            }
            Format { output: Output::Json, .. } => self.json(&checks)?,
            Format { .. } => write!(anstream::stdout(), "{}", lines(&checks))?,
        }
        let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// A check with what to do about its error in words.
fn with_hint(check: &Check) -> Check {
    let of_error = check.error.as_ref().and_then(|error| hint_for(error));
    Check { hint: check.hint.clone().or(of_error), error: None, ..check.clone() }
}

fn lines(checks: &[Check]) -> String {
    let name = |check: &Check| on_one_line(&check.name);
    let widest = checks.iter().map(|check| name(check).width()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let (style, name) = (style(check.verdict), name(check));
        let blank = " ".repeat(widest - name.width());
        let message = on_one_line(&check.message);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{style}{}{style:#}   {name}{blank}   {message}", check.verdict);
        if let Some(hint) = &check.hint {
            let indent = " ".repeat("PASS".len() + 3 + widest + 3);
            let _ = writeln!(text, "{indent}{HINT}hint:{HINT:#} {}", on_one_line(hint));
        }
    }
    text
}

fn on_one_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

fn style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Pass => AnsiColor::Green.on_default(),
        Verdict::Warn => AnsiColor::Yellow.on_default().bold(),
        Verdict::Fail => AnsiColor::Red.on_default().bold(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_stands_under_what_is_wrong() {
        let checks = [
            Check::pass("state", "running"),
            Check::warn("disk /root", "93% full", "delete what is not needed"),
            Check::fail("clöck", "2 days \x1b[31moff", "restart\nthe VM"),
        ];
        let plain = anstream::adapter::strip_str(&lines(&checks)).to_string();
        insta::assert_snapshot!(plain, @r"
        PASS   state        running
        WARN   disk /root   93% full
                            hint: delete what is not needed
        FAIL   clöck        2 days [31moff
                            hint: restart the VM
        ");
    }
}
