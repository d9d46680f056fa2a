//! Ranges of versions, and the version to request for a range. Notations: npm, Python, Poetry, Ruby and Cargo.

use std::{cmp::Ordering, fmt};

/// A version's numbers, most significant first.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Numbers(Vec<u32>);

/// Versions from an inclusive lower bound to an exclusive upper bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Span {
    lower: Option<Numbers>,
    upper: Option<Numbers>,
    excluded: Vec<Numbers>,
}

/// A set of versions: the union of its spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range(Vec<Span>);

/// The version to request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// The newest version.
    Latest,
    /// The newest version that begins with this.
    Newest(String),
}

/// Maximum number of comparisons in one range.
const MAX_COMPARISONS: usize = 32;

impl Range {
    /// Parses a range. Returns `None` if the notation is not supported.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let spans: Option<Vec<_>> =
            text.split('|').filter(|part| !part.is_empty()).map(Span::parse).collect();
        spans.map(|spans| if spans.is_empty() { vec![Span::default()] } else { spans }).map(Self)
    }

    /// Returns a version in the range that can be requested.
    ///
    /// It is from the newest span: a whole release if all of it is in the span, otherwise the lowest version.
    pub(super) fn choice(&self) -> Option<Choice> {
        let choices = self.0.iter().filter_map(|span| Some((&span.lower, span.choice()?)));
        choices.max_by(|(a, _), (b, _)| compare_lower(a.as_ref(), b.as_ref())).map(|(_, choice)| choice)
    }

    /// Returns whether a request for `version` installs a version in the range.
    pub(super) fn allows(&self, version: &str) -> bool {
        if version == "latest" {
            return self.0.iter().any(|span| span.upper.is_none());
        }
        let Some(numbers) = Numbers::plain(version) else { return false };
        self.0.iter().any(|span| span.allows(&numbers))
    }
}

fn compare_lower(a: Option<&Numbers>, b: Option<&Numbers>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.order(b),
        _ => a.is_some().cmp(&b.is_some()),
    }
}

impl Span {
    fn parse(text: &str) -> Option<Self> {
        let mut span = Self::default();
        let mut rest = text;
        for _ in 0..MAX_COMPARISONS {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if rest.is_empty() {
                return Some(span);
            }
            let (operator, after) = split_while(rest, |c| "<>=!^~".contains(c));
            let (version, after) = split_while(after.trim_start(), is_version_char);
            rest = after;
            if (operator, version) == ("", "-") {
                // `18 - 20`: the version before is the lower bound.
                let (last, after) = split_while(rest.trim_start(), is_version_char);
                rest = after;
                span.lower.as_ref()?;
                span.upper = Some(Numbers::of(last)?.next()?);
                continue;
            }
            span.narrow(operator, version)?;
        }
        None
    }

    /// Restricts the span to versions that also satisfy one comparison.
    fn narrow(&mut self, operator: &str, version: &str) -> Option<()> {
        let numbers = Numbers::of(version)?;
        if numbers.0.is_empty() {
            // `*`: any version. The other operators have no meaning with it.
            return matches!(operator, "" | "=" | "==" | ">=" | "^" | "~").then_some(());
        }
        let (lower, upper) = match operator {
            "" | "=" | "==" | "===" => (Some(numbers.clone()), Some(numbers.next()?)),
            "^" => (Some(numbers.clone()), Some(numbers.caret()?)),
            "~" => (Some(numbers.clone()), Some(numbers.first(numbers.0.len().min(2)).next()?)),
            "~=" | "~>" if numbers.0.len() > 1 => {
                (Some(numbers.clone()), Some(numbers.first(numbers.0.len() - 1).next()?))
            }
            "~>" => (Some(numbers.clone()), Some(numbers.next()?)),
            ">=" => (Some(numbers), None),
            ">" => (Some(numbers.next()?), None),
            "<" => (None, Some(numbers)),
            "<=" => (None, Some(numbers.next()?)),
            "!=" => {
                self.excluded.push(numbers);
                return Some(());
            }
            _ => return None,
        };
        self.lower = stricter(self.lower.take(), lower, Ordering::Less);
        self.upper = stricter(self.upper.take(), upper, Ordering::Greater);
        Some(())
    }

