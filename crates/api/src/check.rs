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
    /// Why it did not pass; its message is the check's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<ApiError>>,
}

impl Check {
    /// A check that passed.
    pub fn pass(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Pass, message: message.into(), error: None }
    }

    /// A check that found something to work, but not as well as it could.
    pub fn warn(name: impl Into<String>, error: ApiError) -> Self {
        Self::of_error(name, Verdict::Warn, error)
    }

    /// A check that found something not to work.
    pub fn fail(name: impl Into<String>, error: ApiError) -> Self {
        Self::of_error(name, Verdict::Fail, error)
    }

    fn of_error(name: impl Into<String>, verdict: Verdict, error: ApiError) -> Self {
        Self { name: name.into(), verdict, message: error.message.clone(), error: Some(Box::new(error)) }
    }
}
