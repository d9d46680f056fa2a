//! Parses a catalog: an error has a line of the text, and each entry is found by name and has a source.

use banger_image::{Catalog, KernelSource};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Catalog::parse(text) {
        Ok(catalog) => {
            for image in &catalog.images {
                assert_eq!(catalog.image(image.name.as_str()), Some(image));
                assert!(!image.sources.is_empty());
                assert!(!format!("{}{}", image.description, image.distro).contains(char::is_control));
            }
            for kernel in &catalog.kernels {
                assert_eq!(catalog.kernel(kernel.name.as_str()), Some(kernel));
                match &kernel.source {
                    KernelSource::Files(files) => assert!(!files.is_empty()),
                    KernelSource::Apt { suite, package } => {
                        assert!(!suite.starts_with('-') && !package.starts_with('-'));
                    }
                }
            }
            let built_in = banger_image::catalog();
            let merged = catalog.clone().with_fallback(built_in);
            assert!(
                merged.images.starts_with(&catalog.images) && merged.kernels.starts_with(&catalog.kernels)
            );
            assert!(built_in.images.iter().all(|image| merged.image(image.name.as_str()).is_some()));
        }
        Err(error) => assert!((1..=text.matches('\n').count() + 1).contains(&error.line)),
    }
}
