//! Checks, one on each line, with a hint below each that needs attention.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use banger_api::{Check, Verdict, visible_line};
use schemars::JsonSchema;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::{style::HINT, table::MAX_WIDTH};
use crate::hints::hint_for;

/// A check as JSON.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Check")]
pub(crate) struct JsonCheck<'a> {
    /// Its name.
    name: &'a str,
    /// Its result.
    verdict: Verdict,
    /// Its finding.
    message: &'a str,
    /// What to do if it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl<'a> JsonCheck<'a> {
    fn new(check: &'a Check) -> Self {
        Self { name: &check.name, verdict: check.verdict, message: &check.message, hint: hint(check) }
    }
}

pub(super) fn json_checks(checks: &[Check]) -> Vec<JsonCheck<'_>> {
    checks.iter().map(JsonCheck::new).collect()
}

fn hint(check: &Check) -> Option<String> {
    check.error.as_ref().and_then(|error| hint_for(error))
}

pub(super) fn render(checks: &[Check]) -> String {
    let name = |check: &Check| visible_line(&check.name);
    let name_width = checks.iter().map(|check| name(check).width()).max().unwrap_or(0).min(MAX_WIDTH);
    let mut text = String::new();
    for check in checks {
        let (style, name) = (style(check.verdict), name(check));
        let padding = " ".repeat(name_width.saturating_sub(name.width()));
        let message = visible_line(&check.message);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{style}{}{style:#}   {name}{padding}   {message}", check.verdict);
        if let Some(hint) = hint(check) {
            let indent = " ".repeat("PASS".len() + 3 + name_width + 3);
            let _ = writeln!(text, "{indent}{HINT}hint:{HINT:#} {}", visible_line(&hint));
        }
    }
    text
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
    use banger_api::{ApiError, ErrorKind};

    use super::*;

    fn error(message: &str, hint: &str) -> ApiError {
        ApiError::new(ErrorKind::Guest, message).hint(hint)
    }

    #[test]
    fn hints_are_printed_below_their_checks() {
        let checks = [
            Check::pass("state", "running"),
            Check::warn("disk /root", error("93% full", "delete unneeded files")),
            Check::fail("clöck", error("2 days \x1b[31moff", "restart\nthe VM")),
        ];
        let plain = anstream::adapter::strip_str(&render(&checks)).to_string();
        insta::assert_snapshot!(plain, @r"
        PASS   state        running
        WARN   disk /root   93% full
                            hint: delete unneeded files
        FAIL   clöck        2 days ^[[31moff
                            hint: restart the VM
        ");
    }
}
