//! What an entry holds, and whether it is as new as it has to be.

use bytes::Bytes;
use ringtide_core::entry::{Codec, Entry, Header, State};
use ringtide_core::version::Version;

use super::database::Item;

/// What a key's entry says about the items that feed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// For each item the commit whose state it holds.
    Commits(Vec<usize>),
    /// None of the items exists.
    Absent,
}

impl Content {
    /// Reads an entry as a reader takes it; nothing where that is a miss.
    pub(crate) fn served(entry: &Bytes) -> Option<Self> {
        let entry = Entry::parse(entry).ok()?;
        match entry.header.state {
            State::Negative => Some(Content::Absent),
            State::Value => {
                let text = std::str::from_utf8(&entry.payload).expect("a text");
                let numbers = text.trim_matches(['[', ']']).split(',');
                Some(Content::Commits(numbers.map(|number| number.parse().expect("a commit")).collect()))
            }
            State::Stale | State::Tombstone => None,
        }
    }

    /// The payload of a value.
    pub(crate) fn json(&self) -> Option<Bytes> {
        match self {
            Content::Commits(commits) => Some(format!("{commits:?}").replace(' ', "").into()),
            Content::Absent => None,
        }
    }

    /// Reads a value as one who forgets to ask whether it was invalidated.
    pub(crate) fn served_or_marked(entry: &Bytes) -> Option<Self> {
        let entry = Entry::parse(entry).ok()?;
        let state = if entry.header.state == State::Stale { State::Value } else { entry.header.state };
        let header = Header { state, ..entry.header };
        Content::served(&Entry { header, ..entry }.to_bytes())
    }

    /// Whether it was invalidated and is kept.
    pub(crate) fn is_marked(entry: &Bytes) -> bool {
        Header::parse(entry).is_ok_and(|header| header.state == State::Stale)
    }

    /// Writes an entry that is fresh until a time in steps; 0 for ever.
    pub(crate) fn entry(&self, version: Version, fresh_until: u64) -> Bytes {
        let (header, payload) = match self.json() {
            Some(json) => (Header::value(Codec::Json), json),
            None => (Header::negative(), Bytes::new()),
        };
        Entry { header: Header { version, soft_expiry_ms: fresh_until, ..header }, payload }.to_bytes()
    }

    /// Whether it holds a state that was current at these commits or later.
    pub(crate) fn is_as_new_as(&self, items: &[&Item], commits: &[usize]) -> bool {
        match self {
            Content::Commits(held) => held.iter().zip(commits).all(|(held, commit)| held >= commit),
            Content::Absent => items.iter().zip(commits).all(|(item, commit)| item.is_absent_since(*commit)),
        }
    }
}
