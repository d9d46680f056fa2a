//! All scenarios in one program. `cargo test -p banger-smoke -- --help` shows how to select some.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // the scenarios are tests

mod api;
mod catalogs;
mod confinement;
mod doctor;
mod golden;
mod guest;
mod images;
mod kernels;
mod killed;
mod lifecycle;
mod manual;
mod network;
mod ports;
mod project;
mod registry;
mod sessions;
mod soak;
mod ssh;
mod ssh_clients;
mod trouble;
mod watching;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_smoke::main()
}
