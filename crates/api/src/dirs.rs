//! banger's directories, by the XDG base directory specification.

use std::path::{Path, PathBuf};

use crate::config::Variable;

/// The configuration file of the whole host.
const SYSTEM_CONFIG: &str = "/etc/banger/config.toml";

/// banger's directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// Directory of `config.toml`.
    pub config: PathBuf,
    /// The configuration file of the whole host.
    pub system_config: PathBuf,
    /// Data that must not be lost: the store, VMs, images, kernels, logs.
    pub state: PathBuf,
    /// Data that can be fetched or created again: layers, boot initrds, copies of catalogs.
    pub cache: PathBuf,
    /// Sockets, which live as long as VMs do. Not in `XDG_RUNTIME_DIR`: the host removes that when its user logs out,
    /// and a command outside a login session has another one, or none.
    pub runtime: PathBuf,
}

/// Error for a user without a home directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot find banger's directories: HOME is not set, nor all of XDG_CONFIG_HOME, XDG_STATE_HOME and XDG_CACHE_HOME"
)]
pub struct DirsError;

impl Dirs {
    /// Returns the directories of a user; `variable` looks up environment variables. As the specification requires, a
    /// relative path in an XDG variable is ignored.
    ///
    /// # Errors
    /// Returns an error if `HOME` is needed and not set.
    pub fn find(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, DirsError> {
        let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let base = |name: &str, under_home: &str| {
            let base = absolute(name).or_else(|| home.as_ref().map(|home| home.join(under_home)));
            base.map(|base| base.join("banger")).ok_or(DirsError)
        };
        let state = base("XDG_STATE_HOME", ".local/state")?;
        Ok(Self {
            config: base("XDG_CONFIG_HOME", ".config")?,
            system_config: absolute(Variable::SYSTEM_CONFIG.name).unwrap_or_else(|| SYSTEM_CONFIG.into()),
            cache: base("XDG_CACHE_HOME", ".cache")?,
            runtime: state.join("run"),
            state,
        })
    }

    /// Returns the path of the daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("bangerd.sock")
    }

    /// Returns the path of the file that the daemon locks while it uses the store, with a
    /// [`LockRecord`](crate::LockRecord).
    pub fn store_lock(&self) -> PathBuf {
        self.state.join("store.lock")
    }

    /// Returns the path of the file that a client locks while it starts the daemon.
    pub fn start_lock(&self) -> PathBuf {
        self.state.join("start.lock")
    }

    /// Returns the path of the daemon's log file.
    pub fn daemon_log(&self) -> PathBuf {
        self.state.join("bangerd.log")
    }

    /// Returns the directory of the files that ssh needs to reach VMs.
    pub fn ssh(&self) -> PathBuf {
        self.state.join("ssh")
    }

    /// Returns the path of the user's configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// Returns the path of the user's catalog, beside the configuration file.
    pub fn catalog_file(&self) -> PathBuf {
        self.config.join("catalog.toml")
    }

    /// Returns the path of the host's catalog.
    pub fn system_catalog_file(&self) -> PathBuf {
        self.system_config.with_file_name("catalog.toml")
    }

    /// Returns the directory of VM `id`'s disks and logs.
    pub fn vm(&self, id: &str) -> PathBuf {
        self.state.join("vms").join(id)
    }

    /// Returns the directory of VM `id`'s sockets while it runs.
    pub fn vm_runtime(&self, id: &str) -> PathBuf {
        self.runtime.join("vms").join(Path::new(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdg_variables_override_home_unless_they_are_relative() {
        let find = |vars: &[(&str, &str)]| {
            let vars: Vec<_> = vars.iter().map(|(k, v)| ((*k).to_owned(), PathBuf::from(v))).collect();
            Dirs::find(move |name| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
        };
        let dirs = find(&[("HOME", "/home/a"), ("XDG_STATE_HOME", "/s"), ("XDG_CACHE_HOME", "c")]).unwrap();
        assert_eq!(dirs.state, Path::new("/s/banger"));
        assert_eq!(dirs.cache, Path::new("/home/a/.cache/banger"));
        assert_eq!(dirs.runtime, Path::new("/s/banger/run"));
        assert_eq!(find(&[]), Err(DirsError));
    }
}
