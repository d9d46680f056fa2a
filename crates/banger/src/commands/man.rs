use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use banger_api::{ApiError, ErrorKind};
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use crate::{error::CommandError, ui::Ui};

/// Write the manual pages, one for each command
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger man ~/.local/share/man/man1     then: man banger-vm-run")]
pub(crate) struct ManPages {
    /// Directory to write to; created if it does not exist
    #[arg(value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,
}

impl ManPages {
    /// Writes the pages of `command` and of its subcommands.
    pub(crate) fn run(self, command: clap::Command, ui: &Ui) -> Result<ExitCode, CommandError> {
        let count = write(command, &self.directory).map_err(|error| {
            let message = format!("cannot write manual pages to {}: {error}", self.directory.display());
            ApiError::new(ErrorKind::Io, message)
        })?;
        ui.note(format_args!("wrote {count} manual pages to {}", self.directory.display()));
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes all pages into `dir` and returns their number.
fn write(command: clap::Command, dir: &Path) -> io::Result<usize> {
    fs::create_dir_all(dir)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, &mut pages)?;
    for (name, page) in &pages {
        fs::write(dir.join(name), page)?;
    }
    Ok(pages.len())
}

/// Adds the file name and content of the page of `command` and of each of its subcommands.
fn add_pages(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let man = Man::new(command.clone())
        .source(concat!("banger ", env!("CARGO_PKG_VERSION")))
        .manual("banger Manual");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    add_section(command.get_before_help(), &mut page)?;
    man.render_options_section(&mut page)?;
    let subcommands: Vec<_> = command.get_subcommands().filter(|inner| !inner.is_hide_set()).collect();
    if !subcommands.is_empty() {
        man.render_subcommands_section(&mut page)?;
    }
    add_section(command.get_after_help(), &mut page)?;
    pages.push((man.get_filename(), page));
    subcommands.into_iter().try_for_each(|inner| add_pages(inner, pages))
}

/// Adds a part of the help, a heading with a colon and lines below it, as a section with the same lines.
fn add_section(help: Option<&clap::builder::StyledStr>, page: &mut Vec<u8>) -> io::Result<()> {
    let Some(help) = help.map(ToString::to_string) else { return Ok(()) };
    let (heading, lines) = help.split_once(":\n").unwrap_or(("Notes", &help));
    let mut section = Roff::new();
    section.control("SH", [heading.to_uppercase().as_str()]).control("nf", []);
    for line in lines.lines() {
        section.text([roman(line)]);
    }
    section.control("fi", []);
    section.to_writer(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::Cli, config::built_in_keys};

    #[test]
    fn each_command_has_a_page_with_its_examples() {
        let dir = tempfile::tempdir().unwrap();
        let man = dir.path().join("man/man1");
        let count = write(Cli::with_defaults(&built_in_keys()), &man).unwrap();
        assert_eq!(fs::read_dir(&man).unwrap().count(), count);
        let page = fs::read_to_string(man.join("banger-vm-run.1")).unwrap();
        let expected = [".TH banger-vm-run 1", ".SH EXAMPLES\n.nf\n", "\\-\\-memory", "at most 8G"];
        assert!(expected.iter().all(|text| page.contains(text)), "{page}");
        assert!(!man.join("banger-ssh-proxy.1").exists() && !man.join("banger-help.1").exists());
        let page = fs::read_to_string(man.join("banger-config-show.1")).unwrap();
        assert!(page.contains(".SH ENVIRONMENT\n"), "{page}");
    }
}
