//! Where banger keeps things, by the XDG base directory specification.

use std::path::{Path, PathBuf};

use crate::config::Variable;

/// The configuration file of the whole host.
const SYSTEM_CONFIG: &str = "/etc/banger/config.toml";

/// banger's folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// `config.toml`.
    pub config: PathBuf,
    /// The configuration file of the whole host.
    pub system_config: PathBuf,
    /// The store, VMs, images, kernels, logs: what must not be lost.
    pub state: PathBuf,
    /// What can be fetched or made again: layers, boot initrds, copies of catalogs.
    pub cache: PathBuf,
    /// Sockets, for as long as the host is up.
    pub runtime: PathBuf,
}

/// Why there are no folders.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "HOME is not set, so there is nowhere to keep anything; set HOME, or XDG_CONFIG_HOME, XDG_STATE_HOME and XDG_CACHE_HOME"
)]
pub struct DirsError;

impl Dirs {
    /// The folders for the user `uid`, with `variable` looking up the environment. A relative path in an XDG
    /// variable is ignored, as the specification asks.
    ///
    /// # Errors
    /// When there is no home to put them in.
    pub fn find(variable: impl Fn(&str) -> Option<PathBuf>, uid: u32) -> Result<Self, DirsError> {
        let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let base = |name: &str, under_home: &str| {
            let base = absolute(name).or_else(|| home.as_ref().map(|home| home.join(under_home)));
            base.map(|base| base.join("banger")).ok_or(DirsError)
        };
        Ok(Self {
            config: base("XDG_CONFIG_HOME", ".config")?,
            system_config: absolute(Variable::SYSTEM_CONFIG.name).unwrap_or_else(|| SYSTEM_CONFIG.into()),
            state: base("XDG_STATE_HOME", ".local/state")?,
            cache: base("XDG_CACHE_HOME", ".cache")?,
            runtime: match absolute("XDG_RUNTIME_DIR") {
                Some(base) => base.join("banger"),
                None => PathBuf::from(format!("/tmp/banger-{uid}")),
            },
        })
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("bangerd.sock")
    }

    /// The daemon's log file.
    pub fn daemon_log(&self) -> PathBuf {
        self.state.join("bangerd.log")
    }

    /// Where ssh finds what it needs to reach VMs.
    pub fn ssh(&self) -> PathBuf {
        self.state.join("ssh")
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// The catalog beside it.
    pub fn catalog_file(&self) -> PathBuf {
        self.config.join("catalog.toml")
    }

    /// The catalog of the whole host.
    pub fn system_catalog_file(&self) -> PathBuf {
        self.system_config.with_file_name("catalog.toml")
    }

    /// Where VM `id` keeps its disks and logs.
    pub fn vm(&self, id: &str) -> PathBuf {
        self.state.join("vms").join(id)
    }

    /// Where VM `id` has its sockets while it runs.
    pub fn vm_runtime(&self, id: &str) -> PathBuf {
        self.runtime.join("vms").join(Path::new(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdg_variables_win_over_home_and_relative_ones_are_ignored() {
        let find = |vars: &[(&str, &str)]| {
            let vars: Vec<_> = vars.iter().map(|(k, v)| ((*k).to_owned(), PathBuf::from(v))).collect();
            Dirs::find(move |name| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()), 7)
        };
        let dirs = find(&[("HOME", "/home/a"), ("XDG_STATE_HOME", "/s"), ("XDG_CACHE_HOME", "c")]).unwrap();
        assert_eq!(dirs.state, Path::new("/s/banger"));
        assert_eq!(dirs.cache, Path::new("/home/a/.cache/banger"));
        assert_eq!(dirs.runtime, Path::new("/tmp/banger-7"));
        assert_eq!(find(&[]), Err(DirsError));
    }
}
