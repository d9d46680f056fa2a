//! Fail points: where a test build of the daemon can be killed, as if by `kill -9`. Other builds have none.
//!
//! Every store write (`Step`) has a fail point before it and one after it. A row is written before its resource is
//! taken, and deleted after the resource is released. So these points cover all the states that the next daemon can
//! distinguish.

use std::{
    collections::HashMap,
    env, fmt,
    fs::OpenOptions,
    io::Write,
    path::Path,
    sync::{Mutex, PoisonError},
};

use rustix::process::{Signal, getpid, kill_process};

/// Environment variable with the point to be killed at: `journal/process:after`, or `…:after#2` for the second time.
const KILL_VAR: &str = "BANGER_FAIL_POINT";

/// Environment variable with the path of the file to which every reached point appends a line.
const RECORD_VAR: &str = "BANGER_FAIL_POINT_RECORD";

/// The side of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Before,
    After,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

/// Returns the name of the point on this side of a step.
pub(crate) fn point(step: &str, side: Side) -> String {
    format!("{step}:{side}")
}

/// Kills the daemon if `BANGER_FAIL_POINT` names this stage of an operation, such as `stage/write the file system`.
/// Stages are not among the steps' points: between two store writes, the next daemon can distinguish nothing except
/// fetched files.
pub(crate) fn reach_stage(stage: &str) {
    if env::var(KILL_VAR).is_ok_and(|requested| requested.strip_prefix("stage/") == Some(stage)) {
        tracing::warn!(stage, "killed at a stage");
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

/// Records a reached point, and kills the daemon if it is the one to be killed at.
pub(crate) fn reach(step: &str, side: Side) {
    static REACHED: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);
    let point = point(step, side);
    // Held to the end, so that no other thread continues while this one is killed.
    let mut reached = REACHED.lock().unwrap_or_else(PoisonError::into_inner);
    let times = reached.get_or_insert_default().entry(point.clone()).or_default();
    *times += 1;
    let nth = format!("{point}#{times}");
    if let Some(path) = env::var_os(RECORD_VAR) {
        let file = OpenOptions::new().append(true).create(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(format!("{nth}\n").as_bytes())) {
            tracing::error!(%error, nth, "cannot record a fail point");
        }
    }
    if env::var(KILL_VAR).is_ok_and(|requested| requested == nth || (*times == 1 && requested == point)) {
        tracing::warn!(nth, "killed at a fail point");
        // SIGKILL does not return.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

/// Returns whether `program` is a fake VMM of a test, whose guest is the host: such a file is beside it.
pub(crate) fn is_fake(program: &Path) -> bool {
    program.with_file_name("fake-vmms").exists() && program.file_name() != Some("bangerd".as_ref())
}
