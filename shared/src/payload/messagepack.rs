//! MessagePack, with structs as maps of their fields' names, so that fields may be added.

use std::io::ErrorKind;

use rmp_serde::Deserializer;
use rmp_serde::decode::Error;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::BoxError;

/// The deepest nesting that is read, as it is for JSON.
const DEPTH: usize = 128;

#[derive(Debug, thiserror::Error)]
#[error("the payload goes on after its value")]
struct Trailing;

pub(super) fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, BoxError> {
    Ok(rmp_serde::to_vec_named(value)?)
}

pub(super) fn from_bytes<T: DeserializeOwned>(payload: &[u8]) -> Result<T, BoxError> {
    let mut deserializer = Deserializer::from_read_ref(payload);
    deserializer.set_max_depth(DEPTH);
    let value = T::deserialize(&mut deserializer)?;
    // The deserializer does not tell how far it came: reading one more value has to find the end.
    match u8::deserialize(&mut deserializer) {
        Err(Error::InvalidMarkerRead(error)) if error.kind() == ErrorKind::UnexpectedEof => Ok(value),
        Ok(_) | Err(_) => Err(Trailing.into()),
    }
}
