//! What of its user's a guest gets at each start.

use banger_api::{ApiError, Dirs, Personal};

use crate::{ssh::SshFiles, ui::Ui};

/// A key of banger's own for the sshd that the image may have. Without, a guest is of no less use.
pub(crate) fn of_user(dirs: &Dirs, ui: &Ui) -> Personal {
    // It is a key.
    Personal::new(key(dirs, ui).into_iter().collect()).unwrap_or_default()
}

/// The key, made if it is not there; where that cannot be, it is told.
pub(crate) fn key(dirs: &Dirs, ui: &Ui) -> Option<String> {
    let tell = |error: &ApiError| {
        let hint = error.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        ui.warning(format_args!("an sshd in a VM gets no key of banger's: {error}{hint}"));
    };
    SshFiles::public_key(dirs).inspect_err(tell).ok()
}
