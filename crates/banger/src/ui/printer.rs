//! The printer that commands use.

use std::{
    fmt::Display,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    process::ExitCode,
};

use banger_api::{ApiError, Check, ErrorKind, Verdict};
use banger_client::ByteStream;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    checks,
    console::Console,
    style::{ERROR, HINT, WARNING},
    table::{self, Format, Table},
    text::sanitize,
};
use crate::{error::CommandError, hints::hint_for};

/// Maximum length of an answer to a question, in bytes.
const MAX_ANSWER: u64 = 1000;

/// The printer that commands use.
#[derive(Debug)]
pub(crate) struct Ui {
    /// Time of banger's start, in nanoseconds of [`now_ns`](super::now_ns).
    pub(crate) start_ns: u64,
    /// Whether errors are printed as JSON, because the command prints JSON.
    json_errors: bool,
}

/// An error as JSON: the API's fields, and the hint.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(crate) struct JsonError<'a> {
    #[serde(flatten)]
    error: &'a ApiError,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Ui {
    pub(crate) fn new(start_ns: u64, json_errors: bool) -> Self {
        Self { start_ns, json_errors }
    }

    /// Prints a line of data.
    pub(crate) fn line(&self, text: impl Display) -> io::Result<()> {
        writeln!(io::stdout(), "{text}")
    }

    /// Prints bytes; on a terminal, without control characters.
    pub(crate) fn console(&self, bytes: &[u8]) -> io::Result<()> {
        Console::new().print(bytes)
    }

    /// Prints bytes unchanged.
    pub(crate) fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    /// Prints the parts of a stream as they arrive, as [`Console`] does.
    pub(crate) async fn print_all(&self, mut parts: ByteStream) -> Result<(), CommandError> {
        let mut console = Console::new();
        while let Some(part) = parts.next().await? {
            console.print(&part)?;
        }
        Ok(())
    }

    /// Prints a value as JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.line(text)
    }

    /// Prints a list as a table, as JSON, or as ids only.
    pub(crate) fn list<T: Serialize>(
        &self,
        format: &Format,
        items: &[T],
        id: impl Fn(&T) -> String,
        table: impl FnOnce(&[T]) -> Table,
    ) -> io::Result<()> {
        match format {
            Format { quiet: true, .. } => items.iter().try_for_each(|item| self.line(id(item))),
            Format { output: table::Output::Json, .. } => self.json(&items),
            Format { .. } => write!(io::stdout(), "{}", table(items)),
        }
    }

    /// Prints one value as a table of its fields, as JSON, or as its id only.
    pub(crate) fn show<T: Serialize>(
        &self,
        format: &Format,
        item: &T,
        id: impl Fn(&T) -> String,
        table: impl FnOnce(&T) -> Table,
    ) -> io::Result<()> {
        match format {
            Format { quiet: true, .. } => self.line(id(item)),
            Format { output: table::Output::Json, .. } => self.json(item),
            Format { .. } => write!(io::stdout(), "{}", table(item)),
        }
    }

    /// Prints `checks` as a table, as JSON, or as the names of those that did not pass; returns failure if one
    /// failed.
    pub(crate) fn checks(&self, format: &Format, checks: &[Check]) -> io::Result<ExitCode> {
        match format {
            Format { quiet: true, .. } => {
                let not_passed = checks.iter().filter(|check| check.verdict != Verdict::Pass);
                not_passed.map(|check| &check.name).try_for_each(|name| self.line(sanitize(name)))?;
            }
            Format { output: table::Output::Json, .. } => self.json(&checks::json_checks(checks))?,
            Format { .. } => write!(anstream::stdout(), "{}", checks::render(checks))?,
        }
        let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Prints a table as data.
    pub(crate) fn table(&self, table: Table) -> io::Result<()> {
        write!(io::stdout(), "{table}")
    }

    /// Returns whether a user can answer questions.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks `question`; returns whether the user answered yes. Any other answer means no.
    pub(crate) fn ask(&self, question: impl Display) -> io::Result<bool> {
        write!(io::stderr(), "{question} [y/N] ")?;
        let mut answer = String::new();
        BufReader::new(io::stdin().take(MAX_ANSWER)).read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// Prints a message.
    pub(crate) fn note(&self, message: impl Display) {
        self.stderr(format_args!("{}", sanitize(&message.to_string())));
    }

    /// Prints a warning.
    pub(crate) fn warning(&self, message: impl Display) {
        self.stderr(format_args!("{WARNING}warning:{WARNING:#} {}", sanitize(&message.to_string())));
    }

    /// Prints what failed, why, what to do next, and where the log is. If the command prints JSON, this is one line of
    /// JSON.
    pub(crate) fn error(&self, error: &ApiError) {
        // A path that is not UTF-8 cannot be JSON; the text can show it.
        if let Some(json) = json_line(error).filter(|_| self.json_errors) {
            return self.stderr(format_args!("{json}"));
        }
        let colon = if error.causes.is_empty() { "" } else { ":" };
        self.stderr(format_args!("{ERROR}error:{ERROR:#} {}{colon}", sanitize(&error.message)));
        for cause in &error.causes {
            let hint = hint_for(cause).map(|hint| format!(" ({hint})")).unwrap_or_default();
            self.stderr(format_args!("  {}", sanitize(&format!("{}{hint}", cause.message))));
        }
        if !error.console.is_empty() {
            self.stderr(format_args!("the console:"));
            for line in &error.console {
                self.stderr(format_args!("  {}", sanitize(line)));
            }
        }
        if let Some(hint) = hint_for(error) {
            self.stderr(format_args!("{HINT}hint:{HINT:#} {}", sanitize(&hint)));
        }
        if let Some(log) = &error.log {
            self.stderr(format_args!("{HINT}log:{HINT:#} {}", sanitize(log)));
        }
        if error.kind == ErrorKind::Internal {
            self.stderr(format_args!("this is a bug in banger; see `banger daemon logs`"));
        }
    }

    /// Prints a command's error; returns the exit status for `main`.
    pub(crate) fn report_failure(&self, failure: &CommandError) -> ExitCode {
        if let Some(error) = &failure.error {
            self.error(error);
        }
        failure.status.into()
    }

    /// Returns how long ago `then` was.
    pub(crate) fn ago(&self, then: Timestamp) -> String {
        table::ago(Timestamp::now().as_second() - then.as_second())
    }

    fn stderr(&self, line: std::fmt::Arguments<'_>) {
        // Without standard error, there is nowhere to report this.
        let _ = writeln!(anstream::stderr(), "{line}");
    }
}

/// Returns `error` as one line of JSON without control characters; `None` if it has a path that is not UTF-8.
fn json_line(error: &ApiError) -> Option<String> {
    let error = JsonError { error, hint: hint_for(error) };
    serde_json::to_string(&error).ok().map(|json| sanitize(&json))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};

    use banger_api::{Remedy, SubjectKind};
    use serde_json::Value;

    use super::*;

    #[test]
    fn an_error_is_one_line_of_json_that_a_terminal_does_not_obey() {
        let error =
            ApiError::new(ErrorKind::NotFound, "no VM\n\u{1b}[2J\u{9b}2J").about(SubjectKind::Vm, "box");
        let line = json_line(&error).unwrap();
        assert!(!line.contains(char::is_control), "{line:?}");
        let json: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&json["kind"], &json["hint"]), (&"not_found".into(), &"see `banger ps -a`".into()));
        assert_eq!(json["message"], "no VM\n\u{1b}[2J2J");
    }

    #[test]
    fn an_error_with_a_path_that_is_not_utf_8_is_not_json() {
        let path = OsString::from_vec(b"/\xff/store.db".to_vec()).into();
        let error = ApiError::new(ErrorKind::Store, "").remedy(Remedy::MoveStoreAside { path });
        assert_eq!(json_line(&error), None);
    }
}
