//! `[workspace]` and `[[file_sync]]`: the settings of a project's file that are not keys.

use std::path::PathBuf;

use toml::de::{DeArray, DeTable, DeValue};

use super::FileSync;
use crate::{InvalidPublish, Publish};

/// The section that only a project's file may have.
pub(super) const WORKSPACE: &str = "workspace";

/// Keys of that section.
pub(super) const WORKSPACE_KEYS: [&str; 3] = ["env", "ports", "setup"];

/// Maximum number of each that a project may request.
const MAX_VARIABLES: usize = 256;
const MAX_PORTS: usize = 64;
const MAX_COMMANDS: usize = 64;

/// Maximum number of files, and maximum length of a path in bytes. banger asks the user about all files at once,
/// and shows them all.
const MAX_FILES: usize = 16;
const MAX_PATH: usize = 200;

/// Maximum length of a variable's name and of its value, in bytes.
const MAX_NAME: usize = 64;
const MAX_VALUE: usize = 4 << 10;

/// Maximum length of a command, in bytes.
const MAX_COMMAND: usize = 16 << 10;

/// The settings of a project's file that are not keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Project {
    /// Path of the file.
    pub file: PathBuf,
    /// Environment variables, each a name and a value.
    pub env: Vec<Located<(String, String)>>,
    /// Ports to publish at the host's loopback; `None` if the file does not set them.
    pub ports: Option<Vec<Located<Publish>>>,
    /// Commands for the guest's shell, in order; `None` if the file does not set them.
    pub setup: Option<Vec<Located<String>>>,
    /// User files that it requests. A request is not permission to send them.
    pub file_sync: Vec<FileSync>,
}

/// A value, and the line that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// The line, counted from 1.
    pub line: usize,
}

impl Project {
    /// Parses the requested files. An error describes the problem.
    pub(super) fn files(value: &DeValue<'_>) -> Result<Vec<FileSync>, String> {
        let files = FileSync::read_all(value)?;
        if files.len() > MAX_FILES {
            return Err(format!("it has {} entries, more than {MAX_FILES}", files.len()));
        }
        match files.iter().position(|entry| entry.host.len().max(entry.guest.len()) > MAX_PATH) {
            Some(index) => Err(format!("entry {}: its path is longer than {MAX_PATH} bytes", index + 1)),
            None => Ok(files),
        }
    }

    /// Sets `name`, one of [`WORKSPACE_KEYS`], to `value`; `line` returns the line of a byte offset. An error names
    /// the line and the problem there.
    pub(super) fn set(
        &mut self,
        name: &str,
        at: usize,
        value: &DeValue<'_>,
        line: impl Fn(usize) -> usize,
    ) -> Result<(), String> {
        let error_at = |at: usize, why: String| format!("{WORKSPACE}.{name} on line {at}: {why}");
        let list = |max| list(value, max).map_err(|why| error_at(at, why));
        match name {
            "env" => {
                let table = variables(value).map_err(|why| error_at(at, why))?;
                for (name, value) in table {
                    let at = line(name.span().start);
                    let value = variable(name.get_ref(), value.get_ref()).map_err(|why| error_at(at, why))?;
                    self.env.push(Located { value, line: at });
                }
            }
            "ports" => self.ports = Some(parse_each(list(MAX_PORTS)?, port, error_at, line)?),
            "setup" => self.setup = Some(parse_each(list(MAX_COMMANDS)?, command, error_at, line)?),
            // `WORKSPACE_KEYS` has no other names.
            _ => {}
        }
        Ok(())
    }
}

fn list<'a, 'i>(value: &'a DeValue<'i>, max: usize) -> Result<&'a DeArray<'i>, String> {
    let list = value.as_array().ok_or("it must be a list, in [ ]")?;
    if list.len() > max {
        return Err(format!("it has {} entries, more than {max}", list.len()));
    }
    Ok(list)
}

