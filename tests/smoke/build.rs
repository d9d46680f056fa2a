//! Compiles the programs of hostile guests, so that the scenarios can run on hosts without a compiler.

use std::{env, error::Error, path::Path, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    let source = "fixtures/hostile-init.c";
    println!("cargo::rerun-if-changed={source}");
    let program = Path::new(&env::var("OUT_DIR")?).join("hostile-init");
    let compiled =
        Command::new("cc").args(["-static", "-O1", "-Wall", "-o"]).arg(&program).arg(source).status()?;
    if compiled.success() {
        Ok(())
    } else {
        Err("cc refused a fixture (Debian: apt install gcc libc6-dev)".into())
    }
}
