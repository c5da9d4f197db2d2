//! What scripts know of entries.

use bytes::Bytes;

use crate::entry::{
    Codec, Entry, FLOOR_AT, HEADER_LEN, Header, MAGIC, PAYLOAD_LEN_AT, SOFT_EXPIRY_AT, STATE_AT, State, VERSION_AT,
};
use crate::version::Version;

/// The state of an entry that begins with a header, whole or not; `None` for what this release does not know.
pub(super) fn state_of(value: &[u8]) -> Option<State> {
    if value.len() < HEADER_LEN || value[..MAGIC.len()] != MAGIC {
        return None;
    }
    let (state, codec) = (value[STATE_AT], value[STATE_AT + 1]);
    if codec % 16 > 2 || codec > 31 {
        return None;
    }
    match state {
        0 => Some(State::Tombstone),
        1 => Some(State::Value),
        2 => Some(State::Negative),
        3 => Some(State::Stale),
        _ => None,
    }
}

/// Whether an entry has the length that its header says.
pub(super) fn is_whole(value: &[u8]) -> bool {
    value.len() >= HEADER_LEN
        && field(value, PAYLOAD_LEN_AT).map(u32::from_be_bytes) == u32::try_from(value.len() - HEADER_LEN).ok()
}

/// The state of a whole entry.
pub(super) fn state_of_whole(value: &[u8]) -> Option<State> {
    state_of(value).filter(|_| is_whole(value))
}

pub(super) fn version_of(entry: &[u8]) -> Version {
    version_at(entry, VERSION_AT)
}

pub(super) fn floor_of(entry: &[u8]) -> Version {
    version_at(entry, FLOOR_AT)
}

pub(super) fn soft_expiry_of(entry: &[u8]) -> u64 {
    field(entry, SOFT_EXPIRY_AT).map_or(0, u64::from_be_bytes)
}

/// The entry with another floor.
pub(super) fn with_floor(entry: &[u8], floor: Version) -> Bytes {
    let (before, after) = (entry.get(..FLOOR_AT).unwrap_or(entry), entry.get(SOFT_EXPIRY_AT..).unwrap_or_default());
    [before, floor.as_bytes(), after].concat().into()
}

pub(super) fn tombstone(floor: Version) -> Bytes {
    let header = Header { state: State::Tombstone, floor, ..Header::value(Codec::Raw) };
    Entry { header, payload: Bytes::new() }.to_bytes()
}

/// The version that stands at an offset; none past the end.
pub(super) fn version_at(bytes: &[u8], at: usize) -> Version {
    field(bytes, at).map_or(Version::NONE, Version::from_bytes)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
