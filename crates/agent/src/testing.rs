//! Runs tests in processes of their own, because they change their process or wait for all of its children; and a
//! machine for them.

use std::{
    collections::BTreeMap,
    env,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use banger_proto::{Configure, Exec, FailureKind};

use crate::{failure::Failure, machine::Machine};

/// Environment variable with the name of the test that this process runs.
const OWN: &str = "BANGER_TEST_IN_OWN_PROCESS";

/// Runs the calling test's `body` in a process of its own, whose failure is the test's.
pub(crate) fn in_own_process(body: impl FnOnce()) {
    let test = thread::current().name().unwrap().to_owned();
    if env::var(OWN).is_ok_and(|own| own == test) {
        return body();
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &test, "--nocapture", "--test-threads", "1"]).env(OWN, &test);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A machine that does nothing.
#[derive(Debug)]
pub(crate) struct IdleMachine;

impl Machine for IdleMachine {
    async fn configure(&self, _: &Configure) -> Result<(), Failure> {
        Ok(())
    }

    fn command(&self, _: &Exec, _: &BTreeMap<String, String>) -> Result<Command, Failure> {
        Err(Failure::new(FailureKind::Unsupported, "this machine runs nothing"))
    }

    fn sync(&self) {}

    async fn power_off(&self, _: Option<Duration>) {}
}
