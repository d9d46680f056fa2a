//! Builds a boot initrd by hand: `build-initrd KERNEL_DIR AGENT OUT`.
#![allow(clippy::print_stdout)]

use std::path::Path;

use banger_image::{ImageError, build_initrd};

fn main() -> Result<(), ImageError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, agent, out] = args.as_slice() else {
        println!("usage: build-initrd KERNEL_DIR AGENT OUT");
        return Ok(());
    };
    let started = std::time::Instant::now();
    let info = build_initrd(Path::new(kernel), Path::new(agent), Path::new(out))?;
    println!("{info:?} in {:?}", started.elapsed());
    Ok(())
}
