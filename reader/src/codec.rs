//! Codecs: how values become payloads, and payloads values again.
//!
//! An entry says itself how it was encoded and compressed, so a key space may change both without a flush. What this
//! build cannot read is a miss.

mod raw;

#[cfg(test)]
#[cfg(feature = "memory")]
mod entry_tests;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use ringtide_core::config::Violation;
use ringtide_core::entry::{Codec, Compression};
use ringtide_core::key::KeySpace;
#[cfg(feature = "messagepack")]
use ringtide_core::payload::messagepack;
#[cfg(feature = "zstd")]
use ringtide_core::payload::zstandard;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::BoxError;

/// How values of a key space are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Encoding {
    codec: Codec,
    compress_above: Option<usize>,
}

/// A value as it stands in an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) codec: Codec,
    pub(crate) compression: Compression,
    pub(crate) bytes: Bytes,
}

/// A codec or a compression that this build leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} needs ringtide's feature `{feature}`")]
#[cfg_attr(all(feature = "messagepack", feature = "zstd"), allow(dead_code))]
struct LeftOut {
    what: &'static str,
    feature: &'static str,
}

impl Encoding {
    pub(crate) fn of(space: &KeySpace) -> Self {
        Self { codec: space.codec, compress_above: space.compress_above }
    }

    /// Writes a value.
    pub(crate) fn encode<T: Serialize>(self, value: &T) -> Result<Payload, BoxError> {
        let plain = match self.codec {
            Codec::Json => serde_json::to_vec(value)?,
            Codec::Raw => raw::to_bytes(value)?,
            Codec::MessagePack => messagepack_of(value)?,
        };
        let compressed = match self.compress_above {
            Some(above) if plain.len() > above => compressed(&plain)?.filter(|smaller| smaller.len() < plain.len()),
            Some(_) | None => None,
        };
        Ok(match compressed {
            Some(bytes) => Payload { codec: self.codec, compression: Compression::Zstd, bytes: bytes.into() },
            None => Payload { codec: self.codec, compression: Compression::None, bytes: plain.into() },
        })
    }
}

/// Reads a payload.
pub(crate) fn decode<T: DeserializeOwned>(
    codec: Codec,
    compression: Compression,
    payload: &[u8],
) -> Result<T, BoxError> {
    match compression {
        Compression::None => decode_plain(codec, payload),
        Compression::Zstd => decode_plain(codec, &decompressed(payload)?),
    }
}

fn decode_plain<T: DeserializeOwned>(codec: Codec, payload: &[u8]) -> Result<T, BoxError> {
    match codec {
        Codec::Json => Ok(serde_json::from_slice(payload)?),
        Codec::Raw => Ok(raw::from_bytes(payload)?),
        Codec::MessagePack => from_messagepack(payload),
    }
}

/// Finds what of a key space's settings this build cannot write.
pub(crate) fn violations(space: &KeySpace) -> Vec<Violation> {
    let violation = |field: &str, left_out: LeftOut| {
        let remedy = format!("enable the feature {:?} of the crate ringtide, or change the setting", left_out.feature);
        Violation::new(format!("spaces.{}.{field}", space.name), left_out.to_string(), remedy)
    };
    let codec = match space.codec {
        Codec::MessagePack if !cfg!(feature = "messagepack") => Some(violation("codec", MESSAGEPACK)),
        Codec::Json | Codec::Raw | Codec::MessagePack => None,
    };
    let compression = match space.compress_above {
        Some(_) if !cfg!(feature = "zstd") => Some(violation("compress_above", ZSTD)),
        Some(_) | None => None,
    };
    codec.into_iter().chain(compression).collect()
}

const MESSAGEPACK: LeftOut = LeftOut { what: "the codec messagepack", feature: "messagepack" };
const ZSTD: LeftOut = LeftOut { what: "compression", feature: "zstd" };

#[cfg(feature = "messagepack")]
fn messagepack_of<T: Serialize>(value: &T) -> Result<Vec<u8>, BoxError> {
    Ok(messagepack::to_bytes(value)?)
}

#[cfg(feature = "messagepack")]
fn from_messagepack<T: DeserializeOwned>(payload: &[u8]) -> Result<T, BoxError> {
    Ok(messagepack::from_bytes(payload)?)
}

#[cfg(feature = "zstd")]
fn compressed(plain: &[u8]) -> Result<Option<Vec<u8>>, BoxError> {
    Ok(zstandard::compress(plain)?)
}

#[cfg(feature = "zstd")]
fn decompressed(payload: &[u8]) -> Result<Vec<u8>, BoxError> {
    Ok(zstandard::decompress(payload)?)
}

#[cfg(not(feature = "messagepack"))]
fn messagepack_of<T: Serialize>(_: &T) -> Result<Vec<u8>, BoxError> {
    Err(MESSAGEPACK.into())
}

#[cfg(not(feature = "messagepack"))]
fn from_messagepack<T: DeserializeOwned>(_: &[u8]) -> Result<T, BoxError> {
    Err(MESSAGEPACK.into())
}

#[cfg(not(feature = "zstd"))]
fn compressed(_: &[u8]) -> Result<Option<Vec<u8>>, BoxError> {
    Err(ZSTD.into())
}

#[cfg(not(feature = "zstd"))]
fn decompressed(_: &[u8]) -> Result<Vec<u8>, BoxError> {
    Err(ZSTD.into())
}
