//! Choices made by bytes. When the bytes end, every choice is the first, harmless one: so shrinking the bytes makes a
//! case simpler.

use arbitrary::Unstructured;

pub(crate) struct Choices<'a>(Unstructured<'a>);

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(Unstructured::new(bytes))
    }

    /// Returns a number below `limit`, at first 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0.int_in_range(0..=limit.saturating_sub(1)).unwrap_or(0)
    }

    /// Returns true in `percent` of a hundred cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) >= 100 - percent
    }

    pub(crate) fn pick<'o, T>(&mut self, options: &'o [T]) -> &'o T {
        &options[self.below(options.len())]
    }

    /// Returns one of `options`, each with its weight.
    pub(crate) fn weighted<T: Clone>(&mut self, options: &[(usize, T)]) -> T {
        let mut at = self.below(options.iter().map(|(weight, _)| weight).sum());
        for (weight, option) in options {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return option.clone(),
            }
        }
        options[0].1.clone()
    }

    pub(crate) fn number<T: arbitrary::Arbitrary<'a> + Default>(&mut self) -> T {
        self.0.arbitrary().unwrap_or_default()
    }

    /// Returns fewer than `limit` bytes.
    pub(crate) fn bytes(&mut self, limit: usize) -> Vec<u8> {
        let length = self.below(limit);
        (0..length).map(|_| self.number()).collect()
    }
}
