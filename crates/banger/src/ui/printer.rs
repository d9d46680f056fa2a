//! The one who prints.

use std::{
    fmt::Display,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    process::ExitCode,
};

use banger_api::{ApiError, Check, ErrorKind, Verdict};
use banger_client::Parts;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    checks,
    console::Console,
    style::{ERROR, HINT, WARNING},
    table::{self, Format, Table},
    text::harmless,
};
use crate::{error::CommandError, hints::hint_for};

/// Most bytes of an answer to a question.
const ANSWER: u64 = 1000;

/// The one who prints.
#[derive(Debug)]
pub(crate) struct Ui {
    /// When banger was started, in nanoseconds of [`now_ns`](super::now_ns).
    pub(crate) began_ns: u64,
}

impl Ui {
    pub(crate) fn new(began_ns: u64) -> Self {
        Self { began_ns }
    }

    /// A line of data.
    pub(crate) fn line(&self, text: impl Display) -> io::Result<()> {
        writeln!(io::stdout(), "{text}")
    }

    /// Bytes as they are, but for what a terminal would take for commands.
    pub(crate) fn console(&self, bytes: &[u8]) -> io::Result<()> {
        Console::new().print(bytes)
    }

    /// Bytes as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    /// Bytes as they come, printed so.
    pub(crate) async fn print_all(&self, mut parts: Parts) -> Result<(), CommandError> {
        let mut console = Console::new();
        while let Some(part) = parts.next().await? {
            console.print(&part)?;
        }
        Ok(())
    }

    /// A value as JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.line(text)
    }

    /// Things as a table, as JSON, or as ids only.
    pub(crate) fn list<T: Serialize>(
        &self,
        format: &Format,
        things: &[T],
        id: impl Fn(&T) -> String,
        table: impl FnOnce(&[T]) -> Table,
    ) -> io::Result<()> {
        match format {
            Format { quiet: true, .. } => things.iter().try_for_each(|thing| self.line(id(thing))),
            Format { output: table::Output::Json, .. } => self.json(&things),
            Format { .. } => write!(io::stdout(), "{}", table(things)),
        }
    }

    /// One thing as a table of its fields, as JSON, or as its id only.
    pub(crate) fn show<T: Serialize>(
        &self,
        format: &Format,
        thing: &T,
        id: impl Fn(&T) -> String,
        table: impl FnOnce(&T) -> Table,
    ) -> io::Result<()> {
        match format {
            Format { quiet: true, .. } => self.line(id(thing)),
            Format { output: table::Output::Json, .. } => self.json(thing),
            Format { .. } => write!(io::stdout(), "{}", table(thing)),
        }
    }

    /// Prints `checks` as a table, as JSON, or as the names of those that do not pass; fails when one of them does.
    pub(crate) fn checks(&self, format: &Format, checks: &[Check]) -> io::Result<ExitCode> {
        match format {
            Format { quiet: true, .. } => {
                let troubled = checks.iter().filter(|check| check.verdict != Verdict::Pass);
                troubled.map(|check| &check.name).try_for_each(|name| self.line(harmless(name)))?;
            }
            Format { output: table::Output::Json, .. } => self.json(&checks::shown(checks))?,
            Format { .. } => write!(anstream::stdout(), "{}", checks::lines(checks))?,
        }
        let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// A table as data.
    pub(crate) fn table(&self, table: Table) -> io::Result<()> {
        write!(io::stdout(), "{table}")
    }

    /// Whether there is somebody to ask.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Whether the user says yes to `question`; no is what anything else is.
    pub(crate) fn ask(&self, question: impl Display) -> io::Result<bool> {
        write!(io::stderr(), "{question} [y/N] ")?;
        let mut answer = String::new();
        BufReader::new(io::stdin().take(ANSWER)).read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// Something worth knowing.
    pub(crate) fn note(&self, message: impl Display) {
        self.stderr(format_args!("{}", harmless(&message.to_string())));
    }

    /// Something that should be known.
    pub(crate) fn warning(&self, message: impl Display) {
        self.stderr(format_args!("{WARNING}warning:{WARNING:#} {}", harmless(&message.to_string())));
    }

    /// What failed, why, what next, and where the log is.
    pub(crate) fn error(&self, error: &ApiError) {
        let colon = if error.causes.is_empty() { "" } else { ":" };
        self.stderr(format_args!("{ERROR}error:{ERROR:#} {}{colon}", harmless(&error.message)));
        for cause in &error.causes {
            let hint = hint_for(cause).map(|hint| format!(" ({hint})")).unwrap_or_default();
            self.stderr(format_args!("  {}", harmless(&format!("{}{hint}", cause.message))));
        }
        if !error.console.is_empty() {
            self.stderr(format_args!("the console:"));
            for line in &error.console {
                self.stderr(format_args!("  {}", harmless(line)));
            }
        }
        if let Some(hint) = hint_for(error) {
            self.stderr(format_args!("{HINT}hint:{HINT:#} {}", harmless(&hint)));
        }
        if let Some(log) = &error.log {
            self.stderr(format_args!("{HINT}log:{HINT:#} {}", harmless(log)));
        }
        if error.kind == ErrorKind::Internal {
            self.stderr(format_args!("this is a fault of banger's own; `banger daemon logs` has more"));
        }
    }

    /// Tells of a command's failure; the exit status is for `main` to return.
    pub(crate) fn failed(&self, failure: &CommandError) -> ExitCode {
        if let Some(error) = &failure.error {
            self.error(error);
        }
        failure.status.into()
    }

    /// How long ago something was.
    pub(crate) fn ago(&self, then: Timestamp) -> String {
        table::ago(Timestamp::now().as_second() - then.as_second())
    }

    fn stderr(&self, line: std::fmt::Arguments<'_>) {
        // Without a standard error there is nowhere to say so.
        let _ = writeln!(anstream::stderr(), "{line}");
    }
}
