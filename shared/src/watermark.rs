//! The contiguous prefix that has been delivered.

use std::collections::VecDeque;

/// Follows positions that are begun in order and done in any order.
///
/// [`Watermark::reached`] is the last position up to which everything is done: what a checkpoint may be set to.
#[derive(Debug)]
pub struct Watermark<P> {
    /// Positions that are begun, oldest first, and whether each is done.
    open: VecDeque<(P, bool)>,
    /// The number of the oldest one in `open`.
    first: u64,
    reached: Option<P>,
}

/// Names a begun position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Begun(u64);

impl<P> Default for Watermark<P> {
    fn default() -> Self {
        Self { open: VecDeque::new(), first: 0, reached: None }
    }
}

impl<P> Watermark<P> {
    /// Follows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the next position; positions are begun in stream order.
    pub fn begin(&mut self, position: P) -> Begun {
        self.open.push_back((position, false));
        Begun(self.first + self.open.len() as u64 - 1)
    }

    /// Marks a position as done. Once more is a no-op.
    pub fn done(&mut self, begun: Begun) {
        let index = begun.0.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some((_, done)) = index.and_then(|index| self.open.get_mut(index)) {
            *done = true;
        }
        while let Some((position, _)) = self.open.pop_front_if(|(_, done)| *done) {
            self.first += 1;
            self.reached = Some(position);
        }
    }

    /// The last position of the contiguous prefix that is done; `None` before the first.
    #[must_use]
    pub fn reached(&self) -> Option<&P> {
        self.reached.as_ref()
    }

    /// How many positions are begun and not yet in the prefix.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_never_passes_what_is_not_done(order in Just((0..20_usize).collect::<Vec<_>>()).prop_shuffle()) {
            let mut watermark = Watermark::new();
            let begun: Vec<_> = (0..20_usize).map(|position| watermark.begin(position)).collect();
            let mut done = [false; 20];
            for index in order {
                watermark.done(begun[index]);
                done[index] = true;
                let prefix = done.iter().take_while(|done| **done).count();
                prop_assert_eq!(watermark.reached().copied(), prefix.checked_sub(1));
                prop_assert_eq!(watermark.pending(), 20 - prefix);
            }
        }
    }

    #[test]
    fn done_twice_is_done_once() {
        let mut watermark = Watermark::new();
        let first = watermark.begin('a');
        let second = watermark.begin('b');
        watermark.done(first);
        watermark.done(first);
        assert_eq!(watermark.reached(), Some(&'a'));
        watermark.done(second);
        assert_eq!(watermark.reached(), Some(&'b'));
    }
}
