use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
    process::ExitCode,
};

use banger_api::ErrorKind;
use banger_client::{Client, Destination, GuestPath, Origin, copy_in, copy_out};
use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::{
    error::CommandError,
    transfer::{Transfer, open_source},
    ui::Ui,
};

/// Copy files between the host and a running VM
///
/// One of SOURCE and TARGET is VM:PATH, the other a path on the host. A relative path in the VM starts at the user's
/// home directory. As with `cp -a`, a directory is copied with all its content, and permissions, times and symbolic
/// links are kept. If the target is a directory, the copy is created inside it. DIR/. copies only the content of the
/// directory. Set-user-id bits are dropped, because the owner changes. On the host, a symbolic link at the target is
/// replaced, not followed; end the target with a slash to copy into the directory that a link leads to. Write a host
/// path with a colon as ./a:b.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm cp ./src box:/root/           copy a directory into the VM
  banger vm cp box:/var/log ./log         copy a directory out of the VM
  date | banger vm cp - box:/root/date    copy piped input to a file
  banger vm cp box:/etc/os-release -      print a file")]
pub(crate) struct Cp {
    /// VM:PATH, a path on the host, or - for standard input
    #[arg(value_parser = OsStringValueParser::new().map(parse_location), value_name = "SOURCE")]
    source: Location,
    /// VM:PATH, a path on the host, or - for standard output
    #[arg(value_parser = OsStringValueParser::new().map(parse_location), value_name = "TARGET")]
    target: Location,
    /// User of the VM, by name or number, who reads the source or owns the copy [default: root]
    #[arg(short, long)]
    user: Option<String>,
    /// If the source is a symbolic link, copy its target
    #[arg(short = 'L', long)]
    follow_link: bool,
}

/// Location of a source or a target.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Location {
    Guest { vm: String, path: Vec<u8> },
    Host(OsString),
    StandardStream,
}

/// Direction of a copy.
enum Direction {
    Upload(Origin),
    Download { destination: Destination, follow_link: bool },
}

impl Cp {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let standard_stream = [&self.source, &self.target].contains(&&Location::StandardStream);
        let (vm, path, direction) = match (self.source, self.target) {
            (Location::Guest { .. }, Location::Guest { .. }) => {
                return Err(CommandError::usage(
                    "source and target are both in VMs: copy to the host first, then into the VM",
                ));
            }
            (Location::Guest { vm, path }, Location::Host(to)) => {
                let follow_link = self.follow_link;
                (vm, path, Direction::Download { destination: Destination::Files(to.into()), follow_link })
            }
            // A link cannot be printed, so it is followed.
            (Location::Guest { vm, path }, Location::StandardStream) => {
                let destination = Destination::Output(descriptor(io::stdout())?);
                (vm, path, Direction::Download { destination, follow_link: true })
            }
            (Location::Host(from), Location::Guest { vm, path }) => {
                let source = open_source(Path::new(&from), self.follow_link)?;
                (vm, path, Direction::Upload(Origin::Files(Box::new(source))))
            }
            (Location::StandardStream, Location::Guest { vm, path }) => {
                (vm, path, Direction::Upload(Origin::Input(descriptor(io::stdin())?)))
            }
            (Location::Host(_) | Location::StandardStream, _) => {
                return Err(CommandError::usage("neither path is in a VM: write one as VM:PATH"));
            }
        };
        let guest = GuestPath { vm, path, user: self.user };
        copy(ui, &guest, direction, !standard_stream).await
    }
}

/// Copies, with progress if the copy takes long and `show_progress` is set.
async fn copy(
    ui: &Ui,
    guest: &GuestPath,
    direction: Direction,
    show_progress: bool,
) -> Result<ExitCode, CommandError> {
    let client = Client::new()?;
    let stage = match direction {
        Direction::Upload(_) => format!("Copying into {}", guest.vm),
        Direction::Download { .. } => format!("Copying from {}", guest.vm),
    };
    let transfer = Transfer { client: &client, ui, vm: &guest.vm, stage: &stage, show_progress };
    let copied = transfer.run(async |on_event, cancelled| match direction {
        Direction::Upload(origin) => copy_in(&client, origin, guest, on_event, cancelled).await,
        Direction::Download { destination, follow_link } => {
            copy_out(&client, guest, follow_link, destination, on_event, cancelled).await
        }
    });
    match copied.await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // The reader of the output has closed it.
        Err(CommandError { error: Some(error), .. }) if error.kind == ErrorKind::Cancelled => {
            Err(CommandError::already_reported(1))
        }
        Err(error) => Err(error),
    }
}

/// Parses a location like docker and scp: text before the first colon is a VM's name, unless it has a slash.
fn parse_location(text: OsString) -> Location {
    let bytes = text.as_bytes();
    if bytes == b"-" {
        return Location::StandardStream;
    }
    let Some(colon) = bytes.iter().position(|byte| *byte == b':') else { return Location::Host(text) };
    let (vm, path) = (bytes.get(..colon).unwrap_or_default(), bytes.get(colon + 1..).unwrap_or_default());
    match std::str::from_utf8(vm) {
        Ok(vm) if !vm.is_empty() && !vm.contains('/') => {
            // The user's home directory, as in scp.
            let path = if path.is_empty() { b"." } else { path };
            Location::Guest { vm: vm.to_owned(), path: path.to_owned() }
        }
        _ => Location::Host(text),
    }
}

/// Returns a standard stream without line buffering.
fn descriptor(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_before_the_first_colon_names_a_vm_unless_it_has_a_slash() {
        let guest = |vm: &str, path: &str| Location::Guest { vm: vm.into(), path: path.into() };
        for (text, expected) in [
            ("-", Location::StandardStream),
            ("box:/root/", guest("box", "/root/")),
            ("box:a:b", guest("box", "a:b")),
            ("box:", guest("box", ".")),
            ("./a:b", Location::Host("./a:b".into())),
            ("/x/a:b", Location::Host("/x/a:b".into())),
            (":a", Location::Host(":a".into())),
            ("a", Location::Host("a".into())),
        ] {
            assert_eq!(parse_location(text.into()), expected, "{text}");
        }
    }
}
