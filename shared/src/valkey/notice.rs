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
    use proptest::prelude::*;

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
    /// A message's parts, with a length that may be wrong.
    fn message(kind: u8, holder: [u8; 16], length: u16, key: &[u8], rest: &[u8]) -> Bytes {
        [&[kind], &holder[..], &length.to_be_bytes(), key, rest].concat().into()
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_what_it_says(
            (kind, holder) in (prop_oneof![Just(b'F'), Just(b'V'), Just(b'R')], any::<[u8; 16]>()),
            (key, rest) in ("\\PC{1,60}", proptest::collection::vec(any::<u8>(), 0..200)),
        ) {
            let message = message(kind, holder, key.len() as u16, key.as_bytes(), &rest);
            let notice = Notice::parse(&message).unwrap();
            prop_assert_eq!(notice.key().as_str(), key);
            match notice {
                Notice::Filled { holder: read, entry, .. } => {
                    prop_assert_eq!(read.as_bytes(), &holder);
                    prop_assert_eq!(entry.unwrap_or_default(), rest);
                }
                Notice::Released { reason, .. } => prop_assert_eq!(reason, String::from_utf8_lossy(&rest)),
                Notice::Voided { .. } => prop_assert_eq!(kind, b'V'),
            }
        }

        #[test]
        fn whatever_is_published_is_read_or_left_and_never_beyond_its_end(
            (kind, holder, length) in (any::<u8>(), any::<[u8; 16]>(), 0_u16..40),
            (key, rest, cut) in (proptest::collection::vec(any::<u8>(), 0..40), any::<[u8; 8]>(), 0_usize..80),
        ) {
            let whole = message(kind, holder, length, &key, &rest);
            let message = whole.slice(..cut.min(whole.len()));
            let after = message.get(19..).unwrap_or_default();
            match Notice::parse(&message) {
                Some(notice) => prop_assert_eq!(Some(notice.key().as_bytes()), after.get(..usize::from(length))),
                None => {
                    let key = after.get(..usize::from(length)).filter(|_| message.len() >= 19);
                    let readable = key.is_some_and(|key| CacheKey::from_utf8(key).is_ok());
                    prop_assert!(!readable || !b"FVR".contains(&kind));
                }
            }
        }
    }
}
