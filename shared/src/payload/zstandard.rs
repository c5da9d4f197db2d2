//! Zstandard frames with checksums, and a bound on what they decompress to.

use std::cell::RefCell;
use std::io::{self, Read};

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::get_frame_content_size;

const LEVEL: i32 = 3;

/// The most bytes that a payload decompresses to: a few KB may claim to stand for many GB.
pub const DECOMPRESSED_MAX: usize = 64 * 1024 * 1024;

/// The base-2 logarithm of the largest window that a frame of unknown length may ask for: 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;

/// Why a payload is not decompressed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It would fill the memory.
    #[error("the payload decompresses to more than {DECOMPRESSED_MAX} bytes")]
    TooLarge,
    /// It was never compressed.
    #[error("the payload is no Zstandard frame")]
    NoFrame,
    /// It is damaged.
    #[error(transparent)]
    Damaged(#[from] io::Error),
}

thread_local! {
    /// Making one costs more than most payloads take.
    static DECOMPRESSOR: RefCell<Decompressor<'static>> = RefCell::default();
}

/// Compresses a payload; `None` for one that would not be read back.
///
/// # Errors
/// Those of the compressor.
pub fn compress(plain: &[u8]) -> io::Result<Option<Vec<u8>>> {
    if plain.len() > DECOMPRESSED_MAX {
        return Ok(None);
    }
    let mut compressor = Compressor::new(LEVEL)?;
    // Four bytes that tell a damaged payload from a whole one.
    compressor.include_checksum(true)?;
    Ok(Some(compressor.compress(plain)?))
}

/// Decompresses a payload, whose frame need not tell its length.
///
/// # Errors
/// [`Refused`].
pub fn decompress(payload: &[u8]) -> Result<Vec<u8>, Refused> {
    match get_frame_content_size(payload) {
        Ok(Some(length)) => {
            let length = usize::try_from(length).ok().filter(|length| *length <= DECOMPRESSED_MAX);
            let length = length.ok_or(Refused::TooLarge)?;
            Ok(DECOMPRESSOR.with_borrow_mut(|decompressor| decompressor.decompress(payload, length))?)
        }
        Ok(None) => stream(payload),
        Err(_) => Err(Refused::NoFrame),
    }
}

fn stream(payload: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(payload)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut plain = Vec::new();
    decoder.take(DECOMPRESSED_MAX as u64 + 1).read_to_end(&mut plain)?;
    if plain.len() > DECOMPRESSED_MAX { Err(Refused::TooLarge) } else { Ok(plain) }
}
