//! Sets the guest's locale to the user's, if the image has it. Many programs print warnings if a locale is unknown.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::files::{install, read};

/// Files that set the system's locale: Debian's, and that of all other distributions.
const CONFIG_FILES: [&str; 2] = ["etc/default/locale", "etc/locale.conf"];

const LOCALES: &str = "usr/lib/locale";
const ARCHIVE: &str = "usr/lib/locale/locale-archive";

/// Start of a locale archive, and header positions of its names' offset and length (glibc's `locarchive.h`).
const MAGIC: u32 = 0xde02_0109;
const NAMES: [usize; 2] = [20, 24];

/// Maximum size of the names, in bytes: all of glibc's have about 20 KiB.
const NAMES_MAX: usize = 1 << 20;

/// musl's dynamic linker. musl has only C.UTF-8, and needs no file for it.
const MUSL: &str = "lib/ld-musl-x86_64.so.1";

/// The locale of every system with a current C library.
const UTF8: &str = "C.UTF-8";

/// Prefix of a comment that repeats the value banger has set. A different value is not banger's.
const MARK: &str = "# banger: ";
const LANG: &str = "LANG=";

/// Sets locale `name` in the system at `root`, unless it is unknown or another is configured.
pub(super) fn set(root: &Path, name: &str) -> io::Result<()> {
    if !is_known(root, name) {
        return Ok(());
    }
    let [debian_path, other_path] = CONFIG_FILES.map(|file| root.join(file));
    let is_debian = root.join("etc/debian_version").exists() && !debian_path.is_symlink();
    let path = if is_debian { debian_path } else { other_path };
    let old = String::from_utf8(read(&path)?.unwrap_or_default()).map_err(io::Error::other)?;
    let is_ours = |name: &str| old.lines().any(|line| line == format!("{MARK}{LANG}{name}"));
    if configured(root).is_some_and(|name| !is_ours(&name)) {
        return Ok(());
    }
    let is_other = |line: &&str| !line.strip_prefix(MARK).unwrap_or(line).starts_with(LANG);
    let mut new: String = old.lines().filter(is_other).map(|line| format!("{line}\n")).collect();
    new.push_str(&format!("{MARK}{LANG}{name}\n{LANG}{name}\n"));
    install(&path, new.as_bytes(), None)
}

/// Returns `LANG` for a session in the system at `root`, if there is a known locale.
pub(crate) fn for_session(root: &Path) -> Option<String> {
    configured(root).into_iter().chain([UTF8.to_owned()]).find(|name| is_known(root, name))
}

/// Returns the locale that the system itself configures.
fn configured(root: &Path) -> Option<String> {
    CONFIG_FILES.into_iter().find_map(|file| {
        let text = String::from_utf8(read(&root.join(file)).ok()??).ok()?;
        let value = text.lines().find_map(|line| line.trim().strip_prefix(LANG))?;
        Some(value.trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
    })
}

fn is_known(root: &Path, name: &str) -> bool {
    if !is_name(name) {
        return false;
    }
    let normal = normal(name);
    matches!(name, "C" | "POSIX")
        || (name == UTF8 && root.join(MUSL).exists())
        || [name, &normal].iter().any(|name| root.join(LOCALES).join(name).is_dir())
        || has_name(&root.join(ARCHIVE), &normal).unwrap_or(false)
}

/// Returns whether `name` is a plain file name, which cannot lead out of the locale directory.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-@".contains(&byte);
    name.starts_with(|first: char| first.is_ascii_alphabetic()) && name.len() < 64 && name.bytes().all(plain)
}

/// Returns `name` as glibc normalises it: the character set in lower-case letters and digits, as in `de_DE.utf8`.
fn normal(name: &str) -> String {
    let Some((language, rest)) = name.split_once('.') else { return name.to_owned() };
    let (charset, modifier) = rest.split_at(rest.find('@').unwrap_or(rest.len()));
    let charset: String =
        charset.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let iso = if charset.bytes().all(|byte| byte.is_ascii_digit()) { "iso" } else { "" };
    format!("{language}.{iso}{charset}{modifier}")
}

