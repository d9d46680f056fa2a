//! Parsing of a configuration file into a layer.

use std::{io, path::Path};

use toml::de::{DeTable, DeValue};

use super::{
    CONFIG_MAX, CatalogUrl, ConfigError, FileSync, KEYS, Layer, Origin, Owner, Project, RegistryHost, Scope,
    lists::entries,
    nearest::nearest,
    value::{RawValue, Shape},
    workspace::{WORKSPACE, WORKSPACE_KEYS},
};
use crate::ConfigPart;

/// Lists at the top level, beside the sections.
const FILE_SYNC: &str = "file_sync";
const REGISTRY: &str = "registry";
const CATALOG: &str = "catalog";

/// Name of a project's configuration file.
pub const PROJECT_FILE: &str = "banger.toml";

impl Layer {
    /// Parses the file at `path`; a missing file is an empty layer.
    ///
    /// `bytes` is the result of reading at most [`CONFIG_MAX`] + 1 bytes of it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is too long, and as [`from_text`](Self::from_text).
    pub fn from_file(owner: Owner, path: &Path, bytes: io::Result<Vec<u8>>) -> Result<Self, ConfigError> {
        let unreadable = |problem: String| ConfigError {
            place: path.display().to_string(),
            problem,
            part: ConfigPart::File,
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Self::default());
            }
            Err(error) => return Err(unreadable(error.to_string())),
        };
        if bytes.len() as u64 > CONFIG_MAX {
            return Err(unreadable(format!("it is longer than {} KiB", CONFIG_MAX >> 10)));
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| unreadable(error.to_string()))?;
        Self::from_text(owner, path, text)
    }

    /// Parses `text`, the content of the file at `path`.
    ///
    /// # Errors
    /// Returns an error, with the line, if it is not TOML, or a key or value is not allowed in this file.
    pub fn from_text(owner: Owner, path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut layer = Self::default();
        layer.read(owner, path, text).map_err(|problem| ConfigError {
            place: path.display().to_string(),
            problem,
            part: ConfigPart::Line,
        })?;
        Ok(layer)
    }

    fn read(&mut self, owner: Owner, path: &Path, text: &str) -> Result<(), String> {
        let line = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        let document = DeTable::parse(text).map_err(|error| {
            let line = error.span().map(|span| format!(" on line {}", line(span.start))).unwrap_or_default();
            format!("invalid TOML{line}: {}", error.message())
        })?;
        let mut file_sync = Vec::new();
        let mut project = Project { file: path.to_owned(), ..Project::default() };
        for (section, value) in document.get_ref() {
            let at = line(section.span().start);
            let section = section.get_ref().as_ref();
            if section == FILE_SYNC {
                let read = if owner == Owner::Project { Project::files } else { FileSync::read_all };
                file_sync =
                    read(value.get_ref()).map_err(|why| format!("{FILE_SYNC} on line {at}: {why}"))?;
                continue;
            }
            if matches!(section, REGISTRY | CATALOG) && owner == Owner::Project {
                let why = format!("cannot be in {PROJECT_FILE}, only in config.toml");
                return Err(format!("[[{section}]] on line {at} {why}"));
            }
            if section == REGISTRY {
                self.registries = entries(REGISTRY, value.get_ref(), RegistryHost::read)
                    .map_err(|why| format!("{REGISTRY} on line {at}: {why}"))?;
                continue;
            }
            if section == CATALOG {
                self.catalogs = entries(CATALOG, value.get_ref(), CatalogUrl::read)
                    .map_err(|why| format!("{CATALOG} on line {at}: {why}"))?;
                continue;
            }
            if section == WORKSPACE && owner != Owner::Project {
                let why = format!("can only be in a repository's {PROJECT_FILE}");
                return Err(format!("[{WORKSPACE}] on line {at} {why}"));
            }
            let Some(table) = value.get_ref().as_table().filter(|_| keys(owner).any(|key| key.0 == section))
            else {
                return Err(unknown_section(owner, section, at));
            };
            for (name, value) in table {
                let at = line(name.span().start);
                let name = name.get_ref().as_ref();
                if !keys(owner).any(|key| key == (section, name)) {
                    return Err(unknown_key(owner, section, name, at));
                }
                let Some(key) = KEYS.iter().find(|key| key.section == section && key.name == name) else {
                    project.set(name, at, value.get_ref(), line)?;
                    continue;
                };
                if owner == Owner::Project && key.scope != Scope::Project {
                    return Err(format!(
                        "{} on line {at} cannot be set in {PROJECT_FILE}, only in config.toml",
                        key.path()
                    ));
                }
                let origin = Origin::File { owner, path: path.to_owned(), line: at };
                self.set(key, &raw(value.get_ref()), origin)
                    .map_err(|why| format!("{} on line {at}: {why}", key.path()))?;
            }
        }
        if owner == Owner::Project {
            self.project = Some(Project { file_sync, ..project });
        } else {
            self.file_sync = file_sync;
        }
        Ok(())
    }
}

