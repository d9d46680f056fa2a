//! Checks of the host and of a VM's health.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ApiError;

/// How a check came out, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it should be.
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

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at: "KVM".
    pub name: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The error that it found, for a client to put a hint into words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<ApiError>>,
}

impl Check {
    /// What passed.
    pub fn pass(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Pass, message: message.into(), hint: None, error: None }
    }

    /// What works, but could be better, and how.
    pub fn warn(name: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Warn,
            message: message.into(),
            hint: Some(hint.into()),
            error: None,
        }
    }

    /// What does not work, by an error.
    pub fn of_error(name: impl Into<String>, error: ApiError) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Fail,
            message: error.message.clone(),
            hint: None,
            error: Some(Box::new(error)),
        }
    }

    /// What does not work, and what to do about it.
    pub fn fail(name: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Fail,
            message: message.into(),
            hint: Some(hint.into()),
            error: None,
        }
    }
}