fn parse_each<T>(
    list: &DeArray<'_>,
    read: impl Fn(&DeValue<'_>) -> Result<T, String>,
    error_at: impl Fn(usize, String) -> String,
    line: impl Fn(usize) -> usize,
) -> Result<Vec<Located<T>>, String> {
    let entries = list.iter().map(|entry| {
        let at = line(entry.span().start);
        Ok(Located { value: read(entry.get_ref()).map_err(|why| error_at(at, why))?, line: at })
    });
    entries.collect()
}

fn variables<'a, 'i>(value: &'a DeValue<'i>) -> Result<&'a DeTable<'i>, String> {
    let table = value.as_table().ok_or("it must be a table of names and values")?;
    if table.len() > MAX_VARIABLES {
        return Err(format!("it has {} variables, more than {MAX_VARIABLES}", table.len()));
    }
    Ok(table)
}

fn variable(name: &str, value: &DeValue<'_>) -> Result<(String, String), String> {
    let is_name = (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        let shown: String = name.chars().take(MAX_NAME).collect();
        return Err(format!(
            "{shown:?} is not a variable name: at most {MAX_NAME} letters, digits and _, no digit first"
        ));
    }
    match value {
        DeValue::String(value) if value.len() > MAX_VALUE => {
            Err(format!("the value of {name} is longer than {} KiB", MAX_VALUE >> 10))
        }
        DeValue::String(value) if value.contains('\0') => Err(format!("the value of {name} has a NUL in it")),
        DeValue::String(value) => Ok((name.to_owned(), value.to_string())),
        _ => Err(format!("the value of {name} must be a quoted string")),
    }
}

fn port(value: &DeValue<'_>) -> Result<Publish, String> {
    let text = match value {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::String(text) => text,
        _ => return Err("a port is a number, or \"HOST:GUEST[/udp]\"".to_owned()),
    };
    let port: Publish = text.parse().map_err(|error: InvalidPublish| error.to_string())?;
    match port.address {
        None => Ok(port),
        Some(_) => {
            Err(format!("{text:?} has an address of the host, which only its user can choose: use -p"))
        }
    }
}

fn command(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) if text.trim().is_empty() => Err("a command is empty".to_owned()),
        DeValue::String(text) if text.len() > MAX_COMMAND => {
            Err(format!("a command is longer than {} KiB", MAX_COMMAND >> 10))
        }
        DeValue::String(text) if text.contains('\0') => Err("a command has a NUL in it".to_owned()),
        DeValue::String(text) => Ok(text.to_string()),
        _ => Err("a command must be a quoted string".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layer, Owner, PROJECT_FILE};
    use std::path::Path;

    fn read(text: &str) -> Result<Project, String> {
        let layer = Layer::from_text(Owner::Project, Path::new(PROJECT_FILE), text);
        let config = crate::Config::new([layer.map_err(|error| error.to_string())?], Default::default());
        Ok(config.project().unwrap().clone())
    }

    #[test]
    fn project_settings_are_parsed_with_their_lines() {
        let text = "[workspace]\nports = [3000,\n  '8080:80', '53/udp']\nsetup = ['make deps', '''\na\nb''']\n\
                    [workspace.env]\nA = '1'\nB = ''\n[[file_sync]]\nhost = '~/x'\n";
        let variable = |value: (&str, &str), line| Located { value: (value.0.into(), value.1.into()), line };
        let publish = |text: &str, line| Located { value: text.parse::<Publish>().unwrap(), line };
        let command = |text: &str, line| Located { value: text.to_owned(), line };
        assert_eq!(
            read(text).unwrap(),
            Project {
                file: PROJECT_FILE.into(),
                env: vec![variable(("A", "1"), 8), variable(("B", ""), 9)],
                ports: Some(vec![publish("3000", 2), publish("8080:80", 3), publish("53/udp", 3)]),
                setup: Some(vec![command("make deps", 4), command("a\nb", 4)]),
                file_sync: vec![FileSync { host: "~/x".into(), guest: "x".into(), mode: None }],
            }
        );
        let empty = read("[workspace]\nsetup = []\n").unwrap();
        assert_eq!((empty.setup, empty.ports), (Some(vec![]), None));
    }

    #[test]
    fn errors_give_the_line_of_the_mistake() {
        let long = "a".repeat(MAX_COMMAND + 1);
        let many = "1,".repeat(MAX_PORTS + 1);
        let several: String = (0..=MAX_VARIABLES).map(|n| format!("A{n} = ''\n")).collect();
        for (text, error) in [
            ("[workspace]\n\nprots = [1]\n", "unknown key workspace.prots on line 3: did you mean ports?"),
            (
                "[workspace]\ncolour = 1\n",
                "unknown key workspace.colour on line 2: [workspace] has env, ports, setup",
            ),
            ("setup = ['a']\n", "unknown key setup on line 1: did you mean setup, below [workspace]?"),
            ("[wrokspace]\n", "unknown section wrokspace on line 1: did you mean [workspace]?"),
            ("workspace = 1\n", "workspace on line 1 is a section"),
            ("[workspace]\nports = 3000\n", "workspace.ports on line 2: it must be a list"),
            ("[workspace]\nports = [1,\n0]\n", "workspace.ports on line 3: \"0\" is not a port"),
            ("[workspace]\nports = ['80:']\n", "workspace.ports on line 2: \"\" in \"80:\" is not a port"),
            ("[workspace]\nports = [70000]\n", "\"70000\" is not a port"),
            ("[workspace]\nports = [0x50]\n", "a port is a number"),
            ("[workspace]\nports = ['1:2:3']\n", "\"1\" in \"1:2:3\" is not an IP address"),
            ("[workspace]\nports = ['80/sctp']\n", "\"sctp\" in \"80/sctp\" is not a protocol"),
            ("[workspace]\nports = ['0.0.0.0:80:80']\n", "which only its user can choose: use -p"),
            (&format!("[workspace]\nports = [{many}]\n"), "it has 65 entries, more than 64"),
            ("[workspace]\nsetup = 'make'\n", "workspace.setup on line 2: it must be a list"),
            ("[workspace]\nsetup = ['a',\n' ']\n", "workspace.setup on line 3: a command is empty"),
            ("[workspace]\nsetup = [1]\n", "a command must be a quoted string"),
            ("[workspace]\nsetup = [\"a\\u0000\"]\n", "a command has a NUL"),
            (&format!("[workspace]\nsetup = ['{long}']\n"), "a command is longer than 16 KiB"),
            ("[workspace]\nenv = ['A=1']\n", "workspace.env on line 2: it must be a table"),
            ("[workspace.env]\n1A = ''\n", "workspace.env on line 2: \"1A\" is not a variable name"),
            (
                "[workspace.env]\nA = ''\n'B=' = ''\n",
                "workspace.env on line 3: \"B=\" is not a variable name",
            ),
            ("[workspace.env]\nA = 1\n", "workspace.env on line 2: the value of A must be a quoted string"),
            ("[workspace.env]\nA = \"\\u0000\"\n", "the value of A has a NUL"),
            (
                &"[[file_sync]]\nhost = '~/x'\n".repeat(17),
                "file_sync on line 1: it has 17 entries, more than 16",
            ),
            (
                &format!("[[file_sync]]\nhost = '~/{}'\n", "x".repeat(200)),
                "entry 1: its path is longer than 200 bytes",
            ),
            (&format!("[workspace.env]\n{several}"), "it has 257 variables, more than 256"),
        ] {
            let actual = read(text).unwrap_err();
            assert!(actual.contains(error), "{text}: {actual}");
        }
    }

    #[test]
    fn only_a_projects_file_may_have_a_workspace_section() {
        for owner in [Owner::User, Owner::System] {
            let error = Layer::from_text(owner, Path::new("c"), "\n[workspace]\nsetup = []\n")
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("[workspace] on line 2 can only be in a repository's banger.toml"),
                "{error}"
            );
        }
    }
}
