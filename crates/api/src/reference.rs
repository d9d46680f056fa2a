//! References, by which users name one VM, image or kernel.

use crate::{Id, Reference};

/// Something that a reference can name.
pub trait Named {
    /// Its id.
    fn id(&self) -> &Id;
    /// Its name.
    fn name(&self) -> &str;
}

/// Error for a reference that does not name exactly one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefError {
    /// Nothing has that id, name or prefix.
    NotFound,
    /// Several items have this prefix; these are their names.
    Ambiguous(Vec<String>),
}

/// Finds the thing that `reference` names: by exact id, else exact name, else a unique prefix of either.
///
/// # Errors
/// Returns an error if nothing or more than one thing matches.
pub fn resolve<'a, T: Named>(items: &'a [T], reference: &str) -> Result<&'a T, RefError> {
    let exact = |matches: &dyn Fn(&T) -> bool| items.iter().find(|item| matches(item));
    if let Some(item) = exact(&|item| item.id().as_str() == reference) {
        return Ok(item);
    }
    if let Some(item) = exact(&|item| item.name() == reference) {
        return Ok(item);
    }
    if reference.is_empty() {
        return Err(RefError::NotFound);
    }
    let has_prefix =
        |item: &&T| item.id().as_str().starts_with(reference) || item.name().starts_with(reference);
    let candidates: Vec<&T> = items.iter().filter(has_prefix).collect();
    match candidates.as_slice() {
        [] => Err(RefError::NotFound),
        [item] => Ok(item),
        several => Err(RefError::Ambiguous(several.iter().map(|item| item.name().to_owned()).collect())),
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
    struct Item(Id, String);

    impl Named for Item {
        fn id(&self) -> &Id {
            &self.0
        }
        fn name(&self) -> &str {
            &self.1
        }
    }

    fn item(id: u64, name: &str) -> Item {
        Item(Id::from_random(id.to_be_bytes()), name.into())
    }

    #[test]
    fn resolve_prefers_ids_to_names_and_names_to_prefixes() {
        let items = [item(0xab, "box"), item(0xcd, "boxer"), item(0xef, "00000000000000ab")];
        assert_eq!(resolve(&items, "box"), Ok(&items[0]));
        assert_eq!(resolve(&items, "boxe"), Ok(&items[1]));
        assert_eq!(resolve(&items, "00000000000000ab"), Ok(&items[0]));
        assert_eq!(resolve(&items, "bo"), Err(RefError::Ambiguous(vec!["box".into(), "boxer".into()])));
        assert_eq!(resolve(&items, ""), Err(RefError::NotFound));
        assert_eq!(resolve(&items, "x"), Err(RefError::NotFound));
    }

    #[test]
    fn image_references_with_a_tag_must_be_complete() {
        let images =
            [item(1, "alpine:latest"), item(2, "alpine:3.20"), item(3, "golden"), item(4, "ghcr.io/a/b:1")];
        let resolved = |reference| resolve_image(&images, reference).map(|image| image.1.as_str());
        assert_eq!(resolved("alpine"), Ok("alpine:latest"));
        assert_eq!(resolved("docker.io/library/alpine:3.20"), Ok("alpine:3.20"));
        assert_eq!(resolved("alpine:3"), Err(RefError::NotFound));
        assert_eq!(resolved("gold"), Ok("golden"));
        assert_eq!(resolved("golden:latest"), Err(RefError::NotFound));
        assert_eq!(resolved("ghcr.io/a/b"), Err(RefError::NotFound));
        assert!(matches!(resolved("alp"), Err(RefError::Ambiguous(_))));
        assert_eq!(resolved("0000000000000003"), Ok("golden"));
    }

    proptest! {
        #[test]
        fn resolve_finds_an_exact_match_or_a_unique_prefix(names in prop::collection::hash_set("[ab]{1,4}", 0..6), reference in "[ab]{0,4}") {
            let items: Vec<_> = names.iter().enumerate().map(|(i, name)| item(i as u64, name)).collect();
            let exact = items.iter().find(|t| t.1 == reference);
            match resolve(&items, &reference) {
                Ok(found) => prop_assert!(exact.map_or(found.1.starts_with(&reference), |t| t == found)),
                Err(RefError::NotFound) => prop_assert!(reference.is_empty() || !items.iter().any(|t| t.1.starts_with(&reference))),
                Err(RefError::Ambiguous(several)) => prop_assert!(exact.is_none() && several.len() > 1),
            }
        }
    }
}
