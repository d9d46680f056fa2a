//! Entry point of the program; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_agent::main()
}
