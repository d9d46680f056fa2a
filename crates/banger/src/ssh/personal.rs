//! The user's settings that a guest receives at each start.

use banger_api::{ApiError, Config, Dirs, ErrorKind, GuestSettings, HttpProxy, ProxyVariables};

use super::files::SshFiles;
use crate::{hints::hint_for, ui::Ui};

/// Returns banger's key for an sshd in the image, the user's locale, and the proxies of a flag or else of the
/// configuration. A key that cannot be created is only a warning: the VM works without it.
///
/// # Errors
/// Returns an error if a variable of the user is not a proxy.
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
    Ok(settings.with_proxies(proxies))
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
    use super::*;

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
