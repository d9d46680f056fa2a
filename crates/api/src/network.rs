//! A VM's network.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kind of a VM's network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// A network without privileges, through pasta.
    #[default]
    User,
    /// No network card.
    None,
}

/// Error for a text that is not a [`NetworkKind`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network: use user or none")]
pub struct InvalidNetworkKind(String);

impl FromStr for NetworkKind {
    type Err = InvalidNetworkKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "user" => Ok(Self::User),
            "none" => Ok(Self::None),
            _ => Err(InvalidNetworkKind(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::User => "user",
            Self::None => "none",
        })
    }
}
