//! How values are encoded: what a key space writes, and what it reads of others.
#![cfg(all(feature = "messagepack", feature = "zstd"))]

use std::convert::Infallible;
use std::sync::Arc;

use ringtide::{CacheKey, Codec, Error, Mode, SpaceSettings, Version};
use ringtide_core::command::{Action, Command, Image};
use ringtide_core::entry::{Compression, Entry};
use ringtide_core::key::KeySpace;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::support::{Counters, Origin, Server, builder};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Product {
    name: String,
    stock: Option<u64>,
}

fn product(number: usize) -> Product {
    Product { name: "tea ".repeat(500), stock: Some(number as u64) }
}

async fn bytes_of(server: &Server, key: &str) -> Vec<u8> {
    redis::cmd("GET").arg(key).query_async(&mut server.connection().await).await.unwrap()
}

async fn entry_of(server: &Server, key: &str) -> Entry {
    Entry::parse(&bytes_of(server, key).await.into()).unwrap()
}

/// Reads item 1 as a process does whose settings these are; what it stores is there afterwards.
async fn read<T: Serialize + DeserializeOwned + Send + Sync + 'static>(
    server: &Server,
    counters: &Counters,
    settings: SpaceSettings,
    origin: &Origin,
    value: impl Fn(usize) -> T + Clone + Send + Sync + 'static,
) -> Result<Option<T>, Error> {
    let cache = counters.build(builder(server).space(settings)).await;
    let origin = origin.clone();
    let load = move || {
        let (origin, value) = (origin.clone(), value.clone());
        async move { Ok::<_, Infallible>(Some(value(origin.load().await))) }
    };
    let read = cache.space::<T>("item").unwrap().get_or_load(1, load).await;
    cache.settled().await;
    read
}

fn item(codec: Codec) -> SpaceSettings {
    SpaceSettings::new("item", "item:{pk}").codec(codec)
}

#[tokio::test]
async fn a_key_space_changes_its_codec_without_a_flush() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::open());
    let settings = [
        item(Codec::Json),
        item(Codec::MessagePack),
        item(Codec::Json).compress_above(100),
        item(Codec::MessagePack).compress_above(100),
    ];
    let written = [
        (Codec::Json, Compression::None),
        (Codec::MessagePack, Compression::None),
        (Codec::Json, Compression::Zstd),
        (Codec::MessagePack, Compression::Zstd),
    ];
    for (at, (writer, written)) in settings.iter().zip(written).enumerate() {
        redis::cmd("FLUSHALL").exec_async(&mut server.connection().await).await.unwrap();
        for reader in std::iter::once(writer).chain(&settings) {
            let found = read(&server, &counters, reader.clone(), &origin, product).await.unwrap();
            assert_eq!(found, Some(product(at + 1)), "written as {written:?}");
        }
        let header = entry_of(&server, "item:1").await.header;
        assert_eq!((header.codec, header.compression), written);
    }
    assert_eq!(origin.loads(), settings.len());
}

#[tokio::test]
async fn raw_texts_lie_in_the_entry_as_they_are_and_other_types_are_refused() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::open());
    let text = |_| "<p>tea</p>".to_owned();
    assert_eq!(read(&server, &counters, item(Codec::Raw), &origin, text).await.unwrap().unwrap(), text(1));
    assert_eq!(entry_of(&server, "item:1").await.payload, text(1));
    let bytes = read(&server, &counters, item(Codec::Raw), &origin, |_| vec![0_u8]).await.unwrap();
    assert_eq!(bytes.unwrap(), text(1).as_bytes());
    assert_eq!(origin.loads(), 1);
    redis::cmd("FLUSHALL").exec_async(&mut server.connection().await).await.unwrap();
    let error = read(&server, &counters, item(Codec::Raw), &origin, product).await.unwrap_err();
    assert!(matches!(error, Error::Encode { .. }), "{error}");
    assert!(error.to_string().contains("not a struct; use the codec json or messagepack"), "{error}");
}

#[tokio::test]
async fn a_refresh_in_json_is_read_by_a_key_space_in_messagepack() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::open());
    let versioned = Mode::Versioned { attribute: "v".to_owned(), tombstone: None };
    let settings = || item(Codec::MessagePack).compress_above(100).mode(versioned.clone());
    assert_eq!(read(&server, &counters, settings(), &origin, product).await.unwrap(), Some(product(1)));
    let space = {
        let cache = builder(&server).space(settings()).build().await.unwrap();
        Arc::new(KeySpace::clone(cache.space::<Product>("item").unwrap().settings()))
    };
    let image = Image::Json(serde_json::to_vec(&product(7)).unwrap().into());
    let action = Action::Refresh { version: Version::from_number(2), image, populate: false };
    let refresh = Command { key: CacheKey::new("item:1").unwrap(), space, action };
    assert_eq!(server.shard().await.apply(&[refresh], 0).await.unwrap().refreshed, 1);
    assert_eq!(read(&server, &counters, settings(), &origin, product).await.unwrap(), Some(product(7)));
    assert_eq!(entry_of(&server, "item:1").await.header.codec, Codec::Json);
}

#[tokio::test]
async fn a_damaged_payload_is_a_counted_miss_and_is_replaced() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::open());
    let settings = item(Codec::MessagePack).compress_above(100);
    assert_eq!(read(&server, &counters, settings.clone(), &origin, product).await.unwrap(), Some(product(1)));
    let mut damaged = bytes_of(&server, "item:1").await;
    let middle = 80 + (damaged.len() - 80) / 2;
    damaged[middle] ^= 1;
    redis::cmd("SET").arg("item:1").arg(&damaged).exec_async(&mut server.connection().await).await.unwrap();
    for _ in 0..2 {
        assert_eq!(read(&server, &counters, settings.clone(), &origin, product).await.unwrap(), Some(product(2)));
    }
    assert_eq!(counters.sum("ringtide_reader_misses_total", "undecodable"), 1);
    assert_eq!(counters.sum("ringtide_reader_fills_total", "stored"), 2);
}
