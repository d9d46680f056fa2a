//! The process `bangerd doctor`: checks the host, and prints the checks as a line of JSON.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use banger_api::{ApiError, Check, config::Layer};

use crate::startup::{find_dirs, io_error, own_program, programs};

pub(crate) fn run() -> ExitCode {
    let checks = run_checks().unwrap_or_else(|error| vec![Check::fail("bangerd", error)]);
    let line = serde_json::to_string(&checks).unwrap_or_default();
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run_checks() -> Result<Vec<Check>, ApiError> {
    let dirs = find_dirs()?;
    let (bangerd, _) = own_program()?;
    // The variables that apply to a command here; `banger` itself reports malformed ones.
    let environment = Layer::from_env(|name| std::env::var_os(name)).unwrap_or_default();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io_error("start"))?;
    Ok(runtime.block_on(banger_engine::doctor(&dirs, &programs(bangerd), environment)))
}
