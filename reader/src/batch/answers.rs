//! What a read of many keys is answered with.

use crate::error::Error;

/// The answers to a read of many keys, one for each key in the order asked for.
///
/// A key whose load failed has its error; the others are not touched by it.
#[derive(Clone, Debug)]
#[must_use = "some of the keys may have failed"]
pub struct Batch<K, T> {
    answers: Vec<(K, Result<Option<T>, Error>)>,
}

impl<K, T> Batch<K, T> {
    pub(super) fn new(answers: Vec<(K, Result<Option<T>, Error>)>) -> Self {
        Self { answers }
    }

    /// How many keys were asked for, repeated ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether no key was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Each key with its answer; `None` for an item that does not exist.
    pub fn iter(&self) -> std::slice::Iter<'_, (K, Result<Option<T>, Error>)> {
        self.answers.iter()
    }

    /// The keys that have no answer, and why.
    pub fn errors(&self) -> impl Iterator<Item = (&K, &Error)> {
        self.answers.iter().filter_map(|(key, answer)| Some((key, answer.as_ref().err()?)))
    }

    /// The values in the order asked for, for those who can do nothing with a part of them.
    ///
    /// # Errors
    /// The first key's [`Error`], where any key has one.
    pub fn into_values(self) -> Result<Vec<Option<T>>, Error> {
        self.answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// The items that exist, with their keys; errors and absences are left out.
    pub fn into_found(self) -> impl Iterator<Item = (K, T)> {
        self.answers.into_iter().filter_map(|(key, answer)| Some((key, answer.ok()??)))
    }
}

impl<K, T> IntoIterator for Batch<K, T> {
    type Item = (K, Result<Option<T>, Error>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.answers.into_iter()
    }
}

impl<'a, K, T> IntoIterator for &'a Batch<K, T> {
    type Item = &'a (K, Result<Option<T>, Error>);
    type IntoIter = std::slice::Iter<'a, (K, Result<Option<T>, Error>)>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
