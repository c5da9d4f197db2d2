//! The entry's bytes are what `docs/wire-format.md` says: vectors that were made from the document, in another language.

use bytes::Bytes;
use ringtide_core::entry::{Codec, Compression, Entry, Header, State};
use ringtide_core::version::Version;
use serde::Deserialize;

#[derive(Deserialize)]
struct EntryVector {
    name: String,
    state: u8,
    codec: u8,
    compression: u8,
    version: String,
    floor: String,
    soft_expiry_ms: u64,
    load_cost_us: u32,
    payload: String,
    entry: String,
}

#[derive(Deserialize)]
struct VersionVector {
    kind: String,
    #[serde(default)]
    number: String,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    created_ms: u64,
    #[serde(default)]
    sequence: String,
    bytes: String,
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn version(text: &str) -> Version {
    Version::from_bytes(unhex(text).try_into().unwrap())
}

#[test]
fn entries_are_written_and_read_as_the_vectors_say() {
    let vectors: Vec<EntryVector> =
        serde_json::from_str(include_str!("../../tests/golden/entry/entries.json")).unwrap();
    assert_eq!(vectors.len(), 9);
    for vector in vectors {
        let entry = Entry {
            header: Header {
                state: [State::Tombstone, State::Value, State::Negative, State::Stale][usize::from(vector.state)],
                codec: [Codec::Raw, Codec::Json, Codec::MessagePack][usize::from(vector.codec)],
                compression: [Compression::None, Compression::Zstd][usize::from(vector.compression)],
                version: version(&vector.version),
                floor: version(&vector.floor),
                soft_expiry_ms: vector.soft_expiry_ms,
                load_cost_us: vector.load_cost_us,
            },
            payload: unhex(&vector.payload).into(),
        };
        let bytes: Bytes = unhex(&vector.entry).into();
        assert_eq!(entry.to_bytes(), bytes, "{}", vector.name);
        assert_eq!(Entry::parse(&bytes), Ok(entry), "{}", vector.name);
    }
}

#[test]
fn versions_are_written_as_the_vectors_say() {
    let vectors: Vec<VersionVector> =
        serde_json::from_str(include_str!("../../tests/golden/entry/versions.json")).unwrap();
    assert_eq!(vectors.len(), 5);
    for vector in vectors {
        let made = match vector.kind.as_str() {
            "number" => Version::from_number(vector.number.parse().unwrap()),
            _ => Version::from_sequence(vector.created_ms, &vector.sequence.parse().unwrap()),
        };
        let made = if vector.deleted { made.just_above() } else { made };
        assert_eq!(made, version(&vector.bytes));
    }
}
