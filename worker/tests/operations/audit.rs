//! The audit.

use std::convert::Infallible;

use ringtide::Cache;
use ringtide_core::entry::{Codec, Compression};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::world::World;

/// Without a wait for the stream, since no worker runs.
const ARGUMENTS: [&str; 4] = ["audit", "--json", "--lag", "100ms"];

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_finds_what_is_stale_and_nothing_else_and_repairs_it() {
    let world = World::new().await;
    for (pk, price) in [("1", 10), ("2", 20), ("3", 30)] {
        world.put(pk, price).await;
        world
            .fill(&format!("product:{pk}"), None, Some(&format!(r#"{{"pk":"{pk}","price":{price}.0,"own":1}}"#)))
            .await;
        world.fill(&format!("price:{pk}"), Some(price.into()), Some("opaque")).await;
    }
    world.fill("product:none", None, None).await;
    world.fill("category:tea:top", None, Some("[1,2]")).await;
    world.cache_anything("page:1");
    let clean = world.run(&ARGUMENTS).await;
    let report = clean.json();
    assert_eq!((clean.code, &report["judged"], &report["stale"]), (Some(0), &7.into(), &0.into()), "{clean:?}");
    assert!(report["spaces"]["category"]["not_auditable"].as_str().unwrap().contains("many items"), "{clean:?}");
    assert_eq!((&report["spaces"]["product"]["absent"], &report["spaces"]["page"]["foreign"]), (&1.into(), &1.into()));
    assert_eq!(report["at_least"], true);

    // A value, a version, an absence, an item that is gone, and an entry on the wrong ring shard.
    world.put("1", 11).await;
    world.put("none", 1).await;
    world.delete("3").await;
    world.misplace("product:2", r#"{"pk":"2","price":20}"#).await;
    let found = world.run(&ARGUMENTS).await;
    let report = found.json();
    assert_eq!((found.code, &report["stale"], &report["misplaced"]), (Some(1), &5.into(), &1.into()), "{found:?}");
    assert_eq!(report["spaces"]["product"]["differing"]["price"], 1);
    let named = |key: &str| report["examples"].as_array().unwrap().iter().any(|example| example["key"] == key);
    assert!(["product:1", "price:1", "product:none", "product:3", "price:3", "product:2"].iter().all(|key| named(key)));

    let dry = world.run(&[&ARGUMENTS[..], &["--repair", "--dry-run"]].concat()).await;
    assert_eq!((dry.code, &dry.json()["would_repair"]), (Some(1), &6.into()), "{dry:?}");
    let repaired = world.run(&[&ARGUMENTS[..], &["--repair"]].concat()).await;
    assert_eq!((repaired.code, &repaired.json()["repaired"]), (Some(1), &6.into()), "{repaired:?}");
    let clean = world.run(&ARGUMENTS).await;
    assert_eq!((clean.code, &clean.json()["judged"]), (Some(0), &2.into()), "{clean:?}");
    assert!(world.is_cached("product:2"), "the one that its owner has was right");
}

#[derive(Clone, Serialize, Deserialize)]
struct Product {
    pk: String,
    price: f32,
    category: Option<String>,
    own: Vec<u8>,
}

/// Reads a key as an application does that has to load it.
async fn load<T>(cache: &Cache, space: &str, value: T)
where
    T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let load = move || {
        let value = value.clone();
        async move { Ok::<_, Infallible>(Some(value)) }
    };
    assert!(cache.space::<T>(space).unwrap().get_or_load("1", load).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_readers_store_is_judged_in_every_codec_but_raw_compressed_or_not() {
    const SPACES: [(&str, &str, Codec, Compression); 5] = [
        ("packed", "codec = \"messagepack\"", Codec::MessagePack, Compression::None),
        ("squeezed", "compress_above = 1", Codec::Json, Compression::Zstd),
        ("both", "codec = \"messagepack\"\ncompress_above = 1", Codec::MessagePack, Compression::Zstd),
        ("listed", "codec = \"messagepack\"", Codec::MessagePack, Compression::None),
        ("raw", "codec = \"raw\"\ncompress_above = 1", Codec::Raw, Compression::Zstd),
    ];
    let world = World::new().await;
    let section = |(name, settings, ..): &(&str, &str, _, _)| {
        format!(
            "[spaces.{name}]\nkey = \"{name}:{{pk}}\"\n{settings}\n\
             [[routes]]\ntable = \"products\"\nspace = \"{name}\"\n"
        )
    };
    world.configure(&SPACES.iter().map(section).collect::<String>());
    world.put("1", 10).await;
    let product = Product { pk: "1".into(), price: 10.0, category: Some("tea".into()), own: vec![7; 1000] };
    let cache = Cache::from_config_file(world.path("ringtide.toml")).await.unwrap();
    for space in ["packed", "squeezed", "both"] {
        load(&cache, space, product.clone()).await;
    }
    load(&cache, "listed", vec![product]).await;
    load(&cache, "raw", "tea ".repeat(100)).await;
    cache.settled().await;
    cache.close().await;
    for (name, _, codec, compression) in SPACES {
        let header = world.entry(&format!("{name}:1")).await.unwrap().header;
        assert_eq!((header.codec, header.compression), (codec, compression), "{name}");
    }

    let counts = |report: &serde_json::Value, count: &str| {
        SPACES.map(|(name, ..)| report["spaces"][name][count].as_u64().unwrap())
    };
    let fresh = world.run(&ARGUMENTS).await;
    assert_eq!((fresh.code, counts(&fresh.json(), "fresh")), (Some(0), [1, 1, 1, 1, 0]), "{fresh:?}");
    world.put("1", 11).await;
    let stale = world.run(&ARGUMENTS).await;
    let report = stale.json();
    assert_eq!((stale.code, counts(&report, "stale")), (Some(1), [1, 1, 1, 1, 0]), "{stale:?}");
    assert_eq!((counts(&report, "fresh"), &report["judged"]), ([0; 5], &4.into()), "{stale:?}");
    assert_eq!(report["spaces"]["both"]["differing"]["price"], 1, "{stale:?}");
    assert_eq!(report["spaces"]["raw"]["unjudged"]["its payload is raw"], 1, "{stale:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_behind_by_the_lag_is_not_stale() {
    let world = World::new().await;
    world.put("1", 10).await;
    world.fill("product:1", None, Some(r#"{"pk":"1","price":9}"#)).await;
    // The invalidation comes while the audit waits.
    let audit = world.run(&["audit", "--json", "--lag", "3s"]);
    let invalidated = async {
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        let _worker = world.start(&["run"]);
        world.dropped("product:1").await;
    };
    let (audit, ()) = tokio::join!(audit, invalidated);
    let report = audit.json();
    assert_eq!((audit.code, &report["stale"]), (Some(0), &0.into()), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_and_one_space_are_looked_at_and_a_dead_ring_shard_is_told() {
    let mut world = World::new().await;
    for number in 0..20 {
        let pk = number.to_string();
        world.put(&pk, 1).await;
        world.fill(&format!("product:{pk}"), None, Some(r#"{"price":1}"#)).await;
        world.fill(&format!("price:{pk}"), Some(1), Some("opaque")).await;
    }
    let sampled = world.run(&["audit", "--json", "--space", "product", "--sample", "5"]).await;
    let report = sampled.json();
    let product = &report["spaces"]["product"];
    assert_eq!((sampled.code, &product["listed"], &product["looked_at"]), (Some(0), &20.into(), &5.into()));
    assert_eq!(report["spaces"].as_object().unwrap().len(), 1);
    let wrong = world.run(&["audit", "--space", "nothing"]).await;
    assert!(wrong.code == Some(2) && wrong.said.contains("product"), "{wrong:?}");

    world.servers[0].kill();
    let half = world.run(&["audit", "--json"]).await;
    assert_eq!(half.code, Some(1), "{half:?}");
    assert!(half.json()["unreachable"][0].as_str().unwrap().contains("s0"), "{half:?}");
}
