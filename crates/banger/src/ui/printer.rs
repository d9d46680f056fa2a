//! The printer that commands use.

use std::{
    fmt::Display,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    process::ExitCode,
};

use banger_api::{ApiError, Check, ErrorKind, Verdict};
use banger_client::ByteStream;
use jiff::Timestamp;
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
}

impl Ui {
    pub(crate) fn new(start_ns: u64) -> Self {
        Self { start_ns }
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

    /// Prints what failed, why, what to do next, and where the log is.
    pub(crate) fn error(&self, error: &ApiError) {
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
