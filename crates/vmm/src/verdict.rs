//! The verdict on KVM.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the probe can say about KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvmVerdict {
    /// A guest ran at full speed.
    Usable,
    /// `/dev/kvm` is missing, closed to this user, or creates no VM.
    Unavailable,
    /// A guest was too slow, died, or did not end.
    Broken,
    /// The probe did not get far enough to tell.
    Unknown,
}

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmProbe {
    /// Whether guests run.
    pub verdict: KvmVerdict,
    /// Why, and what to do about it.
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
    /// A verdict with its reason.
    pub fn new(verdict: KvmVerdict, reason: impl Into<String>) -> Self {
        Self { verdict, reason: reason.into() }
    }

    /// Whether guests run at full speed.
    pub fn is_usable(&self) -> bool {
        self.verdict == KvmVerdict::Usable
    }
}