    fn choice(&self) -> Option<Choice> {
        let numbers = match (&self.lower, &self.upper) {
            (_, None) => return Some(Choice::Latest),
            (None, Some(upper)) => upper.previous()?,
            (Some(lower), Some(upper)) => (1..=lower.0.len().max(3))
                .map(|length| lower.first(length))
                .find(|part| part.next().is_some_and(|next| next.order(upper) != Ordering::Greater))?,
        };
        let is_excluded = self.excluded.iter().any(|excluded| numbers.0.starts_with(&excluded.0));
        (!is_excluded).then(|| Choice::Newest(numbers.to_string()))
    }

    fn allows(&self, version: &Numbers) -> bool {
        let is_after = self.lower.as_ref().is_none_or(|lower| {
            let length = lower.0.len().min(version.0.len());
            version.first(length).order(&lower.first(length)) != Ordering::Less
        });
        // The newest 20 may be 20.5 or later.
        let is_before = self
            .upper
            .as_ref()
            .is_none_or(|upper| version.order(upper) == Ordering::Less && !upper.0.starts_with(&version.0));
        let is_excluded = self.excluded.iter().any(|excluded| version.0.starts_with(&excluded.0));
        is_after && is_before && !is_excluded
    }
}

fn is_version_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._*+-".contains(c)
}

/// Splits `text` after its leading characters that `matches_class` accepts.
fn split_while(text: &str, matches_class: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !matches_class(c)).unwrap_or(text.len()))
}

/// Returns the stricter of two bounds: `new`, if `old` compares to it as `when`.
fn stricter(old: Option<Numbers>, new: Option<Numbers>, when: Ordering) -> Option<Numbers> {
    match (old, new) {
        (Some(old), Some(new)) if old.order(&new) == when => Some(new),
        (Some(old), _) => Some(old),
        (None, new) => new,
    }
}

impl Numbers {
    /// Parses the numbers of `1.2.3`, `v1.2.x` or `1.*`. A suffix such as `-rc.1` is ignored.
    fn of(version: &str) -> Option<Self> {
        let version = version.strip_prefix('v').unwrap_or(version);
        let mut numbers = Vec::new();
        for part in version.split('.') {
            if matches!(part, "*" | "x" | "X") {
                break;
            }
            let (digits, rest) = split_while(part, |c| c.is_ascii_digit());
            numbers.push(digits.parse().ok()?);
            if !rest.is_empty() {
                break;
            }
        }
        Some(Self(numbers))
    }

    /// Parses a version that consists of numbers only.
    fn plain(version: &str) -> Option<Self> {
        version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then(|| Self::of(version))?
    }

    /// Returns the first `length` numbers, padded with zeros.
    fn first(&self, length: usize) -> Self {
        let numbers = self.0.iter().copied();
        Self(numbers.chain(std::iter::repeat(0)).take(length).collect())
    }

    /// Returns the version that follows all those beginning with this one.
    fn next(&self) -> Option<Self> {
        let mut numbers = self.0.clone();
        let last = numbers.last_mut()?;
        *last = last.checked_add(1)?;
        Some(Self(numbers))
    }

    /// Returns the version before all those beginning with this one, if it is known.
    fn previous(&self) -> Option<Self> {
        let mut numbers = self.significant().to_vec();
        let last = numbers.last_mut()?;
        *last = last.checked_sub(1)?;
        Some(Self(numbers))
    }

    /// Returns the upper bound of `^`, which increments the leftmost number that is not 0.
    fn caret(&self) -> Option<Self> {
        let length = self.0.iter().position(|number| *number != 0).map_or(self.0.len(), |at| at + 1);
        self.first(length).next()
    }

    fn significant(&self) -> &[u32] {
        let length = self.0.iter().rposition(|number| *number != 0).map_or(0, |at| at + 1);
        self.0.get(..length).unwrap_or_default()
    }

