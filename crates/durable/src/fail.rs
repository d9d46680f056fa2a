//! Fail points: where a test build can be killed, as if by `kill -9`. Other builds have none.
//!
//! Every named step has a fail point before it and one after it. What a step announces is written before it is done,
//! and removed after it is undone. So these points cover all the states that the next process can distinguish.

use std::{
    collections::HashMap,
    env,
    fs::OpenOptions,
    io::Write,
    sync::{Mutex, PoisonError},
};

use rustix::process::{Signal, getpid, kill_process};

/// Environment variable with the point to be killed at: `journal/process:after`, or `…:after#2` for the second time.
const KILL_VAR: &str = "BANGER_FAIL_POINT";

/// Environment variable with the path of the file to which every reached point appends a line.
const RECORD_VAR: &str = "BANGER_FAIL_POINT_RECORD";

/// Kills this process if `BANGER_FAIL_POINT` names this stage of an operation, such as `stage/write the file system`.
pub(crate) fn reach_stage(stage: &str) {
    if env::var(KILL_VAR).is_ok_and(|requested| requested.strip_prefix("stage/") == Some(stage)) {
        kill();
    }
}

/// Records a reached point, and kills this process if it is the one to be killed at.
pub(crate) fn reach(point: &str) {
    static REACHED: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);
    // Held to the end, so that no other thread continues while this one is killed.
    let mut reached = REACHED.lock().unwrap_or_else(PoisonError::into_inner);
    let times = reached.get_or_insert_default().entry(point.to_owned()).or_default();
    *times += 1;
    let nth = format!("{point}#{times}");
    if let Some(path) = env::var_os(RECORD_VAR) {
        let file = OpenOptions::new().append(true).create(true).open(path);
        // A test notices that a point is missing in the file.
        let _ = file.and_then(|mut file| file.write_all(format!("{nth}\n").as_bytes()));
    }
    if env::var(KILL_VAR).is_ok_and(|requested| requested == nth || (*times == 1 && requested == point)) {
        kill();
    }
}

fn kill() {
    // SIGKILL does not return.
    let _ = kill_process(getpid(), Signal::KILL);
}
