//! The entry: a fixed header before the payload, the same for every reader and every invalidator.
//!
//! `docs/wire-format.md` describes it for other languages, and `tests/golden/entry` holds vectors of it.

use bytes::{BufMut, Bytes, BytesMut};

use crate::version::Version;

/// Bytes of the header; the payload follows.
pub const HEADER_LEN: usize = 80;

/// The first five bytes of every entry: four that no UTF-8 text begins with, then the format's version.
pub const MAGIC: [u8; 5] = [0x9e, b'R', b'T', 0x1a, 1];

/// The byte that holds the state.
pub(crate) const STATE_AT: usize = 5;
const CODEC_AT: usize = 6;
pub(crate) const VERSION_AT: usize = 8;
pub(crate) const FLOOR_AT: usize = VERSION_AT + Version::LEN;
pub(crate) const SOFT_EXPIRY_AT: usize = FLOOR_AT + Version::LEN;
const LOAD_COST_AT: usize = SOFT_EXPIRY_AT + 8;
pub(crate) const PAYLOAD_LEN_AT: usize = LOAD_COST_AT + 4;

/// What an entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// A floor and no value: the item changed, and the next load has to be at least that new.
    Tombstone = 0,
    /// The item's value.
    Value = 1,
    /// The item does not exist.
    Negative = 2,
    /// A value that was invalidated and is kept for serving stale.
    Stale = 3,
}

/// How a payload is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Codec {
    /// Bytes as the application gave them.
    Raw = 0,
    /// JSON in UTF-8.
    #[default]
    Json = 1,
    /// MessagePack.
    MessagePack = 2,
}

/// How a payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// Zstandard.
    Zstd = 1,
}

/// An entry's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the entry stands for.
    pub state: State,
    /// How the payload is encoded.
    pub codec: Codec,
    /// How the payload is compressed.
    pub compression: Compression,
    /// The version of the value; [`Version::NONE`] where none is known.
    pub version: Version,
    /// The lowest version that may still be stored.
    pub floor: Version,
    /// Past this time, in unix ms, the value is served and refreshed in the background; 0 for never.
    pub soft_expiry_ms: u64,
    /// What the load took, in µs, for choosing early refreshes.
    pub load_cost_us: u32,
}

/// An entry: header and payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The header.
    pub header: Header,
    /// The payload; empty for a negative entry and a tombstone.
    pub payload: Bytes,
}

/// Why bytes under a cached key are not an entry. Each is a miss to readers, and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NotAnEntry {
    /// The value does not begin with the magic: somebody else wrote it.
    #[error("the value under this key was not written by ringtide")]
    Foreign,
    /// A format, state or codec that this release does not know.
    #[error("the entry has a format that this release does not know")]
    UnknownFormat,
    /// The header or the payload is cut short, or the payload has grown.
    #[error("the entry's length does not match its header")]
    Damaged,
}

impl Header {
    /// A value's header, without version and soft expiry.
    #[must_use]
    pub fn value(codec: Codec) -> Self {
        Self {
            state: State::Value,
            codec,
            compression: Compression::None,
            version: Version::NONE,
            floor: Version::NONE,
            soft_expiry_ms: 0,
            load_cost_us: 0,
        }
    }

    /// A negative entry's header.
    #[must_use]
    pub fn negative() -> Self {
        Self { state: State::Negative, ..Self::value(Codec::Raw) }
    }
}

impl Entry {
    /// Reads an entry; the payload shares the given bytes.
    ///
    /// # Errors
    /// [`NotAnEntry`]: a miss to readers.
    pub fn parse(bytes: &Bytes) -> Result<Self, NotAnEntry> {
        let header = Header::parse(bytes)?;
        Ok(Self { header, payload: bytes.slice(HEADER_LEN..) })
    }

    /// Writes the entry.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_LEN + self.payload.len());
        out.put_slice(&MAGIC);
        out.put_u8(self.header.state as u8);
        out.put_u8(self.header.codec as u8 | (self.header.compression as u8) << 4);
        out.put_u8(0);
        out.put_slice(self.header.version.as_bytes());
        out.put_slice(self.header.floor.as_bytes());
        out.put_u64(self.header.soft_expiry_ms);
        out.put_u32(self.header.load_cost_us);
        // An item has at most 400 KB and a Valkey string 512 MB, so the length always fits.
        out.put_u32(u32::try_from(self.payload.len()).unwrap_or(u32::MAX));
        out.put_slice(&self.payload);
        out.freeze()
    }
}

