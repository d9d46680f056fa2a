//! The user's settings that a guest receives at each start.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use banger_api::{ApiError, Certificates, Config, Dirs, ErrorKind, GuestSettings, HttpProxy, ProxyVariables};

use super::files::SshFiles;
use crate::{hints::hint_for, ui::Ui};

/// Returns banger's key for an sshd in the image, the user's locale, the proxies of a flag or else of the
/// configuration, and the configuration's certificates. A key that cannot be created is only a warning: the VM works without it.
///
/// # Errors
/// Returns an error if a variable of the user is not a proxy, or a file has no certificates.
pub(crate) fn collect(
    config: &Config,
    flag: Option<&HttpProxy>,
    dirs: &Dirs,
    ui: &Ui,
) -> Result<GuestSettings, ApiError> {
    let variable = |name: &str| std::env::var(name).ok();
    // Both values have been validated.
    let settings =
        GuestSettings::new(key(dirs, ui).into_iter().collect(), locale(variable)).unwrap_or_default();
    let setting = flag.cloned().unwrap_or_else(|| config.http_proxy());
    let proxies = ProxyVariables::collect(&setting, variable)
        .map_err(|error| ApiError::new(ErrorKind::Invalid, error.to_string()))?;
    Ok(settings.with_proxies(proxies).with_certificates(certificates(config)?))
}

/// Returns the certificates in the configured files.
fn certificates(config: &Config) -> Result<Certificates, ApiError> {
    let mut all = Certificates::default();
    for path in config.ca().paths() {
        let invalid = |why: String| {
            let message = format!("cannot use the certificates in {} (network.ca): {why}", path.display());
            ApiError::new(ErrorKind::Invalid, message)
        };
        let text = read(path).map_err(|error| invalid(error.to_string()))?;
        let found = Certificates::parse(&String::from_utf8_lossy(&text));
        all = found.and_then(|found| all.with(found)).map_err(|error| invalid(error.to_string()))?;
    }
    Ok(all)
}

/// Reads a file of limited size.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Reading a pipe would block.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(Certificates::MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > Certificates::MAX_FILE {
        return Err(io::Error::other(format!("it is longer than {} KiB", Certificates::MAX_FILE >> 10)));
    }
    Ok(bytes)
}

/// Returns the key, created on first use; warns if that fails.
pub(crate) fn key(dirs: &Dirs, ui: &Ui) -> Option<String> {
    let warn = |error: &ApiError| {
        let hint = hint_for(error).map(|hint| format!("; {hint}")).unwrap_or_default();
        ui.warning(format_args!("VMs receive no ssh key: {error}{hint}"));
    };
    SshFiles::public_key(dirs).inspect_err(warn).ok()
}

/// Returns the user's locale for messages, times and characters, as a value for `LANG`.
fn locale(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let set = ["LC_ALL", "LANG"].into_iter().filter_map(variable).find(|name| !name.is_empty())?;
    // C means that the user has chosen no locale.
    Some(set).filter(|name| GuestSettings::is_locale(name) && !matches!(name.as_str(), "C" | "POSIX"))
}

#[cfg(test)]
mod tests {
    use banger_api::{
        HostResources,
        config::{Layer, Owner},
    };

    use super::*;

    #[test]
    fn an_error_names_the_file_without_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let toml = format!("[network]\nca = [{:?}]\n", path.display().to_string());
        let layer = Layer::from_text(Owner::User, Path::new("/config.toml"), &toml).unwrap();
        let config = Config::new([layer], HostResources::default());
        let error = || certificates(&config).unwrap_err().to_string();
        let name = path.display().to_string();
        assert!(error().contains(&format!("{name} (network.ca): No such file")), "{}", error());
        for (content, why) in [
            ("not PEM".to_owned(), "no line \"-----BEGIN CERTIFICATE-----\""),
            ("x".repeat(Certificates::MAX_FILE + 1), "longer than 256 KiB"),
        ] {
            fs::write(&path, content).unwrap();
            assert!(error().contains(&name) && error().contains(why), "{}", error());
        }
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nMIIA\n-----END CERTIFICATE-----\n").unwrap();
        assert_eq!(certificates(&config).unwrap().as_pem().len(), 1);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(error().contains("it is not a file"), "{}", error());
    }

    #[test]
    fn lc_all_overrides_lang_and_invalid_locales_are_ignored() {
        let locale_of = |set: &[(&str, &str)]| {
            locale(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(locale_of(&[("LANG", "de_DE.UTF-8")]).as_deref(), Some("de_DE.UTF-8"));
        assert_eq!(locale_of(&[("LANG", "de_DE.UTF-8"), ("LC_ALL", "C.UTF-8")]).as_deref(), Some("C.UTF-8"));
        assert_eq!(locale_of(&[("LANG", "de_DE.UTF-8"), ("LC_ALL", "")]).as_deref(), Some("de_DE.UTF-8"));
        for none in ["", "C", "POSIX", "/usr/lib/locale/own"] {
            assert_eq!(locale_of(&[("LANG", none)]), None, "{none}");
        }
        assert_eq!(locale_of(&[("LANG", "de_DE.UTF-8"), ("LC_ALL", "C")]), None);
    }
}