    fn order(&self, other: &Self) -> Ordering {
        self.significant().cmp(other.significant())
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&texts.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_chooses_the_version_to_request() {
        for (range, choice) in [
            ("", "latest"),
            ("*", "latest"),
            ("x", "latest"),
            (">=18", "latest"),
            (">= 18.0.0", "latest"),
            (">3.8", "latest"),
            ("^20", "20"),
            ("^20.3.1", "20"),
            ("^0.2.3", "0.2"),
            ("^0.0.3", "0.0.3"),
            ("^3.11", "3"),
            ("~1.2.3", "1.2"),
            ("~1", "1"),
            ("~=3.11", "3"),
            ("~=3.11.2", "3.11"),
            ("~> 3.2", "3"),
            ("20.x", "20"),
            ("v20", "20"),
            ("3.11.*", "3.11"),
            ("==3.11.*", "3.11"),
            ("=20.11.1", "20.11.1"),
            (">=3.11,<4", "3"),
            (">=3.9,<3.13", "3.9"),
            (">=3.9, <3.9.5", "3.9.0"),
            (">=18 <21", "18"),
            (">18 <21", "19"),
            (">=18.12.0 <19 || ^20.9 || >=22", "latest"),
            ("18 || 20", "20"),
            ("20 || 18", "20"),
            ("18 - 20", "18"),
            ("<21", "20"),
            ("<4.0", "3"),
            ("<=20", "20"),
            ("<3.13", "3.12"),
            (">=1.2.3-rc.1 <2.0.0-0", "1"),
            (">=3.8,!=3.9.7,<4", "3"),
        ] {
            let actual = match Range::parse(range).and_then(|range| range.choice()) {
                Some(Choice::Latest) => "latest".to_owned(),
                Some(Choice::Newest(version)) => version,
                None => "none".to_owned(),
            };
            assert_eq!(actual, choice, "{range}");
        }
    }

    #[test]
    fn invalid_ranges_are_rejected_and_empty_ones_have_no_choice() {
        for range in ["lts", "=>1", "1..2", "4294967296", "^4294967295", "- 20", "18 -", "!= *", "<"] {
            assert_eq!(Range::parse(range), None, "{range}");
        }
        assert_eq!(Range::parse(&"<1 ".repeat(MAX_COMPARISONS + 1)), None);
        for range in [">=20 <18", "<0", "<=3.9,>=3.10", "!=3,>=3.1,<4"] {
            assert_eq!(Range::parse(range).unwrap().choice(), None, "{range}");
        }
    }

    #[test]
    fn a_range_allows_only_the_versions_in_it() {
        for (range, version, allowed) in [
            (">=18", "20", true),
            (">=18", "16.1", false),
            (">=20.5", "20", true),
            (">=18", "latest", true),
            ("^18", "latest", false),
            ("20", "20.11.1", true),
            ("20.11.1", "20", false),
            ("20.11.1", "20.11.1", true),
            ("<20.5", "20", false),
            ("<20.5", "19", true),
            ("18 || 20", "19", false),
            ("!=3.9.7", "3.9.7", false),
            ("*", "temurin-21", false),
        ] {
            assert_eq!(Range::parse(range).unwrap().allows(version), allowed, "{range} {version}");
        }
    }

    proptest! {
        #[test]
        fn parsing_any_text_does_not_panic(text in "([<>=!^~|, .*x0-9v-]|\\PC){0,24}") {
            let range = Range::parse(&text);
            let _ = range.as_ref().and_then(Range::choice);
            let _ = range.map(|range| range.allows("1.2"));
        }

        #[test]
        fn the_chosen_version_is_numeric_and_in_the_range(text in "((<|>|<=|>=|\\^|~|!=|)[0-9]{1,2}(\\.[0-9]{1,2}){0,2}( |\\|\\|)){1,4}") {
            let range = Range::parse(&text).unwrap();
            match range.choice() {
                Some(Choice::Newest(version)) => {
                    prop_assert!(version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
                    prop_assert!(range.allows(&version), "{text}: {version}");
                }
                Some(Choice::Latest) => prop_assert!(range.allows("latest")),
                None => {}
            }
        }
    }
}
