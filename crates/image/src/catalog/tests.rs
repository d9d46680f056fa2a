//! Tests of the built-in catalog, invalid catalogs, and merging.

use proptest::prelude::*;

use super::*;

const IMAGE: &str = "[[image]]\nname = 'x'\ndescription = 'X'\ndistro = 'x'\nsize = '1G'\n";

fn kernel_of(source: &str) -> String {
    format!("[[kernel]]\nname = 'x'\ndescription = 'X'\nspace_mib = 1\nsource = {{ {source} }}\n")
}

fn with_source(source: &str) -> String {
    format!("{IMAGE}source = [{{ {source} }}]\n")
}

#[test]
fn the_embedded_catalog_is_valid() {
    let catalog = Catalog::parse(EMBEDDED).unwrap();
    for image in &catalog.images {
        assert!(
            image.kernel.iter().all(|kernel| catalog.kernel(kernel.as_str()).is_some()),
            "{}",
            image.name
        );
        for source in &image.sources {
            // Otherwise the name would denote another image here than in a registry.
            if let Source::Oci(reference) = source {
                assert_eq!(image.name.reference().unwrap().to_string(), reference.to_string());
            }
        }
    }
    for kernel in &catalog.kernels {
        assert!(kernel.space_mib > 0, "{}", kernel.name);
        if let KernelSource::Files(files) = &kernel.source {
            assert!(files.iter().all(|file| file.url.starts_with("https://")));
        }
    }
    let image = super::catalog().image("debian-bookworm").unwrap();
    assert_eq!(image.kernel.as_ref().map(|kernel| kernel.as_str()), Some("debian-cloud"));
    assert!(matches!(&image.sources[..], [Source::Mmdebstrap(recipe)] if recipe.packages.len() == 9));
    assert!(super::catalog().kernel("none").is_none());
}

#[test]
fn sources_are_read_in_order() {
    let hash = "0".repeat(64);
    let text = format!(
        "{IMAGE}\n[[image.source]]\nbundle = '/b.tar.zst'\nsha256 = '{hash}'\n\n[[image.source]]\noci = 'ghcr.io/a/b:1'\n"
    );
    let catalog = Catalog::parse(&text).unwrap();
    let kinds: Vec<_> = catalog.images[0].sources.iter().map(Source::kind).collect();
    assert_eq!(kinds, ["bundle", "oci"]);
}

#[test]
fn parse_errors_report_the_line() {
    let file_at =
        |url: &str| kernel_of(&format!("files = [{{ url = '{url}', sha256 = '{}' }}]", "0".repeat(64)));
    let twice = format!("{0}{0}", with_source("oci = 'a'"));
    for (text, line, problem) in [
        ("a = ", 1, ""),
        ("\n\n[images]\n", 3, "unknown field `images`"),
        ("\n[[image]]\nname = 'A b'\n", 3, "cannot be in an image's name"),
        (IMAGE, 1, "missing field `source`"),
        (&with_source("oci = 'a', bundle = '/b'"), 6, "exactly one of oci"),
        (&with_source("bundle = 'b.tar.zst'"), 6, "an absolute path"),
        (&with_source("bundle = '/b'"), 6, "needs its sha256"),
        (&with_source("bundle = '/b', sha256 = '12'"), 6, "64 digits of 0-9 and a-f"),
        (&with_source("oci = 'a', tag = 'b'"), 6, "unknown field `tag`"),
        (
            &with_source("mmdebstrap = { suite = 'a b', variant = 'minbase' }"),
            6,
            "\"a b\" is not a Debian release name",
        ),
        (&with_source("mmdebstrap = { suite = 'a', variant = '--hook' }"), 6, "variant \"--hook\""),
        (
            &with_source("mmdebstrap = { suite = 'a', variant = 'apt', packages = ['a,b'] }"),
            6,
            "\"a,b\" is not a package name",
        ),
        (&format!("{IMAGE}source = []\n"), 6, "1 to 8 sources"),
        (&format!("{}arch = 'vax'\n", with_source("oci = 'a'")), 7, "unknown variant `vax`"),
        (
            &kernel_of("apt = { suite = 'a', package = '-oDir=x' }"),
            5,
            "\"-oDir=x\" is not a name of a Debian",
        ),
        (&kernel_of("files = []"), 5, "1 to 16 files"),
        (&file_at("file:///x"), 5, "is not an https or http URL"),
        (&file_at("https://a b/"), 5, "is not an https or http URL"),
        (&twice, 7, "duplicate image x"),
    ] {
        let error = Catalog::parse(text).unwrap_err();
        assert!(error.line == line && error.problem.contains(problem), "{text}: {error}");
    }
}

#[test]
fn a_catalogs_entries_override_those_of_its_fallback() {
    let primary = Catalog::parse(&with_source("oci = 'a:1'")).unwrap();
    let fallback = with_source("oci = 'a:2'") + &with_source("oci = 'a:3'").replace("'x'", "'y'");
    let merged = primary.clone().with_fallback(&Catalog::parse(&fallback).unwrap());
    assert_eq!(merged.images.len(), 2);
    assert_eq!(merged.image("x"), primary.image("x"));
    assert!(merged.image("y").is_some());
}

proptest! {
    #[test]
    fn parsing_any_text_returns_a_catalog_or_an_error_with_a_line(
        text in "(\\[\\[image\\]\\]|name|source|=|'[a-z:]*'|\\[|\\]|\\{|\\}|\n| ){0,40}",
    ) {
        if let Err(error) = Catalog::parse(&text) {
            prop_assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 1);
        }
    }
}
