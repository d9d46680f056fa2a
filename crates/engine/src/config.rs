//! The configuration: what applies when a request does not say.

use std::{fs, io, num::NonZero, path::Path};

use banger_api::{ApiError, Defaults, ErrorKind, Name, Size, Vmm};
use serde::Deserialize;

/// `config.toml`. Every key is optional.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What VMs are made of.
    #[serde(default)]
    pub vm: VmDefaults,
}

/// `[vm]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmDefaults {
    image: Option<Name>,
    kernel: Option<Name>,
    vcpu: Option<u32>,
    memory: Option<TextSize>,
    disk_size: Option<TextSize>,
    system_overlay_size: Option<TextSize>,
    vmm: Option<Vmm>,
}

/// A size as people write it: `"8G"`, or a number of MiB.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "toml::Value")]
struct TextSize(Size);

impl TryFrom<toml::Value> for TextSize {
    type Error = String;
    fn try_from(value: toml::Value) -> Result<Self, String> {
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(mib) => mib.to_string(),
            other => return Err(format!("a {} is not a size", other.type_str())),
        };
        text.parse().map(Self).map_err(|error: banger_api::InvalidSize| error.to_string())
    }
}

impl Config {
    /// Reads `file`; there need not be one.
    ///
    /// # Errors
    /// When it cannot be read, or has a key or value that is not known; the message has the line.
    pub fn load(file: &Path) -> Result<Self, ApiError> {
        let invalid = |why: String| {
            ApiError::new(ErrorKind::Invalid, format!("cannot use {}: {why}", file.display()))
                .hint("correct or remove that line, then run the command again")
        };
        match fs::read_to_string(file) {
            Ok(text) => toml::from_str(&text).map_err(|error| invalid(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(invalid(error.to_string())),
        }
    }
}

impl VmDefaults {
    /// Image name.
    pub fn image(&self) -> &str {
        self.image.as_ref().map_or(Defaults::IMAGE, Name::as_str)
    }

    /// Kernel name, for an image that prefers `preferred`.
    pub fn kernel<'a>(&'a self, preferred: Option<&'a str>) -> &'a str {
        self.kernel.as_ref().map(Name::as_str).or(preferred).unwrap_or(Defaults::KERNEL)
    }

    /// Virtual CPUs: as configured, else a share of the host's.
    pub fn vcpu(&self) -> u32 {
        let host = || std::thread::available_parallelism().ok().map(NonZero::get);
        self.vcpu.unwrap_or_else(|| Defaults::vcpu(host()))
    }

    /// Memory: as configured, else a share of the host's.
    pub fn memory(&self) -> Size {
        let host = || {
            let info = rustix::system::sysinfo();
            Size::bytes(info.totalram.saturating_mul(u64::from(info.mem_unit)))
        };
        self.memory.map_or_else(|| Defaults::memory(Some(host())), |size| size.0)
    }

    /// Size of the work disk.
    pub fn disk_size(&self) -> Size {
        self.disk_size.map_or(Defaults::DISK, |size| size.0)
    }

    /// Size of the system overlay.
    pub fn system_overlay_size(&self) -> Size {
        self.system_overlay_size.map_or(Defaults::DISK, |size| size.0)
    }

    /// The VMM that was asked for.
    pub fn vmm(&self) -> Option<Vmm> {
        self.vmm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        Config::load(file.path()).map_err(|error| error.message)
    }

    #[test]
    fn keys_are_known_or_refused_with_their_line() {
        let config = load("[vm]\nmemory = \"4G\"\nvcpu = 3\nvmm = \"qemu\"\ndisk_size = 1024\n").unwrap();
        assert_eq!(config.vm.memory(), Size::gib(4));
        assert_eq!(config.vm.vcpu(), 3);
        assert_eq!(config.vm.disk_size(), Size::gib(1));
        let error = load("[vm]\nmemory = \"4G\"\nmemroy = 1\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains("memroy"), "{error}");
        let error = load("[vm]\nmemory = \"lots\"\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("lots"), "{error}");
    }

    #[test]
    fn no_file_is_all_defaults() {
        let config = Config::load(Path::new("/nonexistent/config.toml")).unwrap();
        assert_eq!(config.vm.image(), "debian-bookworm");
        assert_eq!(config.vm.kernel(Some("mine")), "mine");
        assert!((1..=4).contains(&config.vm.vcpu()));
    }
}
