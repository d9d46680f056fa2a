//! Protects the agent from the kernel's OOM killer: without it, the host could not even stop a guest in order.

use std::{fs, io};

use crate::console::log;

/// This process's preference as a victim (proc(5)).
const FILE: &str = "/proc/self/oom_score_adj";

/// The value with which a process is never chosen.
const PROTECTED: &str = "-1000";

/// The value of an ordinary process.
const NORMAL: &str = "0";

/// Protects this process, and those that it starts otherwise than through [`Unprotected`].
pub(crate) fn protect() {
    if let Err(error) = fs::write(FILE, PROTECTED) {
        log(&format!("cannot protect the agent from the OOM killer: {error}"));
    }
}

/// While it exists, this process is not protected, and processes that it starts are not either: a program that uses
/// up the memory must be chosen. They cannot be changed after their start, because they have other users.
#[derive(Debug)]
pub(crate) struct Unprotected {
    before: Option<&'static str>,
}

impl Unprotected {
    pub(crate) fn new() -> Self {
        Self::from(PROTECTED)
    }

    /// Lifts the protection if it is `protected`.
    fn from(protected: &'static str) -> Self {
        let is_protected = fs::read_to_string(FILE).is_ok_and(|value| value.trim() == protected);
        let lifted = is_protected && set(NORMAL).is_ok();
        Self { before: lifted.then_some(protected) }
    }
}

impl Drop for Unprotected {
    fn drop(&mut self) {
        if let Some(before) = self.before
            && let Err(error) = set(before)
        {
            log(&format!("cannot protect the agent from the OOM killer again: {error}"));
        }
    }
}

fn set(value: &str) -> io::Result<()> {
    fs::write(FILE, value)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::testing::in_own_process;

    #[test]
    fn programs_are_not_protected_as_the_agent_is() {
        in_own_process(|| {
            // Only root may protect a process; any value is inherited in the same way.
            let protected = "300";
            set(protected).unwrap();
            let score = || {
                let output = Command::new("cat").arg(FILE).output().unwrap().stdout;
                String::from_utf8(output).unwrap().trim().to_owned()
            };
            assert_eq!(score(), protected);
            let unprotected = Unprotected::from(protected);
            assert_eq!(score(), NORMAL);
            drop(unprotected);
            assert_eq!(score(), protected);
        });
    }
}
