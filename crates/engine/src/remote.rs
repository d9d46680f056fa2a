//! How registries and other hosts are reached.

use banger_api::{Config, Credentials, ErrorKind};
use banger_image::{Registries, RegistryHost};

/// The registries as `config` has them, with the user's `credentials`.
pub(crate) fn registries(config: &Config, credentials: Vec<Credentials>) -> Registries {
    let hosts = config.registries().iter().map(|registry| RegistryHost {
        host: registry.host.clone(),
        mirrors: registry.mirrors.clone(),
        plain_http: registry.plain_http,
        ca: registry.ca.clone(),
    });
    Registries { hosts: hosts.collect(), credentials, ..Registries::default() }
}

/// Whether another source may succeed where one failed with an error of this kind.
pub(crate) fn may_be_elsewhere(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unreachable
            | ErrorKind::Timeout
            | ErrorKind::NotPermitted
            | ErrorKind::MissingProgram
            | ErrorKind::NotFound
    )
}
