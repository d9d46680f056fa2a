use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::ExitCode,
};

use banger_api::{ApiError, ErrorKind, ReadLog};
use banger_client::Client;

use crate::{error::CommandError, ui::Ui};

/// Maximum number of bytes printed from each log file; the end of a log matters most.
const MAX_BYTES: u64 = 1 << 20;

/// Print the end of the daemon's log as JSON lines
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Follow the log until the daemon stops
    #[arg(short, long)]
    follow: bool,
    /// Number of lines to show from the end
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<usize>,
}

impl Logs {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        if self.follow {
            let tail = self.tail;
            let read = ReadLog { follow: true, tail, ..ReadLog::default() };
            ui.json_stream(client.daemon_log(&read).await?).await?;
            return Ok(ExitCode::SUCCESS);
        }
        // Reads the files directly, because the daemon may be what fails to start.
        match read_log_end(&client.dirs().daemon_log())? {
            Some(text) => ui.json_lines(last_lines(&text, self.tail))?,
            None => ui.note("there is no log yet: bangerd has never run"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the end of the log at `path`, from both of its files; `None` if neither exists.
fn read_log_end(path: &Path) -> Result<Option<Vec<u8>>, ApiError> {
    let mut older = path.as_os_str().to_owned();
    older.push(".1");
    let mut text = None;
    for file in [PathBuf::from(older), path.to_owned()] {
        match read_file_end(&file) {
            Ok(part) => text.get_or_insert_with(Vec::new).extend(part),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(ApiError::new(ErrorKind::Io, format!("cannot read {}: {error}", file.display())));
            }
        }
    }
    Ok(text)
}

fn read_file_end(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_BYTES)))?;
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    if length > MAX_BYTES {
        // The first line is incomplete.
        let line = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1);
        text.drain(..line);
    }
    Ok(text)
}

/// Returns the last `count` lines of `text`, or all of it.
fn last_lines(text: &[u8], count: Option<usize>) -> &[u8] {
    let Some(count) = count else { return text };
    let lines: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let start: usize = lines.iter().rev().skip(count).map(|line| line.len()).sum();
    text.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_returns_at_most_the_requested_lines() {
        assert_eq!(last_lines(b"a\nb\nc\n", Some(2)), b"b\nc\n");
        assert_eq!(last_lines(b"a\n", Some(0)), b"");
        assert_eq!(last_lines(b"a\nb", Some(9)), b"a\nb");
        assert_eq!(last_lines(b"a\nb", None), b"a\nb");
    }
}