impl Header {
    /// Reads the header and checks that the payload has the length it says.
    ///
    /// # Errors
    /// [`NotAnEntry`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAnEntry> {
        match bytes.get(..MAGIC.len()) {
            Some(magic) if magic == MAGIC => {}
            Some(magic) if magic[..4] == MAGIC[..4] => return Err(NotAnEntry::UnknownFormat),
            Some(_) | None => return Err(NotAnEntry::Foreign),
        }
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(NotAnEntry::Damaged)?;
        let payload_len = u32::from_be_bytes(field(header, PAYLOAD_LEN_AT)) as usize;
        if bytes.len() - HEADER_LEN != payload_len {
            return Err(NotAnEntry::Damaged);
        }
        let state = match header[STATE_AT] {
            0 => State::Tombstone,
            1 => State::Value,
            2 => State::Negative,
            3 => State::Stale,
            _ => return Err(NotAnEntry::UnknownFormat),
        };
        let (codec, compression) = match (header[CODEC_AT] & 0x0f, header[CODEC_AT] >> 4) {
            (codec @ 0..=2, compression @ 0..=1) => (
                [Codec::Raw, Codec::Json, Codec::MessagePack][usize::from(codec)],
                [Compression::None, Compression::Zstd][usize::from(compression)],
            ),
            _ => return Err(NotAnEntry::UnknownFormat),
        };
        Ok(Self {
            state,
            codec,
            compression,
            version: Version::from_bytes(field(header, VERSION_AT)),
            floor: Version::from_bytes(field(header, FLOOR_AT)),
            soft_expiry_ms: u64::from_be_bytes(field(header, SOFT_EXPIRY_AT)),
            load_cost_us: u32::from_be_bytes(field(header, LOAD_COST_AT)),
        })
    }
}

fn field<const N: usize>(header: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_entry() -> impl Strategy<Value = Entry> {
        let state = prop_oneof![Just(State::Tombstone), Just(State::Value), Just(State::Negative), Just(State::Stale)];
        let codec = prop_oneof![Just(Codec::Raw), Just(Codec::Json), Just(Codec::MessagePack)];
        let compression = prop_oneof![Just(Compression::None), Just(Compression::Zstd)];
        let version = any::<[u8; 28]>().prop_map(Version::from_bytes);
        (state, codec, compression, version.clone(), version, any::<u64>(), any::<u32>(), any::<Vec<u8>>()).prop_map(
            |(state, codec, compression, version, floor, soft_expiry_ms, load_cost_us, payload)| Entry {
                header: Header { state, codec, compression, version, floor, soft_expiry_ms, load_cost_us },
                payload: payload.into(),
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(entry in any_entry()) {
            prop_assert_eq!(Entry::parse(&entry.to_bytes()), Ok(entry));
        }

        #[test]
        fn no_bytes_panic_and_none_but_an_entry_is_read(bytes in any::<Vec<u8>>()) {
            prop_assert!(Entry::parse(&bytes.into()).is_err());
        }

        #[test]
        fn a_cut_or_grown_entry_is_damaged(entry in any_entry(), cut in 0_usize..200) {
            let bytes = entry.to_bytes();
            let len = bytes.len() - 1 - cut % (bytes.len() - MAGIC.len());
            prop_assert_eq!(Entry::parse(&bytes.slice(..len.max(MAGIC.len()))), Err(NotAnEntry::Damaged));
            let grown: Bytes = [&bytes[..], b"x"].concat().into();
            prop_assert_eq!(Entry::parse(&grown), Err(NotAnEntry::Damaged));
        }
    }

    #[test]
    fn foreign_values_and_later_formats_are_told_apart() {
        for foreign in [&b""[..], b"{\"pk\":1}", b"\x9eRT", b"\x80\x04\x95"] {
            assert_eq!(Header::parse(foreign), Err(NotAnEntry::Foreign));
        }
        let mut later = Entry { header: Header::negative(), payload: Bytes::new() }.to_bytes().to_vec();
        later[4] = 2;
        assert_eq!(Header::parse(&later), Err(NotAnEntry::UnknownFormat));
        later[4] = 1;
        later[STATE_AT] = 9;
        assert_eq!(Header::parse(&later), Err(NotAnEntry::UnknownFormat));
    }
}
