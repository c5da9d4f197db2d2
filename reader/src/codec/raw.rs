//! Raw payloads: bytes and text, exactly as the application has them.

mod read;
mod write;

use std::fmt::Display;

pub(super) use read::from_bytes;
pub(super) use write::to_bytes;

/// Why a value has no raw form, or a raw payload is not read as the type asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum RawError {
    #[error(
        "the codec raw takes bytes and text only, not {what}; use the codec json or messagepack for this key space, \
         or a type such as `String` or `Vec<u8>`"
    )]
    Shape { what: &'static str },
    #[error("the payload is not UTF-8 text; read it as `Vec<u8>`, or write text")]
    NotText,
    #[error("{0}")]
    Custom(String),
}

impl serde::ser::Error for RawError {
    fn custom<T: Display>(message: T) -> Self {
        RawError::Custom(message.to_string())
    }
}

impl serde::de::Error for RawError {
    fn custom<T: Display>(message: T) -> Self {
        RawError::Custom(message.to_string())
    }
}
