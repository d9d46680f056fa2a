//! The configuration: values for everything that a command or request does not set.
//!
//! Every key is declared once, in `keys`. A [`Layer`] holds the values of one source: the text of a file
//! ([`Layer::from_file`]) or the environment ([`Layer::from_env`]). A [`Config`] stacks layers over the built-in
//! defaults. This module reads no files; each program reads those that it may.

mod catalog;
mod file_sync;
mod keys;
mod lists;
mod nearest;
mod registry;
mod text;
mod value;
mod variables;
mod workspace;

use std::{fmt, path::PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

pub use catalog::CatalogUrl;
pub use file_sync::FileSync;
pub use keys::{Config, KEYS, Layer};
pub use registry::RegistryHost;
pub use text::PROJECT_FILE;
pub use value::{AutoStop, CaFiles, ProjectPolicy, ProxyPort};
pub use variables::{Variable, variables};
pub use workspace::{Located, Project};

use crate::{ApiError, ConfigPart, ErrorKind, Remedy, Size};

/// Maximum length of a configuration file, in bytes.
pub const CONFIG_MAX: u64 = 64 << 10;

/// A configuration key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its section, a TOML table: "vm".
    pub section: &'static str,
    /// Its name, which no other key has: "memory".
    pub name: &'static str,
    /// Its help text.
    pub help: &'static str,
    /// The configuration files that may set it.
    pub scope: Scope,
    /// The environment variable that sets it.
    pub variable: Option<&'static str>,
}

/// The configuration files that may set a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Also a project's `banger.toml`.
    Project,
    /// Only the files of a user or of the whole host.
    Host,
}

/// Owner of a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A repository's `banger.toml`.
    Project,
    /// The user's `config.toml`.
    User,
    /// The host's `config.toml`.
    System,
}

/// Source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    BuiltIn,
    /// A line of a file.
    File {
        /// Its owner.
        owner: Owner,
        /// Its path.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(&'static str),
}

impl Origin {
    /// Returns the name of the layer.
    pub fn layer(&self) -> &'static str {
        match self {
            Self::BuiltIn => "built in",
            Self::File { owner: Owner::Project, .. } => "project",
            Self::File { owner: Owner::User, .. } => "user",
            Self::File { owner: Owner::System, .. } => "system",
            Self::Variable(_) => "environment",
        }
    }

    /// Returns a short name for help texts; `None` for a built-in default.
    pub fn short(&self) -> Option<String> {
        match self {
            Self::BuiltIn => None,
            Self::File { path, .. } => Some(path.file_name()?.to_string_lossy().into_owned()),
            Self::Variable(name) => Some((*name).to_owned()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.pad("built in"),
            Self::File { path, line, .. } => f.pad(&format!("{}:{line}", path.display())),
            Self::Variable(name) => f.pad(name),
        }
    }
}

/// A value and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

/// The host's resources, which decide the defaults of a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostResources {
    /// Number of CPUs, if known.
    pub cpus: Option<usize>,
    /// Total memory, if known.
    pub memory: Option<Size>,
}

/// A key as `config show` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ConfigEntry {
    /// Its section and name: "vm.memory".
    pub key: String,
    /// Its value as a user would write it, or a description of what it depends on.
    pub value: String,
    /// The layer that sets it: "environment", "project", "user", "system" or "built in".
    pub layer: &'static str,
    /// The file and line, or the environment variable.
    pub origin: String,
    /// Its help text.
    pub help: &'static str,
    /// The environment variable that sets it.
    pub variable: Option<&'static str>,
    /// Its own name: "memory".
    #[serde(skip)]
    pub name: &'static str,
    /// Short name of the origin, for help texts.
    #[serde(skip)]
    pub short: Option<String>,
}

/// Error for a configuration source that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot use {place}: {problem}")]
pub struct ConfigError {
    /// The file, or the environment variable.
    place: String,
    /// The problem, with its line.
    problem: String,
    part: ConfigPart,
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        let part = error.part;
        Self::new(ErrorKind::Invalid, error.to_string()).remedy(Remedy::CorrectConfig { part })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Period;
    use std::path::Path;

    fn file(owner: Owner, text: &str) -> Layer {
        let name = if owner == Owner::Project { "/repo/banger.toml" } else { "/etc/config.toml" };
        Layer::from_text(owner, Path::new(name), text).unwrap()
    }

