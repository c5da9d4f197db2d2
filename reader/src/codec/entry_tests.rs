//! Whatever lies under a key, a read neither panics nor takes a damaged entry for a value. `RINGTIDE_FUZZ_ENTRIES` says
//! how many entries are tried, `RINGTIDE_FUZZ_SEED` where they begin.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use ringtide_core::entry::{Entry, HEADER_LEN, Header, MAGIC, NotAnEntry, State};
use ringtide_core::version::Version;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::*;
use crate::cache::Cache;
use crate::lookup::{Miss, decode as decode_entry};
use crate::options::ReadOptions;
use crate::space::SpaceSettings;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Product {
    name: String,
    price: u64,
    tags: BTreeMap<String, Option<f64>>,
    next: Option<Box<Product>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    Newtype(Vec<u8>),
    Struct { text: String },
}

/// What is done to an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    None,
    Cut,
    Grown,
    Length,
    Magic,
    /// Any byte of the header but those that tell format and lengths.
    Header,
    Payload,
    Everything,
}

fn product(rng: &mut Rng, depth: u32) -> Product {
    let text = |rng: &mut Rng| (0..rng.usize(..20)).map(|_| rng.char(..)).collect::<String>();
    Product {
        name: text(rng),
        price: rng.u64(..),
        tags: (0..rng.usize(..4)).map(|_| (text(rng), rng.bool().then(|| rng.f64()))).collect(),
        next: (depth > 0).then(|| Box::new(product(rng, depth - 1))),
    }
}

fn entry(rng: &mut Rng) -> Bytes {
    let encoding = Encoding {
        codec: [Codec::Json, Codec::Raw, Codec::MessagePack]
            [rng.usize(..if cfg!(feature = "messagepack") { 3 } else { 2 })],
        compress_above: (cfg!(feature = "zstd") && rng.bool()).then_some(0),
    };
    let payload = match (encoding.codec, rng.u8(..3)) {
        (Codec::Raw, _) => encoding.encode(&(0..rng.usize(..200)).map(|_| rng.u8(..8)).collect::<Vec<u8>>()),
        (_, 0) => encoding.encode(&Shape::Struct { text: "x".repeat(rng.usize(..300)) }),
        (_, _) => {
            let depth = rng.u32(..3);
            encoding.encode(&product(rng, depth))
        }
    };
    let payload = payload.unwrap();
    let state =
        [State::Value, State::Value, State::Value, State::Negative, State::Stale, State::Tombstone][rng.usize(..6)];
    let header = Header {
        state,
        compression: payload.compression,
        version: Version::from_number(rng.u128(..)),
        soft_expiry_ms: if rng.bool() { 0 } else { rng.u64(..) },
        load_cost_us: rng.u32(..),
        ..Header::value(payload.codec)
    };
    Entry { header, payload: payload.bytes }.to_bytes()
}

fn damaged(rng: &mut Rng, whole: &Bytes) -> (Damage, Bytes) {
    let mut bytes = whole.to_vec();
    let mut flip = |range: std::ops::Range<usize>, rng: &mut Rng| {
        if !range.is_empty() {
            bytes[rng.usize(range)] ^= 1 << rng.u8(..8);
        }
    };
    let damage = match rng.u8(..8) {
        0 => Damage::None,
        1 => {
            bytes.truncate(rng.usize(..bytes.len()));
            Damage::Cut
        }
        7 => {
            flip(HEADER_LEN - 4..HEADER_LEN, rng);
            Damage::Length
        }
        2 => {
            bytes.extend((0..=rng.usize(..20)).map(|_| rng.u8(..)));
            Damage::Grown
        }
        3 => {
            flip(0..MAGIC.len(), rng);
            Damage::Magic
        }
        4 => {
            flip(MAGIC.len()..HEADER_LEN - 4, rng);
            Damage::Header
        }
        5 => {
            for _ in 0..=rng.usize(..3) {
                flip(HEADER_LEN..whole.len(), rng);
            }
            Damage::Payload
        }
        _ => {
            bytes = (0..rng.usize(..200)).map(|_| rng.u8(..)).collect();
            if rng.bool() {
                bytes.splice(..MAGIC.len().min(bytes.len()), MAGIC);
            }
            Damage::Everything
        }
    };
    (damage, bytes.into())
}

/// Reads an entry every way that reads do.
fn check<T: DeserializeOwned + PartialEq + std::fmt::Debug>(
    cache: &Cache,
    whole: &Bytes,
    damage: Damage,
    bytes: &Bytes,
) {
    let inner = &cache.inner;
    for (space, options) in [
        (&inner.raw, ReadOptions::new()),
        (&inner.spaces["stale"], ReadOptions::new()),
        (&inner.raw, ReadOptions::new().stale_if_error(Duration::MAX).early_refresh(1.0)),
    ] {
        let found = inner.accept::<T>(bytes, space, &options);
        match (damage, &found) {
            (
                Damage::Cut | Damage::Grown | Damage::Length,
                Err(Miss::NotAnEntry(NotAnEntry::Damaged | NotAnEntry::Foreign)),
            )
            | (Damage::Magic, Err(Miss::NotAnEntry(NotAnEntry::Foreign | NotAnEntry::UnknownFormat)))
            | (Damage::Everything, Err(Miss::NotAnEntry(_)))
            | (Damage::None | Damage::Header | Damage::Payload, _) => {}
            (damage, found) => {
                let found = found.as_ref().map(|found| &found.value).map_err(|_| "another miss");
                panic!("{damage:?} of {whole:?} is read as {found:?}: {bytes:?}");
            }
        }
        // A checksum tells what neither JSON nor any other codec notices.
        if damage == Damage::Payload
            && Header::parse(whole).unwrap().compression == Compression::Zstd
            && let (Ok(found), Ok(before)) = (found, inner.accept::<T>(whole, space, &options))
        {
            assert_eq!(found.value, before.value, "of {whole:?}: {bytes:?}");
        }
    }
    let _ = decode_entry::<T>(bytes);
}

fn number_of(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}

#[tokio::test]
async fn no_bytes_panic_and_no_damaged_entry_is_a_value() {
    let stale = SpaceSettings::new("stale", "stale:{pk}")
        .stale_if_error(Duration::from_secs(60))
        .stale_while_revalidate(Duration::from_secs(60));
    let cache = Cache::builder().in_memory().space(stale).build().await.unwrap();
    let first = number_of("RINGTIDE_FUZZ_SEED", fastrand::u64(..u64::MAX / 2));
    for seed in first..first + number_of("RINGTIDE_FUZZ_ENTRIES", 3_000) {
        let mut rng = Rng::with_seed(seed);
        let whole = entry(&mut rng);
        let (damage, bytes) = damaged(&mut rng, &whole);
        let all = std::panic::AssertUnwindSafe(|| {
            check::<Product>(&cache, &whole, damage, &bytes);
            check::<Shape>(&cache, &whole, damage, &bytes);
            check::<serde_json::Value>(&cache, &whole, damage, &bytes);
            check::<String>(&cache, &whole, damage, &bytes);
            check::<Vec<u8>>(&cache, &whole, damage, &bytes);
            check::<Option<[u64; 3]>>(&cache, &whole, damage, &bytes);
            check::<()>(&cache, &whole, damage, &bytes);
        });
        if let Err(panic) = std::panic::catch_unwind(all) {
            eprintln!("the seed was {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
