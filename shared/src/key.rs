//! Cache keys and key spaces: the only place where a key is rendered.

mod space;
mod template;

use std::fmt;

use smol_str::SmolStr;

pub use space::{Chosen, KeySpace, Lifetime, LocalTier, Mode};
pub use template::{KeyPart, Template, TemplateError, attribute_of_rendered};

/// The longest key that is rendered, in bytes.
pub const MAX_KEY_LEN: usize = 8 * 1024;

/// The name of an entry: UTF-8, at most [`MAX_KEY_LEN`] bytes, cheap to clone.
///
/// A key of up to 23 bytes takes no allocation; clones of a longer one share its text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey(SmolStr);

/// A key that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Keys are UTF-8; bytes go through a template, which renders them in base64url.
    #[error("the key is not UTF-8 (byte {at}); render bytes through a key template, which encodes them")]
    NotUtf8 {
        /// The offset of the first byte that is not UTF-8.
        at: usize,
    },
    /// The key has no byte.
    #[error("the key is empty; give it at least one byte")]
    Empty,
    /// The key is too long.
    #[error("the key has {len} bytes, and at most {MAX_KEY_LEN} are allowed; render a digest of it in its place")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The number of values is not that of the template's placeholders.
    #[error(
        "the template {template:?} has {expected} placeholders, and {given} values were given; an array is as many values as it has elements, a slice of bytes is one"
    )]
    Parts {
        /// The template.
        template: String,
        /// Its placeholders.
        expected: usize,
        /// The values given.
        given: usize,
    },
}

impl CacheKey {
    /// Takes a text as it is.
    ///
    /// # Errors
    /// [`KeyError::Empty`] and [`KeyError::TooLong`].
    #[inline]
    pub fn new(text: impl AsRef<str>) -> Result<Self, KeyError> {
        let text = text.as_ref();
        match text.len() {
            0 => Err(KeyError::Empty),
            len if len > MAX_KEY_LEN => Err(KeyError::TooLong { len }),
            _ => Ok(Self(SmolStr::new(text))),
        }
    }

    /// Takes bytes that are UTF-8.
    ///
    /// # Errors
    /// [`KeyError`]; nothing is replaced or cut.
    pub fn from_utf8(bytes: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(bytes).map_err(|e| KeyError::NotUtf8 { at: e.valid_up_to() })?;
        Self::new(text)
    }

    /// The key as text.
    #[must_use]
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as bytes.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The name of the key's lock, on the same ring shard and, on a Valkey Cluster, in the same cluster slot:
    /// `lock:{K}`, or `lock:` + `K` where `K` already carries a hash tag.
    #[must_use]
    pub fn lock(&self) -> String {
        self.lock_parts().concat()
    }

    /// What [`CacheKey::lock`] is put together from.
    pub(crate) fn lock_parts(&self) -> [&str; 3] {
        match hash_tag(self.as_str()) {
            Some(_) => ["lock:", self.as_str(), ""],
            None => ["lock:{", self.as_str(), "}"],
        }
    }
}

/// The part of a key that Valkey Cluster hashes, where the key has one: what stands between the first `{` and the
/// next `}`, if that is not empty.
#[must_use]
pub fn hash_tag(key: &str) -> Option<&str> {
    let (_, after) = key.split_once('{')?;
    let (tag, _) = after.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_carries_its_keys_hash_tag() {
        for (key, lock) in [
            ("product:42", "lock:{product:42}"),
            ("{user:7}:cart", "lock:{user:7}:cart"),
            ("a{}b", "lock:{a{}b}"),
            ("a}b", "lock:{a}b}"),
        ] {
            assert_eq!(CacheKey::new(key).unwrap().lock(), lock);
        }
    }

    #[test]
    fn a_key_that_is_not_utf8_is_refused_with_its_place() {
        assert_eq!(CacheKey::from_utf8(b"ab\xff"), Err(KeyError::NotUtf8 { at: 2 }));
        assert_eq!(CacheKey::from_utf8(b"ab").unwrap().as_str(), "ab");
        assert_eq!(CacheKey::new(""), Err(KeyError::Empty));
        assert_eq!(CacheKey::new("x".repeat(MAX_KEY_LEN + 1)), Err(KeyError::TooLong { len: MAX_KEY_LEN + 1 }));
    }
}
