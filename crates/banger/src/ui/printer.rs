//! The printer that commands use.

use std::{
    fmt::Display,
    io::{self, BufRead, BufReader, IsTerminal, Read},
    process::ExitCode,
};

use banger_api::{ApiError, Check, ErrorKind, Verdict, visible_line};
use banger_client::ByteStream;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    checks,
    console::Console,
    json,
    streams::Streams,
    style::{ERROR, HINT, WARNING},
    table::{self, Format, Table},
    text::visible_bytes,
};
use crate::{error::CommandError, hints::hint_for};

/// Maximum length of an answer to a question, in bytes.
const MAX_ANSWER: u64 = 1000;

/// The printer that commands use. Text may come from a guest, a repository or a registry: each method makes hidden
/// characters visible, and prints each message on one line. Only JSON and exact bytes keep all of it.
#[derive(Debug)]
pub(crate) struct Ui {
    /// Time of banger's start, in nanoseconds of [`now_ns`](super::now_ns).
    pub(crate) start_ns: u64,
    /// Whether errors are printed as JSON, because the command prints JSON.
    json_errors: bool,
    streams: Streams,
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
        Self { start_ns, json_errors, streams: Streams::Process }
    }

    /// Prints a line of data.
    pub(crate) fn line(&self, text: impl Display) -> io::Result<()> {
        self.streams.stdout(format!("{}\n", visible_line(&text.to_string())).as_bytes())
    }

    /// Prints bytes unchanged; on a terminal, with hidden characters visible.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        if self.streams.stdout_is_terminal() {
            self.streams.stdout(visible_bytes(bytes).as_bytes())
        } else {
            self.streams.stdout(bytes)
        }
    }

    /// Prints a guest's text as it arrives, unchanged; on a terminal, without hidden characters.
    pub(crate) async fn text_stream(&self, parts: ByteStream) -> Result<(), CommandError> {
        self.stream(parts, Console::text(self.streams.stdout_is_terminal())).await
    }

    /// Prints JSON lines as they arrive.
    pub(crate) async fn json_stream(&self, parts: ByteStream) -> Result<(), CommandError> {
        self.stream(parts, Console::json_lines()).await
    }

    async fn stream(&self, mut parts: ByteStream, mut console: Console) -> Result<(), CommandError> {
        while let Some(part) = parts.next().await? {
            self.streams.stdout(&console.decode(&part))?;
        }
        Ok(())
    }

    /// Prints complete JSON lines.
    pub(crate) fn json_lines(&self, lines: &[u8]) -> io::Result<()> {
        self.streams.stdout(&Console::json_lines().decode(lines))
    }

    /// Prints a value as JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> io::Result<()> {
        self.streams.stdout(format!("{}\n", json::pretty(value)?).as_bytes())
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
            Format { .. } => self.table(&table(items)),
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
            Format { .. } => self.table(&table(item)),
        }
    }

    /// Prints `checks` as a table, as JSON, or as the names of those that did not pass; returns failure if one
    /// failed.
    pub(crate) fn checks(&self, format: &Format, checks: &[Check]) -> io::Result<ExitCode> {
        match format {
            Format { quiet: true, .. } => {
                let not_passed = checks.iter().filter(|check| check.verdict != Verdict::Pass);
                not_passed.map(|check| &check.name).try_for_each(|name| self.line(name))?;
            }
            Format { output: table::Output::Json, .. } => self.json(&checks::json_checks(checks))?,
            Format { .. } => self.streams.styled_stdout(&checks::render(checks))?,
        }
        let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Prints a table as data.
    pub(crate) fn table(&self, table: &Table) -> io::Result<()> {
        self.streams.stdout(table.to_string().as_bytes())
    }

    /// Returns whether a user can answer questions.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks `question`; returns whether the user answered yes. Any other answer means no.
    pub(crate) fn ask(&self, question: impl Display) -> io::Result<bool> {
        self.streams.styled_stderr(&format!("{} [y/N] ", visible_line(&question.to_string())))?;
        let mut answer = String::new();
        BufReader::new(io::stdin().take(MAX_ANSWER)).read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// Prints a message.
    pub(crate) fn note(&self, message: impl Display) {
        self.message("", &message);
    }

    /// Prints each line of `lines` as a message.
    pub(crate) fn notes(&self, lines: impl Display) {
        lines.to_string().lines().for_each(|line| self.note(line));
    }

    /// Prints a warning.
    pub(crate) fn warning(&self, message: impl Display) {
        self.message(format_args!("{WARNING}warning:{WARNING:#} "), &message);
    }

    /// Prints what failed, why, what to do next, and where the log is. If the command prints JSON, this is one line of
    /// JSON.
    pub(crate) fn error(&self, error: &ApiError) {
        // A path that is not UTF-8 cannot be JSON; the text can show it.
        if self.json_errors
            && let Some(json) = json::line(&JsonError { error, hint: hint_for(error) })
        {
            return self.message("", &json);
        }
        let colon = if error.causes.is_empty() { "" } else { ":" };
        self.message(format_args!("{ERROR}error:{ERROR:#} "), &format_args!("{}{colon}", error.message));
        for cause in &error.causes {
            let hint = hint_for(cause).map(|hint| format!(" ({hint})")).unwrap_or_default();
            self.message("  ", &format_args!("{}{hint}", cause.message));
        }
        if !error.console.is_empty() {
            self.note("the console:");
            error.console.iter().for_each(|line| self.message("  ", line));
        }
        if let Some(hint) = hint_for(error) {
            self.message(format_args!("{HINT}hint:{HINT:#} "), &hint);
        }
        if let Some(log) = &error.log {
            self.message(format_args!("{HINT}log:{HINT:#} "), log);
        }
        if error.kind == ErrorKind::Internal {
            self.note("this is a bug in banger; see `banger daemon logs`");
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

    /// Prints `text` on one line of standard error, after `start`, which is banger's own.
    fn message(&self, start: impl Display, text: &impl Display) {
        // Without standard error, there is nowhere to report this.
        let _ = self.streams.styled_stderr(&format!("{start}{}\n", visible_line(&text.to_string())));
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, ffi::OsString, os::unix::ffi::OsStringExt};

    use banger_api::{GuestText, Remedy, SubjectKind, is_hidden};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    impl Ui {
        /// Returns a printer that keeps what it prints.
        pub(crate) fn for_test(json_errors: bool, stdout_is_terminal: bool) -> Self {
            let (stdout, stderr) = (RefCell::default(), RefCell::default());
            let streams = Streams::Buffers { stdout, stderr, stdout_is_terminal };
            Self { start_ns: 0, json_errors, streams }
        }

        /// Returns what was printed on standard output and on standard error.
        pub(crate) fn printed(&self) -> [Vec<u8>; 2] {
            let Streams::Buffers { stdout, stderr, .. } = &self.streams else { panic!("not a buffer") };
            [stdout.take(), stderr.take()]
        }

        /// Returns the text that was printed on standard output and on standard error, without banger's own colours.
        pub(crate) fn printed_text(&self) -> [String; 2] {
            let pass = anstyle::AnsiColor::Green.on_default();
            let colours = [ERROR, WARNING, HINT, pass].map(|style| style.render().to_string());
            let colours: Vec<_> = colours.into_iter().chain([ERROR.render_reset().to_string()]).collect();
            self.printed().map(|bytes| {
                let text = String::from_utf8(bytes).unwrap();
                colours.iter().fold(text, |text, colour| text.replace(colour, ""))
            })
        }
    }

    /// Text with line breaks, control, bidirectional and invisible characters.
    fn text() -> impl Strategy<Value = String> {
        let ranges = ['\0'..='\u{a0}', '\u{200b}'..='\u{206f}', '\u{e0000}'..='\u{e01ff}'];
        let hidden = prop::collection::vec(prop::char::ranges(ranges.to_vec().into()), 0..20);
        let part = prop_oneof![
            any::<String>(),
            hidden.prop_map(String::from_iter),
            Just("\nhint: run this\n".to_owned()),
            Just("\x1b[2J\x1b]0;title\x07".to_owned()),
        ];
        prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn nothing_that_is_printed_has_a_hidden_character_or_a_forged_line(text in text(), json in any::<bool>()) {
            let ui = Ui::for_test(json, true);
            let format = |quiet, output| Format { output, quiet };
            let error = ApiError {
                message: text.clone(),
                log: Some(text.clone()),
                console: vec![text.clone()],
                causes: vec![ApiError { message: text.clone(), ..ApiError::new(ErrorKind::Io, "") }],
                ..ApiError::new(ErrorKind::Internal, "").hint(&text)
            };
            let check = Check { message: text.clone(), ..Check::fail(text.clone(), error.clone()) };
            let row = |text: &String| {
                let mut table = Table::new(["A", "B"]);
                table.row([text.clone(), text.clone()]);
                table
            };
            ui.note(&text);
            ui.warning(&text);
            ui.error(&error);
            ui.line(&text).unwrap();
            ui.table(&Table::from_fields([(&text, text.clone())])).unwrap();
            ui.bytes(text.replace('\n', "").as_bytes()).unwrap();
            ui.json_lines(format!("{}\n", serde_json::to_string(&text).unwrap()).as_bytes()).unwrap();
            for quiet in [true, false] {
                for output in [table::Output::Table, table::Output::Json] {
                    let format = format(quiet, output);
                    ui.list(&format, std::slice::from_ref(&text), String::clone, |items| row(&items[0])).unwrap();
                    ui.show(&format, &text, String::clone, row).unwrap();
                    ui.checks(&format, std::slice::from_ref(&check)).unwrap();
                }
            }
            let [data, messages] = ui.printed_text();
            for printed in [&data, &messages] {
                prop_assert!(!printed.contains(|c| is_hidden(c) && !matches!(c, '\n' | '\t')), "{printed:?}");
            }
            // A message of the text itself, a warning, and an error of seven lines or as JSON.
            prop_assert_eq!(messages.lines().count(), if json { 3 } else { 9 }, "{}", messages);
        }
    }

    #[test]
    fn a_guests_message_cannot_begin_a_line() {
        let ui = Ui::for_test(false, true);
        let text = GuestText::new("no such file\nhint: curl https://example.org | sh");
        ui.error(&ApiError::from_guest(ErrorKind::NotFound, &text));
        let expected = "error: the guest reports: no such file hint: curl https://example.org | sh\n";
        assert_eq!(ui.printed_text()[1], expected);
    }

    #[test]
    fn a_patch_is_exact_except_on_a_terminal() {
        let patch = b"+\x1b[2J\xff\tb\n";
        for (is_terminal, expected) in [(true, &b"+^[[2J<FF>\tb\n"[..]), (false, patch)] {
            let ui = Ui::for_test(false, is_terminal);
            ui.bytes(patch).unwrap();
            assert_eq!(ui.printed()[0], expected);
        }
    }

    #[test]
    fn an_error_is_one_line_of_json_that_a_terminal_does_not_obey() {
        let message = "no VM\n\u{1b}[2J\u{9b}2J";
        let error = ApiError { message: message.to_owned(), ..ApiError::new(ErrorKind::NotFound, "") };
        let ui = Ui::for_test(true, true);
        ui.error(&error.about(SubjectKind::Vm, "box"));
        let [_, line] = ui.printed();
        let line = String::from_utf8(line).unwrap();
        assert!(!line.trim_end().contains(char::is_control), "{line:?}");
        let json: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&json["kind"], &json["hint"]), (&"not_found".into(), &"see `banger ps -a`".into()));
        assert_eq!(json["message"], message);
    }

    #[test]
    fn an_error_with_a_path_that_is_not_utf_8_is_not_json() {
        let path = OsString::from_vec(b"/\xff/store.db".to_vec()).into();
        let error = ApiError::new(ErrorKind::Store, "unreadable").remedy(Remedy::MoveStoreAside { path });
        let ui = Ui::for_test(true, true);
        ui.error(&error);
        assert!(ui.printed_text()[1].starts_with("error: unreadable\nhint: "));
    }
}
