//! Access to registries and other hosts.

use banger_api::{Config, Credentials, ErrorKind};
use banger_image::{Registries, RegistryHost};

/// Returns the registries configured in `config`, with the user's `credentials`.
pub(crate) fn registries(config: &Config, credentials: Vec<Credentials>) -> Registries {
    let hosts = config.registries().iter().map(|registry| RegistryHost {
        host: registry.host.clone(),
        mirrors: registry.mirrors.clone(),
        plain_http: registry.plain_http,
        ca: registry.ca.clone(),
    });
    Registries { hosts: hosts.collect(), credentials, ..Registries::default() }
}

/// Returns whether another source may succeed after an error of this kind.
pub(crate) fn is_retryable_elsewhere(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unreachable
            | ErrorKind::Timeout
            | ErrorKind::NotPermitted
            | ErrorKind::MissingProgram
            | ErrorKind::NotFound
    )
}
