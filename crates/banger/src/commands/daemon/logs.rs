use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    process::ExitCode,
};

use banger_api::{ApiError, ErrorKind};
use banger_client::Client;

use crate::{error::CommandError, ui::Ui};

/// Most bytes that are printed: the end of the log is what is looked for.
const MOST: u64 = 1 << 20;

/// Print the end of the daemon's log, lines of JSON
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {}

impl Logs {
    pub(crate) fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let path = Client::new()?.dirs().daemon_log();
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                ui.note("there is no log yet: bangerd has never run");
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => {
                return Err(
                    ApiError::new(ErrorKind::Io, format!("cannot read {}: {error}", path.display())).into()
                );
            }
        };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole_lines = match text.iter().position(|byte| *byte == b'\n') {
            Some(end) if length > MOST => text.get(end + 1..).unwrap_or_default(),
            _ => &text,
        };
        ui.console(whole_lines)?;
        Ok(ExitCode::SUCCESS)
    }
}
