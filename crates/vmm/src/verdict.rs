//! Verdict of the KVM probe.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Verdict on KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvmVerdict {
    /// A guest ran at full speed.
    Usable,
    /// `/dev/kvm` is missing, not accessible to this user, or cannot create a VM.
    Unavailable,
    /// A guest was too slow, died, or did not end.
    Broken,
    /// The probe did not get far enough to decide.
    Unknown,
}

/// Result of the KVM probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmProbe {
    /// The verdict.
    pub verdict: KvmVerdict,
    /// The reason, and what to do about it.
    pub reason: String,
}

impl fmt::Display for KvmProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            KvmVerdict::Usable => "usable",
            KvmVerdict::Unavailable | KvmVerdict::Broken => "not usable",
            KvmVerdict::Unknown => "unknown",
        };
        write!(f, "{verdict}: {}", self.reason)
    }
}

impl KvmProbe {
    /// Creates a result from a verdict and its reason.
    pub fn new(verdict: KvmVerdict, reason: impl Into<String>) -> Self {
        Self { verdict, reason: reason.into() }
    }

    /// Returns whether guests run at full speed.
    pub fn is_usable(&self) -> bool {
        self.verdict == KvmVerdict::Usable
    }
}