fn raw<'a>(value: &'a DeValue<'_>) -> RawValue<'a> {
    let value_of = |shape, text: &'a str| RawValue { shape, text: text.into() };
    match value {
        DeValue::String(text) => value_of(Shape::String, text.as_ref()),
        DeValue::Integer(number) if number.radix() == 10 => value_of(Shape::Integer, number.as_str()),
        DeValue::Integer(_) => value_of(Shape::Other, "a number that is not decimal"),
        DeValue::Boolean(true) => value_of(Shape::Boolean, "true"),
        DeValue::Boolean(false) => value_of(Shape::Boolean, "false"),
        DeValue::Float(_) => value_of(Shape::Other, "a fraction"),
        DeValue::Datetime(_) => value_of(Shape::Other, "a date or time"),
        DeValue::Array(values) => {
            let strings = values.iter().map(|value| value.get_ref().as_str());
            let integers = values.iter().map(|value| match value.get_ref() {
                DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str()),
                _ => None,
            });
            let strings = strings.collect::<Option<Vec<_>>>().map(|all| (Shape::Strings, all));
            let integers = || integers.collect::<Option<Vec<_>>>().map(|all| (Shape::Integers, all));
            match strings.or_else(integers) {
                Some((shape, all)) => RawValue { shape, text: all.join(",").into() },
                None => value_of(Shape::Other, "a list"),
            }
        }
        DeValue::Table(_) => value_of(Shape::Other, "a table"),
    }
}

/// Returns all keys that a file of `owner` can have, as section and name.
fn keys(owner: Owner) -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
    let project_keys = WORKSPACE_KEYS.iter().filter(move |_| owner == Owner::Project);
    KEYS.iter().map(|key| (key.section, key.name)).chain(project_keys.map(|name| (WORKSPACE, *name)))
}

fn unknown_key(owner: Owner, section: &str, name: &str, line: usize) -> String {
    if (section, name) == ("vm", "nat") {
        return format!(
            "unknown key vm.nat on line {line}: write egress = \"none\" or \"open\" below [network]"
        );
    }
    let section_keys = keys(owner).filter(|key| key.0 == section).map(|key| key.1);
    let suggestion =
        nearest(name, section_keys.clone()).map(|suggestion| format!("did you mean {suggestion}?"));
    let suggestion = suggestion
        .unwrap_or_else(|| format!("[{section}] has {}", section_keys.collect::<Vec<_>>().join(", ")));
    format!("unknown key {section}.{} on line {line}: {suggestion}", shortened(name))
}

/// Returns the error for an unknown name at the top level: a misspelled section, or a key without its section.
fn unknown_section(owner: Owner, name: &str, line: usize) -> String {
    let name = &shortened(name);
    let mut sections: Vec<_> = keys(owner).map(|key| key.0).collect();
    sections.dedup();
    if sections.contains(&name.as_str()) {
        return format!("{name} on line {line} is a section: write [{name}], and its keys below it");
    }
    if let Some(section) = nearest(name, sections.iter().copied()) {
        return format!("unknown section {name} on line {line}: did you mean [{section}]?");
    }
    match nearest(name, keys(owner).map(|key| key.1)) {
        Some(suggestion) => {
            let section = keys(owner).find(|key| key.1 == suggestion).map_or("vm", |key| key.0);
            format!("unknown key {name} on line {line}: did you mean {suggestion}, below [{section}]?")
        }
        None => format!("unknown key {name} on line {line}: the sections are [{}]", sections.join("] and [")),
    }
}

