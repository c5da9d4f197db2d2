//! Lease tokens.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::LOCK_MAGIC;
use crate::version::Version;

/// Tells one attempt to lease from every other: 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; Token::LEN]);

/// What sets this process apart (64 bits of the system's randomness), and what sets its attempts apart.
static PROCESS: LazyLock<(u64, AtomicU64)> = LazyLock::new(|| {
    let random = |salt: u8| RandomState::new().hash_one((salt, std::process::id()));
    (random(0), AtomicU64::new(random(1)))
});

impl Token {
    /// Bytes that a token takes in a lock.
    pub const LEN: usize = 16;

    /// Makes a token that no other attempt has, in this process or another.
    #[must_use]
    pub fn random() -> Self {
        let (process, attempts) = &*PROCESS;
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&process.to_be_bytes());
        bytes[8..].copy_from_slice(&attempts.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        Self(bytes)
    }

    /// Takes bytes as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The token under which a lock is held; nothing where what stands there is no lock.
    pub(super) fn of_lock(lock: &[u8]) -> Option<Self> {
        let after = lock.strip_prefix(LOCK_MAGIC)?;
        after.first_chunk().filter(|_| after.len() >= Self::LEN + Version::LEN).map(|token| Self(*token))
    }

    /// The bytes as they stand in a lock.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:032x})", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_lock_tells_its_token_and_nothing_else_does() {
        let token = Token::random();
        let lock = |floor: &[u8]| [LOCK_MAGIC, token.as_bytes(), floor].concat();
        assert_eq!(Token::of_lock(&lock(&[0; Version::LEN])), Some(token));
        assert_eq!(Token::of_lock(&lock(b"\0\0 and more, as waiters are, of an inbox")), Some(token));
        assert_eq!(Token::of_lock(&lock(&[0; Version::LEN - 1])), None);
        assert_eq!(Token::of_lock(&lock(&[0; Version::LEN])[1..]), None);
        assert_eq!(Token::of_lock(b""), None);
    }

    #[test]
    fn no_two_tokens_are_equal() {
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| (0..1000).map(|_| Token::random()).collect::<Vec<_>>())).collect();
        let tokens: HashSet<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(tokens.len(), 4000);
    }
}
