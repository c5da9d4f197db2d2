//! Locks, and telling their waiters.

use bytes::Bytes;

use super::entry::version_at;
use super::store::Store;
use crate::valkey::{LOCK_MAGIC, Token};
use crate::version::Version;

const TOKEN_AT: usize = 4;
pub(super) const FLOOR_AT: usize = TOKEN_AT + Token::LEN;
pub(super) const WAITERS_AT: usize = FLOOR_AT + Version::LEN;

/// The most bytes of waiters that a lock takes.
const WAITERS_MAX: usize = 64 * 1024;

/// A value that is a lock.
pub(super) struct Lock(Bytes);

impl Lock {
    pub(super) fn of(value: Bytes) -> Option<Self> {
        Token::of_lock(&value).map(|_| Self(value))
    }

    /// The lock that stands under a name, if it is held under that token.
    pub(super) fn held_by(store: &mut Store, name: &[u8], token: &[u8]) -> Option<Self> {
        store.get(name).and_then(Lock::of).filter(|lock| lock.token() == token)
    }

    /// The bytes of a lock without waiters.
    pub(super) fn fresh(token: &[u8], floor: Version) -> Bytes {
        [LOCK_MAGIC, token, floor.as_bytes()].concat().into()
    }

    pub(super) fn token(&self) -> &[u8] {
        &self.0[TOKEN_AT..FLOOR_AT]
    }

    pub(super) fn floor(&self) -> Version {
        version_at(&self.0, FLOOR_AT)
    }

    pub(super) fn inboxes(&self) -> Inboxes<'_> {
        Inboxes(&self.0[WAITERS_AT..])
    }

    pub(super) fn has_room_for(&self, inbox: &[u8]) -> bool {
        self.0.len() - WAITERS_AT + 1 + inbox.len() <= WAITERS_MAX
    }

    /// Publishes a notice to every waiter.
    pub(super) fn tell(&self, store: &mut Store, kind: &[u8], key: &[u8], rest: &[u8]) {
        let length = u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes();
        let message: Bytes = [kind, self.token(), &length, key, rest].concat().into();
        for inbox in self.inboxes() {
            store.publish(inbox, &message);
        }
    }
}

/// The names of the waiters' inboxes, each behind its length.
pub(super) struct Inboxes<'a>(&'a [u8]);

impl<'a> Iterator for Inboxes<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first()?;
        let (inbox, rest) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, &[]));
        self.0 = rest;
        Some(inbox)
    }
}

/// Takes a lease away; how many there were.
pub(super) fn void(store: &mut Store, key: &[u8], name: &[u8]) -> u64 {
    let Some(value) = store.get(name) else { return 0 };
    store.unlink(name);
    if let Some(lock) = Lock::of(value) {
        lock.tell(store, b"V", key, b"");
    }
    1
}

/// Makes the fill that is under way prove `floor`; a foreign lock is taken away instead.
pub(super) fn raise(store: &mut Store, key: &[u8], name: &[u8], floor: Version) -> u64 {
    match store.get(name).and_then(Lock::of) {
        Some(lock) => {
            if floor > lock.floor() {
                store.set_range(name, FLOOR_AT, floor.as_bytes());
            }
            0
        }
        None => void(store, key, name),
    }
}
