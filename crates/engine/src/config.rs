//! The daemon's configuration: the user's file over the system's, read again after either changes.
//!
//! A broken file is an error of the request that needs it; the daemon and its VMs keep running.

use std::{
    fs::{self, File},
    io::{self, Read},
    num::NonZero,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{
    ApiError, Config, Dirs, HostResources, Size,
    config::{CONFIG_MAX, Layer, Owner},
};

/// The configuration files, and the configuration last read from them.
#[derive(Debug)]
pub(crate) struct ConfigFiles {
    /// The files, highest precedence first.
    files: [(Owner, PathBuf); 2],
    cache: Mutex<Option<CachedConfig>>,
}

#[derive(Debug)]
struct CachedConfig {
    files: [Option<Identity>; 2],
    config: Arc<Config>,
}

/// Identity of a file's version: device, inode, size and ctime in nanoseconds. Every write changes the ctime.
pub(crate) type Identity = (u64, u64, u64, i128);

impl ConfigFiles {
    pub(crate) fn new(dirs: &Dirs) -> Self {
        let files = [(Owner::User, dirs.config_file()), (Owner::System, dirs.system_config.clone())];
        Self { files, cache: Mutex::new(None) }
    }

    /// Returns the current configuration.
    pub(crate) fn current(&self) -> Result<Arc<Config>, ApiError> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let files = self.files.each_ref().map(|(_, path)| identity(path));
        if let Some(cached) = &*cache
            && cached.files == files
        {
            return Ok(cached.config.clone());
        }
        // Identified before reading, so that a file that changes in between is read again the next time.
        let config = Arc::new(Config::new(self.layers()?, host_size()));
        *cache = Some(CachedConfig { files, config: config.clone() });
        Ok(config)
    }

    /// Reads each file's layer, highest precedence first.
    pub(crate) fn layers(&self) -> Result<Vec<Layer>, ApiError> {
        let layer =
            |(owner, path): &(Owner, PathBuf)| Layer::from_file(*owner, path, read_up_to(path, CONFIG_MAX));
        Ok(self.files.iter().map(layer).collect::<Result<_, _>>()?)
    }
}

pub(crate) fn identity(path: &Path) -> Option<Identity> {
    let meta = fs::metadata(path).ok()?;
    let changed = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
    Some((meta.dev(), meta.ino(), meta.size(), changed))
}

/// Reads a file, up to `max` + 1 bytes.
pub(crate) fn read_up_to(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns this host's number of CPUs and memory size.
pub(crate) fn host_size() -> HostResources {
    let info = rustix::system::sysinfo();
    HostResources {
        cpus: std::thread::available_parallelism().ok().map(NonZero::get),
        memory: Some(Size::bytes(info.totalram.saturating_mul(u64::from(info.mem_unit)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_reread_and_an_invalid_one_fails_until_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let lookup = |name: &str| match name {
            "HOME" => Some(path.clone()),
            "BANGER_SYSTEM_CONFIG" => Some(path.join("system.toml")),
            _ => None,
        };
        let dirs = Dirs::find(lookup).unwrap();
        let files = ConfigFiles::new(&dirs);
        assert_eq!(files.current().unwrap().disk_size(), Size::gib(8));
        fs::write(path.join("system.toml"), "[vm]\ndisk_size = '1G'\nvcpu = 2\n").unwrap();
        assert_eq!(files.current().unwrap().disk_size(), Size::gib(1));
        fs::create_dir_all(&dirs.config).unwrap();
        fs::write(dirs.config_file(), "[vm]\ndisk_size = '2G'\n").unwrap();
        let config = files.current().unwrap();
        assert_eq!((config.disk_size(), config.vcpu()), (Size::gib(2), 2));
        fs::write(dirs.config_file(), "[vm]\ndisk = '3G'\n").unwrap();
        let error = files.current().unwrap_err();
        assert!(error.message.contains("unknown key vm.disk on line 2: did you mean disk_size?"), "{error}");
        fs::write(dirs.config_file(), "x".repeat(70_000)).unwrap();
        assert!(files.current().unwrap_err().message.contains("longer than 64 KiB"));
        fs::remove_file(dirs.config_file()).unwrap();
        assert_eq!(files.current().unwrap().disk_size(), Size::gib(1));
    }
}
