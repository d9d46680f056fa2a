//! Imports a kernel by hand: `import-kernel DEST DEB|VMLINUZ|host [MODULES]`.
#![allow(clippy::print_stdout)]

use std::path::Path;

use banger_image::{ImageError, Silent, import_kernel_deb, import_kernel_files, import_kernel_host};

fn main() -> Result<(), ImageError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let started = std::time::Instant::now();
    let info = match args.as_slice() {
        [dest, from] if from == "host" => import_kernel_host(Path::new(dest), &Silent)?,
        [dest, from] if from.ends_with(".deb") => {
            import_kernel_deb(Path::new(from), Path::new(dest), &Silent)?
        }
        [dest, from, rest @ ..] => {
            import_kernel_files(Path::new(from), rest.first().map(Path::new), Path::new(dest), &Silent)?
        }
        _ => {
            println!("usage: import-kernel DEST DEB|VMLINUZ|host [MODULES]");
            return Ok(());
        }
    };
    println!("{info:?} in {:?}", started.elapsed());
    Ok(())
}
