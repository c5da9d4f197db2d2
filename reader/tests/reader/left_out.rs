//! A build without the features `messagepack` and `zstd` beside processes that have them.
#![cfg(not(any(feature = "messagepack", feature = "zstd")))]

use std::convert::Infallible;

use ringtide::{Codec, ConfigError, SpaceSettings};
use ringtide_core::entry::{Compression, Entry, Header};

use super::support::{Counters, Server, builder};

#[tokio::test]
async fn settings_that_need_a_feature_are_refused_with_its_name() {
    let server = Server::start().await;
    let settings = SpaceSettings::new("item", "item:{pk}").codec(Codec::MessagePack).compress_above(1000);
    let error = builder(&server).space(settings).build().await.unwrap_err();
    let ConfigError::Invalid { violations, .. } = &error else { panic!("{error}") };
    let places: Vec<_> = violations.iter().map(|violation| violation.place.as_str()).collect();
    assert_eq!(places, ["spaces.item.codec", "spaces.item.compress_above"]);
    for feature in ["feature \"messagepack\" of the crate ringtide", "feature \"zstd\" of the crate ringtide"] {
        assert!(error.to_string().contains(feature), "{error}");
    }
}

#[tokio::test]
async fn an_entry_that_needs_a_feature_is_a_counted_miss_and_is_replaced() {
    let server = Server::start().await;
    let counters = Counters::default();
    let cache = counters.build(builder(&server)).await;
    for (codec, compression) in [(Codec::MessagePack, Compression::None), (Codec::Json, Compression::Zstd)] {
        let header = Header { compression, ..Header::value(codec) };
        let entry = Entry { header, payload: (&b"\x01"[..]).into() }.to_bytes();
        redis::cmd("SET").arg("item").arg(&entry[..]).exec_async(&mut server.connection().await).await.unwrap();
        for _ in 0..2 {
            let load = || async { Ok::<_, Infallible>(Some(7_u64)) };
            assert_eq!(cache.get_or_load("item", load).await.unwrap(), Some(7));
            cache.settled().await;
        }
    }
    assert_eq!(counters.sum("ringtide_reader_misses_total", "undecodable"), 2);
    assert_eq!(counters.sum("ringtide_reader_loads_total", "loaded"), 2);
    assert_eq!(counters.sum("ringtide_reader_fills_total", "stored"), 2);
}