    #[test]
    fn layers_override_in_order_environment_project_user_system_built_in() {
        let environment = Layer::from_env(|name| (name == "BANGER_VCPU").then(|| "7".into())).unwrap();
        let config = Config::new(
            [
                environment,
                file(Owner::Project, "[vm]\nvcpu = 6\nmemory = '6G'\n"),
                file(Owner::User, "[vm]\nvcpu = 5\nmemory = '5G'\ndisk_size = '5G'\n"),
                file(
                    Owner::System,
                    "[vm]\nvcpu = 4\nmemory = '4G'\ndisk_size = '4G'\n[network]\negress = 'none'\n",
                ),
            ],
            HostResources::default(),
        );
        assert_eq!(config.vcpu(), 7);
        assert_eq!(config.memory(), Size::gib(6));
        assert_eq!(config.disk_size(), Size::gib(5));
        assert_eq!(config.egress(), crate::Egress::None);
        assert_eq!(config.stop_timeout(), Period::seconds(10));
        let entries = config.entries();
        let entry = |name| entries.iter().find(|key| key.name == name).unwrap();
        assert_eq!((entry("vcpu").layer, entry("vcpu").origin.as_str()), ("environment", "BANGER_VCPU"));
        assert_eq!(
            (entry("memory").value.as_str(), entry("memory").origin.as_str()),
            ("6G", "/repo/banger.toml:3")
        );
        assert_eq!((entry("egress").layer, entry("egress").value.as_str()), ("system", "none"));
        assert_eq!((entry("vmm").layer, entry("vmm").short.as_deref()), ("built in", None));
    }

    #[test]
    fn a_project_narrows_the_network_and_does_not_widen_it() {
        let egress = |project: &str, user: &str| {
            let text = |egress: &str| format!("[network]\negress = {egress}\n");
            let layers = [file(Owner::Project, &text(project)), file(Owner::User, &text(user))];
            Config::new(layers, HostResources::default()).egress().to_string()
        };
        assert_eq!(egress("['pypi.org', '*.crates.io:443']", "'public'"), "pypi.org,*.crates.io:443");
        assert_eq!(egress("'open'", "'public'"), "public");
        assert_eq!(egress("['10.0.0.1']", "'public'"), "public");
        assert_eq!(egress("'public'", "['pypi.org']"), "pypi.org");
        let layers = [file(Owner::Project, "[network]\negress = 'public'\nkind = 'none'\n")];
        let config = Config::new(layers, HostResources::default());
        assert_eq!((config.egress(), config.kind()), (crate::Egress::Public, crate::NetworkKind::None));
        let layers = [
            file(Owner::Project, "[network]\nkind = 'user'\n"),
            file(Owner::User, "[network]\nkind = 'none'\n"),
        ];
        assert_eq!(Config::new(layers, HostResources::default()).kind(), crate::NetworkKind::None);
    }

    #[test]
    fn a_project_does_not_allow_ports_of_the_host() {
        let allowed = |project: &str, user: &str| {
            let text = |ports: &str| format!("[network]\nallow_host = {ports}\n");
            let layers = [file(Owner::Project, &text(project)), file(Owner::User, &text(user))];
            Config::new(layers, HostResources::default()).allow_host().to_string()
        };
        assert_eq!(allowed("[22]", "[]"), "none");
        assert_eq!(allowed("[22, 80]", "[80, 443]"), "80,443");
        assert_eq!(allowed("[80]", "[80, 443]"), "80");
        assert_eq!(allowed("[]", "[80, 443]"), "none");
        let project = [file(Owner::Project, "[network]\nallow_host = [22]\n")];
        assert!(Config::new(project, HostResources::default()).allow_host().is_empty());
    }

    #[test]
    fn every_key_has_a_unique_name_and_a_help_text() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(!key.help.is_empty());
            assert!(KEYS.iter().skip(index + 1).all(|other| other.name != key.name), "{}", key.name);
        }
        let entries = Config::default().entries();
        assert_eq!(entries.len(), KEYS.len());
        let kernel = entries.iter().find(|key| key.name == "kernel");
        assert!(kernel.is_some_and(|kernel| kernel.value.ends_with(crate::Defaults::KERNEL)));
    }
}