/// Returns `name`, cut to a length that fits into an error.
fn shortened(name: &str) -> String {
    if name.chars().count() <= 64 {
        return name.to_owned();
    }
    name.chars().take(64).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AutoStop, Config, HostResources, Period, Size};
    use proptest::prelude::*;

    fn read(owner: Owner, text: &str) -> Result<Config, String> {
        let layer =
            Layer::from_text(owner, Path::new("/c/config.toml"), text).map_err(|error| error.to_string())?;
        Ok(Config::new([layer], HostResources::default()))
    }

    #[test]
    fn values_of_all_types_are_parsed() {
        let config = read(
            Owner::User,
            "# mine\n[vm]\nmemory = \"4G\"\nvcpu = 3\nvmm = \"qemu\"\ndisk_size = 1024\n\
             [daemon]\nauto_stop_stale_after = \"2h\"\nstats_interval = 30\n",
        )
        .unwrap();
        assert_eq!((config.memory(), config.vcpu(), config.disk_size()), (Size::gib(4), 3, Size::gib(1)));
        assert_eq!(config.vmm(), Some(&crate::Vmm::Qemu));
        assert_eq!(config.auto_stop_stale_after(), AutoStop::After(Period::hours(2)));
        assert_eq!(config.stats_interval(), Period::seconds(30));
        assert_eq!((config.image_name(), config.kernel_name(Some("mine"))), ("debian-bookworm", "mine"));
    }

    #[test]
    fn errors_give_the_line_of_the_mistake() {
        for (text, error) in [
            ("[vm]\nmemory = '4G'\nmemroy = 1\n", "unknown key vm.memroy on line 3: did you mean memory?"),
            ("[vm]\ncolour = 1\n", "unknown key vm.colour on line 2: [vm] has image, kernel, vcpu"),
            ("\n[vmm]\n", "unknown section vmm on line 2: did you mean [vm]?"),
            ("memory = '4G'\n", "unknown key memory on line 1: did you mean memory, below [vm]?"),
            (
                "colour = 1\n",
                "unknown key colour on line 1: the sections are [vm] and [network] and [daemon]",
            ),
            ("network = 1\n", "network on line 1 is a section"),
            ("vm = 1\n", "vm on line 1 is a section"),
            ("[vm]\nmemory = 'lots'\n", "vm.memory on line 2: \"lots\" is not a size"),
            ("[vm]\nmemory = '64M'\n", "vm.memory on line 2: 64M is out of range: from 128M to 1T"),
            (
                "[vm]\nvcpu = '4'\n",
                "vm.vcpu on line 2: the string \"4\" is not valid here: expected a number",
            ),
            ("[vm]\nvcpu = 0\n", "vm.vcpu on line 2: 0 is out of range: from 1 to 32"),
            (
                "[ssh]\nautostart = [true]\n",
                "ssh.autostart on line 2: a list is not valid here: expected true or false",
            ),
            (
                "[ssh]\nautostart = ['a']\n",
                "ssh.autostart on line 2: a list is not valid here: expected true",
            ),
            ("[vm]\nnat = false\n", "vm.nat on line 2: write egress = \"none\" or \"open\" below [network]"),
            ("[network]\negress = ['a..b']\n", "network.egress on line 2: \"a..b\" is not open"),
            (
                "[network]\nallow_host = [5432, 0]\n",
                "network.allow_host on line 2: \"0\" is not a port of the host",
            ),
            ("[network]\nallow_host = [[1]]\n", "network.allow_host on line 2: a list is not valid here"),
            (
                "[network]\nca = ['/a.pem', 'b.pem']\n",
                "network.ca on line 2: \"b.pem\" is not an absolute path",
            ),
            ("[network]\negress = [1]\n", "network.egress on line 2: a list is not valid here"),
            ("[network]\nmtu = 100\n", "network.mtu on line 2: 100 is out of range: from 1280 to 65520"),
            ("[vm]\nvmm = 'xen'\n", "vm.vmm on line 2: \"xen\" is not a VMM"),
            ("[vm]\nimage = 'Böx'\n", "vm.image on line 2: 'B' at position 1"),
            ("[vm]\nmemory = \n", "invalid TOML on line 2"),
        ] {
            let actual = read(Owner::User, text).unwrap_err();
            assert!(
                actual.starts_with("cannot use /c/config.toml: ") && actual.contains(error),
                "{text}: {actual}"
            );
        }
        let actual = read(Owner::Project, "[daemon]\nstats_interval = '1s'\n").unwrap_err();
        assert!(actual.contains("daemon.stats_interval on line 2 cannot be set in banger.toml"), "{actual}");
    }

    proptest! {
        #[test]
        fn parsing_any_text_does_not_panic(text in "(\\[?(vm|daemon|workspace(\\.env)?)\\]?|(env|ports|setup) ?= ?[\\[{]|[\\]}]|[a-z_]{1,8} ?= ?|\"[0-9a-zG]{0,4}\"|[0-9.]{1,5}|\\PC|\n){0,30}") {
            let _ = (read(Owner::User, &text), read(Owner::Project, &text));
        }
    }
}
