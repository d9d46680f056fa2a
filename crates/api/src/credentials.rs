//! Credentials for a registry.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A user's name and secret for one registry, as `docker login` stores them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The registry's host, with its port if it has one, as in a [`Reference`](crate::Reference).
    pub registry: String,
    /// The user's name; empty if `secret` is an identity token.
    pub username: String,
    /// Password, access token or identity token.
    pub secret: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("registry", &self.registry).finish_non_exhaustive()
    }
}
