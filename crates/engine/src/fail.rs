//! Fail points: where a test build of the daemon can be killed, as if by `kill -9`. Other builds have none of this.
//!
//! There is one before and one after every write of the store (`Step`). As a row is written before what it speaks of
//! is taken, and goes after that has been given back, these are all the moments that a killed daemon's successor can
//! tell apart.

use std::{
    collections::HashMap,
    env, fmt,
    fs::OpenOptions,
    io::Write,
    sync::{Mutex, PoisonError},
};

use rustix::process::{Signal, getpid, kill_process};

/// Names the point at which to be killed: `journal/process:after`, or `journal/process:after#2` for the second time.
const KILL: &str = "BANGER_FAIL_POINT";

/// Names the file to which every point that is reached adds its line.
const RECORD: &str = "BANGER_FAIL_POINT_RECORD";

/// On which side of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Moment {
    Before,
    After,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

/// The name of the point on this side of a step.
pub(crate) fn point(step: &str, moment: Moment) -> String {
    format!("{step}:{moment}")
}

/// The daemon has come to a stage of an operation, as its client is told of it. Returns, unless it is the one to be killed
/// at: `stage/write the file system`. These are not among the steps' points: what is between two writes of the store has nothing that
/// a successor could tell apart, but for what was fetched.
pub(crate) fn reach_stage(stage: &str) {
    if env::var(KILL).is_ok_and(|wanted| wanted.strip_prefix("stage/") == Some(stage)) {
        tracing::warn!(stage, "killed at a stage");
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

/// The daemon has come to a point. Returns, unless it is the one to be killed at.
pub(crate) fn reach(step: &str, moment: Moment) {
    static REACHED: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);
    let point = point(step, moment);
    // Held to the end, so that no other thread goes on while this one is killed.
    let mut reached = REACHED.lock().unwrap_or_else(PoisonError::into_inner);
    let times = reached.get_or_insert_default().entry(point.clone()).or_default();
    *times += 1;
    let nth = format!("{point}#{times}");
    if let Some(path) = env::var_os(RECORD) {
        let file = OpenOptions::new().append(true).create(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(format!("{nth}\n").as_bytes())) {
            tracing::error!(%error, nth, "not recorded");
        }
    }
    if env::var(KILL).is_ok_and(|wanted| wanted == nth || (*times == 1 && wanted == point)) {
        tracing::warn!(nth, "killed at a fail point");
        // There is no coming back from this one.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}
