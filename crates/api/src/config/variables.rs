//! All environment variables of banger.

use std::ffi::OsString;

use super::{
    ConfigError, KEYS, Layer, Origin,
    value::{RawValue, Shape},
};
use crate::ConfigPart;

/// An environment variable of banger.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// Its help text.
    pub help: &'static str,
}

impl Variable {
    /// Path of the daemon's program.
    pub const BANGERD: Self = Self {
        name: "BANGER_BANGERD",
        help: "Path of the bangerd to start, instead of the one beside banger or on PATH",
    };
    /// Log filter of a daemon that the client starts.
    pub const LOG: Self = Self {
        name: "BANGER_LOG",
        help: "Log level of a new daemon: error, warn, info, debug or trace, for all or for each module",
    };
    /// Path of the system's configuration file.
    pub const SYSTEM_CONFIG: Self = Self {
        name: "BANGER_SYSTEM_CONFIG",
        help: "Path of the system's configuration file, instead of /etc/banger/config.toml",
    };
    /// Address of the Debian mirror.
    pub const DEBIAN_MIRROR: Self = Self {
        name: "BANGER_DEBIAN_MIRROR",
        help: "URL of the Debian mirror for catalog images and kernels, such as http://HOST/debian",
    };
}

/// Returns all variables: first those of the keys, then those of the programs.
pub fn variables() -> Vec<Variable> {
    let key_variables = KEYS.iter().filter_map(|key| Some(Variable { name: key.variable?, help: key.help }));
    key_variables
        .chain([Variable::BANGERD, Variable::LOG, Variable::SYSTEM_CONFIG, Variable::DEBIAN_MIRROR])
        .collect()
}

impl Layer {
    /// Reads a layer from the environment, through `lookup`. Empty variables are ignored.
    ///
    /// # Errors
    /// Returns an error if a variable's value is not valid for its key.
    pub fn from_env(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let mut layer = Self::default();
        for key in KEYS {
            let Some(name) = key.variable else { continue };
            let Some(value) = lookup(name).filter(|value| !value.is_empty()) else { continue };
            let error = |problem| ConfigError { place: name.to_owned(), problem, part: ConfigPart::Variable };
            let text = value.to_str().ok_or_else(|| error("it is not UTF-8".to_owned()))?;
            let raw = RawValue { shape: Shape::Untyped, text: text.into() };
            layer.set(key, &raw, Origin::Variable(name)).map_err(error)?;
        }
        Ok(layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_for_invalid_variables_give_their_name() {
        let read = |name: &'static str, value: &'static str| {
            Layer::from_env(|variable| (variable == name).then(|| value.into()))
                .map_err(|error| error.to_string())
        };
        assert_eq!(read("BANGER_MEMORY", "").unwrap(), Layer::default());
        let error = read("BANGER_MEMORY", "lots").unwrap_err();
        assert!(error.starts_with("cannot use BANGER_MEMORY: \"lots\" is not a size"), "{error}");
        assert!(read("BANGER_VCPU", "33").unwrap_err().contains("from 1 to 32"));
        assert!(read("BANGER_SSH_AUTOSTART", "maybe").unwrap_err().contains("neither true nor false"));
    }

    #[test]
    fn every_variable_has_bangers_prefix_and_a_help_text() {
        let all = variables();
        assert!(all.iter().all(|variable| variable.name.starts_with("BANGER_") && variable.help.len() > 4));
    }
}
