//! What waiters are told.

use bytes::Bytes;

use super::Token;
use crate::key::CacheKey;

/// What happened to a lease that somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It was filled.
    Filled {
        /// The token under which it was held. A notice of an earlier lease may arrive late, and its entry may have been
        /// invalidated since: only the entry of the lease that was waited for is taken.
        holder: Token,
        /// The key.
        key: CacheKey,
        /// The whole entry, unless it was too long to travel here.
        entry: Option<Bytes>,
    },
    /// It was taken away or given back: whoever waits tries again.
    Voided {
        /// The key.
        key: CacheKey,
    },
    /// Its load failed.
    Released {
        /// The key.
        key: CacheKey,
        /// Why.
        reason: String,
    },
}

impl Notice {
    /// The key that it is about.
    #[must_use]
    pub fn key(&self) -> &CacheKey {
        match self {
            Notice::Filled { key, .. } | Notice::Voided { key } | Notice::Released { key, .. } => key,
        }
    }

    /// Reads a message; the entry shares its bytes.
    pub(super) fn parse(message: &Bytes) -> Option<Self> {
        let (kind, rest) = message.split_first()?;
        let (holder, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let key = CacheKey::from_utf8(key).ok()?;
        match kind {
            b'F' => Some(Notice::Filled {
                holder: Token::from_bytes(*holder),
                key,
                entry: (!rest.is_empty()).then(|| message.slice_ref(rest)),
            }),
            b'V' => Some(Notice::Voided { key }),
            b'R' => Some(Notice::Released { key, reason: String::from_utf8_lossy(rest).into_owned() }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_and_others_left() {
        let key = CacheKey::new("ab").unwrap();
        let holder = Token::from_bytes(*b"0123456789abcdef");
        let read = |message: &[u8]| {
            let (kind, rest) = message.split_at(message.len().min(1));
            Notice::parse(&[kind, holder.as_bytes(), rest].concat().into())
        };
        assert_eq!(read(b"F\0\x02abxyz"), Some(Notice::Filled { holder, key: key.clone(), entry: Some("xyz".into()) }));
        assert_eq!(read(b"F\0\x02ab"), Some(Notice::Filled { holder, key: key.clone(), entry: None }));
        assert_eq!(read(b"V\0\x02ab"), Some(Notice::Voided { key: key.clone() }));
        assert_eq!(read(b"R\0\x02abwhy"), Some(Notice::Released { key, reason: "why".to_owned() }));
        for unreadable in [&b""[..], b"F", b"F\0", b"F\0\x03ab", b"X\0\x02ab", b"V\0\x01\xff", b"V\0\0"] {
            assert_eq!(read(unreadable), None);
        }
        assert_eq!(Notice::parse(&Bytes::from_static(b"F0123456789abcde")), None);
    }
}
