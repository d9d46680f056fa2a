//! Suggestions for misspelled names.

/// Maximum number of letters that a typing error gets wrong.
const MAX_DISTANCE: usize = 3;

/// Returns the entry of `known` that is closest to `word` or begins with it, if one is close enough.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any name: not a typing error, and slow to compare.
    if word.len() > 64 {
        return None;
    }
    let distance_to =
        |name: &str| if word.len() > 2 && name.starts_with(word) { 1 } else { distance(word, name) };
    let (nearest, name) =
        known.map(|name| (distance_to(name), name)).min_by_key(|(distance, _)| *distance)?;
    (nearest <= MAX_DISTANCE.min(name.len() / 2)).then_some(name)
}

/// Returns the number of letters to insert, remove or replace to turn `from` into `to` (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut next = vec![index + 1];
        for ((other, above), diagonal) in to.iter().zip(row.iter().skip(1)).zip(&row) {
            let left = next.last().copied().unwrap_or_default();
            next.push((left + 1).min(above + 1).min(diagonal + usize::from(letter != *other)));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_names_get_a_suggestion_and_other_words_do_not() {
        let known = ["memory", "vcpu", "disk_size", "nat"];
        for (word, expected) in [
            ("memroy", Some("memory")),
            ("mem", Some("memory")),
            ("disksize", Some("disk_size")),
            ("disk", Some("disk_size")),
            ("vcpus", Some("vcpu")),
            ("nta", None),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), expected, "{word}");
        }
        assert_eq!(nearest(&"a".repeat(1 << 20), known.into_iter()), None);
    }

    #[test]
    fn distance_counts_the_edits_between_two_words() {
        for (from, to, edits) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("flaw", "lawn", 2)] {
            assert_eq!(distance(from, to), edits, "{from} {to}");
        }
    }
}
