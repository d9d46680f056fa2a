//! Checks of the host and of a VM's health.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ApiError;

/// Result of a check, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// No problem was found.
    Pass,
    /// It works, but not as well as it could.
    Warn,
    /// Something will not work.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        })
    }
}

/// One check, and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Name of the check: "KVM".
    pub name: String,
    /// Its result.
    pub verdict: Verdict,
    /// Its finding.
    pub message: String,
    /// The reason why it did not pass; `message` is this error's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<ApiError>>,
}

impl Check {
    /// Creates a check that passed.
    pub fn pass(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Pass, message: message.into(), error: None }
    }

    /// Creates a check of something that works, but not as well as it could.
    pub fn warn(name: impl Into<String>, error: ApiError) -> Self {
        Self::from_error(name, Verdict::Warn, error)
    }

    /// Creates a check of something that does not work.
    pub fn fail(name: impl Into<String>, error: ApiError) -> Self {
        Self::from_error(name, Verdict::Fail, error)
    }

    fn from_error(name: impl Into<String>, verdict: Verdict, error: ApiError) -> Self {
        Self { name: name.into(), verdict, message: error.message.clone(), error: Some(Box::new(error)) }
    }
}
