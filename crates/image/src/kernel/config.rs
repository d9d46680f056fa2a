//! A kernel's build configuration, from a file beside it or embedded in it (`CONFIG_IKCONFIG`).

use std::collections::HashMap;

use memchr::memmem;

use crate::codec;

/// Marker before an embedded configuration, which is compressed with gzip (Linux, kernel/configs.c).
const EMBEDDED: &[u8] = b"IKCFG_ST";

/// Maximum size of a configuration, in bytes; a distribution's has 300 kB.
pub(super) const MAX_CONFIG: u64 = 4 << 20;

/// Setting of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    BuiltIn,
    Module,
}

/// The options set to `y` or `m`, without the prefix `CONFIG_`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Config(HashMap<String, Choice>);

impl Config {
    /// Parses a configuration; `None` if it sets no option.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(text);
        let options = text.lines().filter_map(|line| {
            let (option, value) = line.trim().strip_prefix("CONFIG_")?.split_once('=')?;
            let choice = match value {
                "y" => Choice::BuiltIn,
                "m" => Choice::Module,
                _ => return None,
            };
            Some((option.to_owned(), choice))
        });
        let options: HashMap<_, _> = options.collect();
        (!options.is_empty()).then_some(Self(options))
    }

    /// Returns the configuration embedded in a kernel, if any.
    pub(super) fn embedded(vmlinux: &[u8]) -> Option<Self> {
        let at = memmem::find(vmlinux, EMBEDDED)? + EMBEDDED.len();
        let text = codec::read_limited(flate2::read::GzDecoder::new(&vmlinux[at..]), MAX_CONFIG).ok()?;
        Self::parse(&text)
    }

    /// Returns the setting of `option`, if set.
    pub(super) fn get(&self, option: &str) -> Option<Choice> {
        self.0.get(option.strip_prefix("CONFIG_").unwrap_or(option)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::pipe;

    const TEXT: &[u8] =
        b"#\n# Linux/x86\n#\nCONFIG_EXT4_FS=y\nCONFIG_XFS_FS=m\n# CONFIG_BTRFS_FS is not set\n\
        CONFIG_NR_CPUS=64\nCONFIG_HOSTNAME=\"y\"\n";

    #[test]
    fn options_set_to_y_or_m_are_parsed_and_others_ignored() {
        let config = Config::parse(TEXT).unwrap();
        assert_eq!(config.get("CONFIG_EXT4_FS"), Some(Choice::BuiltIn));
        assert_eq!(config.get("XFS_FS"), Some(Choice::Module));
        for other in ["BTRFS_FS", "NR_CPUS", "HOSTNAME"] {
            assert_eq!(config.get(other), None, "{other}");
        }
        assert_eq!(Config::parse(b"hello=y\n\xff"), None);
    }

    #[test]
    fn an_embedded_configuration_is_found_and_damaged_ones_ignored() {
        let compressed = pipe("gzip", &["-c"], TEXT);
        let kernel = [&b"\x7fELF.."[..], EMBEDDED, &compressed, b"IKCFG_ED", &[7; 100]].concat();
        assert_eq!(Config::embedded(&kernel), Config::parse(TEXT));
        for bad in [&b""[..], EMBEDDED, &kernel[..40], b"IKCFG_STnothing"] {
            assert_eq!(Config::embedded(bad), None);
        }
    }
}
