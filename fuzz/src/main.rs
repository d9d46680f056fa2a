//! The program that libFuzzer drives; `BANGER_FUZZ_TARGET` names the target.
#![no_main]
#![allow(clippy::expect_used, unsafe_code)] // a wrong name ends the program; the macro exports a symbol

use std::{env, process, sync::LazyLock};

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<banger_fuzz::Target> = LazyLock::new(|| {
    let name = env::var("BANGER_FUZZ_TARGET").expect("BANGER_FUZZ_TARGET is set");
    banger_fuzz::target(&name).expect("BANGER_FUZZ_TARGET is the name of a target")
});

fuzz_target!(
    init: {
        if let Some(output) = banger_fuzz::run_in_sandbox(|command| command.args(env::args_os().skip(1)).status()) {
            process::exit(output.expect("this program runs again").code().unwrap_or(1));
        }
    },
    |data: &[u8]| TARGET(data)
);
