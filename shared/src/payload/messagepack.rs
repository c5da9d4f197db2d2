//! MessagePack, with structs as maps of their fields' names, so that fields may be added.

use std::io::ErrorKind;

use rmp_serde::Deserializer;
use rmp_serde::decode::Error;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The deepest nesting that is read, as it is for JSON.
const DEPTH: usize = 128;

/// Why a payload is not read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is no MessagePack, or not of the type asked for.
    #[error(transparent)]
    Value(#[from] Error),
    /// Something comes after the value.
    #[error("the payload goes on after its value")]
    Trailing,
}

/// Writes a value.
///
/// # Errors
/// A value that has no form in MessagePack.
pub fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    rmp_serde::to_vec_named(value)
}

/// Reads a value, which is the whole payload.
///
/// # Errors
/// [`Unreadable`].
pub fn from_bytes<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Unreadable> {
    let mut deserializer = Deserializer::from_read_ref(payload);
    deserializer.set_max_depth(DEPTH);
    let value = T::deserialize(&mut deserializer)?;
    // The deserializer does not tell how far it came: reading one more value has to find the end.
    match u8::deserialize(&mut deserializer) {
        Err(Error::InvalidMarkerRead(error)) if error.kind() == ErrorKind::UnexpectedEof => Ok(value),
        Ok(_) | Err(_) => Err(Unreadable::Trailing),
    }
}