/// Returns whether `name` is in glibc's locale archive.
fn has_name(archive: &Path, name: &str) -> io::Result<bool> {
    let archive = File::open(archive)?;
    let mut head = [0; 32];
    archive.read_exact_at(&mut head, 0)?;
    let field = |at: usize| {
        let bytes = head.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let [offset, length] = NAMES.map(field);
    if field(0) != MAGIC {
        return Ok(false);
    }
    let mut names = vec![0; usize::try_from(length).unwrap_or(NAMES_MAX).min(NAMES_MAX)];
    archive.read_exact_at(&mut names, offset.into())?;
    Ok(names.split(|byte| *byte == 0).any(|known| known == name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// Creates a system that has C.UTF-8, `de_DE.UTF-8`, and these files.
    fn system(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for dir in ["usr/lib/locale/C.utf8", "usr/lib/locale/de_DE.utf8", "etc/default"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        for (name, content) in files {
            fs::write(root.path().join(name), content).unwrap();
        }
        root
    }

    fn session(root: &TempDir) -> Option<String> {
        for_session(root.path())
    }

    fn text(root: &TempDir, name: &str) -> Option<String> {
        fs::read_to_string(root.path().join(name)).ok()
    }

    #[test]
    fn a_locale_in_the_image_is_set_unless_the_user_changed_it() {
        for (files, file) in [(&[("etc/debian_version", "12")][..], CONFIG_FILES[0]), (&[], CONFIG_FILES[1])]
        {
            let root = system(files);
            assert_eq!(session(&root).as_deref(), Some("C.UTF-8"));
            for name in ["C.UTF-8", "de_DE.UTF-8", "de_DE.UTF-8", "fr_FR.UTF-8"] {
                set(root.path(), name).unwrap();
            }
            let ours = "# banger: LANG=de_DE.UTF-8\nLANG=de_DE.UTF-8\n";
            assert_eq!(text(&root, file).as_deref(), Some(ours));
            assert_eq!(session(&root).as_deref(), Some("de_DE.UTF-8"));
            let changed = ours.replace("\nLANG=de_DE.UTF-8", "\nLANG=de_DE.utf8");
            fs::write(root.path().join(file), &changed).unwrap();
            set(root.path(), "C.UTF-8").unwrap();
            assert_eq!(text(&root, file), Some(changed));
        }
    }

    #[test]
    fn a_configured_locale_is_kept_and_an_unknown_one_is_not_set() {
        let root = system(&[("etc/locale.conf", "LC_TIME=C\nLANG=\"de_DE.UTF-8\"\n")]);
        set(root.path(), "C.UTF-8").unwrap();
        assert_eq!(session(&root).as_deref(), Some("de_DE.UTF-8"));
        let root = system(&[("etc/locale.conf", "LANG=fr_FR.UTF-8")]);
        assert_eq!(session(&root).as_deref(), Some("C.UTF-8"));
        let root = system(&[("etc/locale.conf", "LC_TIME=C")]);
        for unknown in ["fr_FR.UTF-8", "../locale/C.utf8", "..", "", "C.utf8\nX=1"] {
            set(root.path(), unknown).unwrap();
        }
        assert_eq!(text(&root, "etc/locale.conf").as_deref(), Some("LC_TIME=C"));
        set(root.path(), "de_DE.utf8").unwrap();
        assert_eq!(
            text(&root, "etc/locale.conf").as_deref(),
            Some("LC_TIME=C\n# banger: LANG=de_DE.utf8\nLANG=de_DE.utf8\n")
        );
        let bare = tempfile::tempdir().unwrap();
        assert_eq!(session(&bare), None);
        fs::create_dir(bare.path().join("lib")).unwrap();
        fs::write(bare.path().join(MUSL), "").unwrap();
        assert_eq!(session(&bare).as_deref(), Some("C.UTF-8"));
    }

    #[test]
    fn locale_names_are_found_in_a_glibc_archive() {
        let names = b"\0de_DE.iso88591\0ru_RU.koi8r\0sr_RS.utf8@latin\0";
        let mut archive = vec![0; 56];
        archive[..4].copy_from_slice(&MAGIC.to_le_bytes());
        archive[20..24].copy_from_slice(&56u32.to_le_bytes());
        archive[24..28].copy_from_slice(&u32::try_from(names.len()).unwrap().to_le_bytes());
        archive.extend(names);
        let root = system(&[]);
        fs::write(root.path().join(ARCHIVE), &archive).unwrap();
        for known in ["de_DE.ISO-8859-1", "de_DE.8859-1", "ru_RU.KOI8-R", "sr_RS.UTF-8@latin"] {
            assert!(is_known(root.path(), known), "{known}");
        }
        for unknown in ["de_DE", "RU.koi8r", "sr_RS.UTF-8", "de_AT.UTF-8"] {
            assert!(!is_known(root.path(), unknown), "{unknown}");
        }
        for length in [0, 20, 57] {
            fs::write(root.path().join(ARCHIVE), &archive[..length]).unwrap();
            assert!(!is_known(root.path(), "ru_RU.KOI8-R"));
        }
    }
}
