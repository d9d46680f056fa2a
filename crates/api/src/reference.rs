//! References, by which users name one VM, image or kernel.

use crate::{Id, Reference};

/// Something that a reference can name.
pub trait Named {
    /// Its id.
    fn id(&self) -> &Id;
    /// Its name.
    fn name(&self) -> &str;
}

/// Error for a reference that does not name exactly one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefError {
    /// Nothing has that id, name or prefix.
    NotFound,
    /// Several things have this prefix; these are their names.
    Ambiguous(Vec<String>),
}

/// Finds the thing that `reference` names: by exact id, else exact name, else a unique prefix of either.
///
/// # Errors
/// Returns an error if nothing or more than one thing matches.
pub fn resolve<'a, T: Named>(things: &'a [T], reference: &str) -> Result<&'a T, RefError> {
    let exact = |fits: &dyn Fn(&T) -> bool| things.iter().find(|thing| fits(thing));
    if let Some(thing) = exact(&|thing| thing.id().as_str() == reference) {
        return Ok(thing);
    }
    if let Some(thing) = exact(&|thing| thing.name() == reference) {
        return Ok(thing);
    }
    if reference.is_empty() {
        return Err(RefError::NotFound);
    }
    let begins =
        |thing: &&T| thing.id().as_str().starts_with(reference) || thing.name().starts_with(reference);
    let found: Vec<&T> = things.iter().filter(begins).collect();
    match found.as_slice() {
        [] => Err(RefError::NotFound),
        [thing] => Ok(thing),
        several => Err(RefError::Ambiguous(several.iter().map(|thing| thing.name().to_owned()).collect())),
    }
}

/// Finds the image that `reference` names, as [`resolve`] does. A reference with a registry, tag or digest must be
/// complete, except for the defaults that [`Reference::name`] leaves out.
///
/// # Errors
/// Returns an error if nothing or more than one image matches.
pub fn resolve_image<'a, T: Named>(images: &'a [T], reference: &str) -> Result<&'a T, RefError> {
    if let Some(image) = exact_image(images, reference) {
        return Ok(image);
    }
    if reference.contains(['/', ':', '@']) {
        return Err(RefError::NotFound);
    }
    resolve(images, reference)
}

/// Returns the image whose id or whole name is `reference`.
pub fn exact_image<'a, T: Named>(images: &'a [T], reference: &str) -> Option<&'a T> {
    let named = |name: &str| images.iter().find(|image| image.name() == name);
    let by_id = images.iter().find(|image| image.id().as_str() == reference);
    by_id.or_else(|| named(reference)).or_else(|| {
        let whole: Reference = reference.parse().ok()?;
        named(whole.name().as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq)]
    struct Thing(Id, String);

    impl Named for Thing {
        fn id(&self) -> &Id {
            &self.0
        }
        fn name(&self) -> &str {
            &self.1
        }
    }

    fn thing(id: u64, name: &str) -> Thing {
        Thing(Id::from_random(id.to_be_bytes()), name.into())
    }

    #[test]
    fn exact_beats_prefix_and_id_beats_name() {
        let things = [thing(0xab, "box"), thing(0xcd, "boxer"), thing(0xef, "00000000000000ab")];
        assert_eq!(resolve(&things, "box"), Ok(&things[0]));
        assert_eq!(resolve(&things, "boxe"), Ok(&things[1]));
        assert_eq!(resolve(&things, "00000000000000ab"), Ok(&things[0]));
        assert_eq!(resolve(&things, "bo"), Err(RefError::Ambiguous(vec!["box".into(), "boxer".into()])));
        assert_eq!(resolve(&things, ""), Err(RefError::NotFound));
        assert_eq!(resolve(&things, "x"), Err(RefError::NotFound));
    }

    #[test]
    fn an_image_with_a_tag_is_named_whole() {
        let images = [
            thing(1, "alpine:latest"),
            thing(2, "alpine:3.20"),
            thing(3, "golden"),
            thing(4, "ghcr.io/a/b:1"),
        ];
        let found = |reference| resolve_image(&images, reference).map(|image| image.1.as_str());
        assert_eq!(found("alpine"), Ok("alpine:latest"));
        assert_eq!(found("docker.io/library/alpine:3.20"), Ok("alpine:3.20"));
        assert_eq!(found("alpine:3"), Err(RefError::NotFound));
        assert_eq!(found("gold"), Ok("golden"));
        assert_eq!(found("golden:latest"), Err(RefError::NotFound));
        assert_eq!(found("ghcr.io/a/b"), Err(RefError::NotFound));
        assert!(matches!(found("alp"), Err(RefError::Ambiguous(_))));
        assert_eq!(found("0000000000000003"), Ok("golden"));
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_was_meant(names in prop::collection::hash_set("[ab]{1,4}", 0..6), reference in "[ab]{0,4}") {
            let things: Vec<_> = names.iter().enumerate().map(|(i, name)| thing(i as u64, name)).collect();
            let exact = things.iter().find(|t| t.1 == reference);
            match resolve(&things, &reference) {
                Ok(found) => prop_assert!(exact.map_or(found.1.starts_with(&reference), |t| t == found)),
                Err(RefError::NotFound) => prop_assert!(reference.is_empty() || !things.iter().any(|t| t.1.starts_with(&reference))),
                Err(RefError::Ambiguous(several)) => prop_assert!(exact.is_none() && several.len() > 1),
            }
        }
    }
}
