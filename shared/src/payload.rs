//! Forms of payloads that take dependencies: MessagePack, and Zstandard frames. Who neither reads nor writes values leaves
//! the features out.

#[cfg(feature = "messagepack")]
pub mod messagepack;
#[cfg(feature = "zstd")]
pub mod zstandard;
