//! What reads are answered with: hits, misses, absences, and whatever else lies under a key.

use std::convert::Infallible;
use std::time::Duration;

use ringtide::{Error, Loaded, SpaceSettings};
use serde::{Deserialize, Serialize};

use super::support::{Counters, LONG, Origin, Server, builder, cache};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Product {
    pk: String,
    price: u64,
}

fn product(price: usize) -> Product {
    Product { pk: "42".into(), price: price as u64 }
}

async fn read(cache: &ringtide::Cache, key: &str, origin: &Origin) -> Result<Option<Product>, Error> {
    let origin = origin.clone();
    let load = move || {
        let origin = origin.clone();
        async move { Ok::<_, Infallible>(Some(product(origin.load().await))) }
    };
    tokio::time::timeout(LONG, cache.get_or_load(key, load)).await.expect("nobody hangs")
}

#[tokio::test]
async fn a_value_is_loaded_once_and_then_hit_by_one_plain_get() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::open());
    let cache = counters.build(builder(&server)).await;
    assert_eq!(read(&cache, "product:42", &origin).await.unwrap(), Some(product(1)));
    super::support::until("the fill", async || server.exists("product:42").await).await;
    assert_eq!(read(&cache, "product:42", &origin).await.unwrap(), Some(product(1)));
    server.forget_calls().await;
    assert_eq!(read(&cache, "product:42", &origin).await.unwrap(), Some(product(1)));
    assert_eq!((server.calls("get").await, server.calls("evalsha").await), (1, 0));
    assert_eq!(origin.loads(), 1);
    assert_eq!(counters.sum("ringtide_reader_hits_total", ""), 2);
    assert_eq!(counters.sum("ringtide_reader_misses_total", "absent"), 1);
    assert!(!server.exists("lock:{product:42}").await, "the fill ended the lease");
}

#[tokio::test]
async fn an_absence_is_cached_with_its_own_time_to_live() {
    let server = Server::start().await;
    let counters = Counters::default();
    let cache = counters.build(builder(&server).raw_ttl(Duration::from_secs(600), Duration::from_secs(30))).await;
    let origin = Origin::open();
    for _ in 0..3 {
        let origin = origin.clone();
        let load = move || {
            let origin = origin.clone();
            async move {
                origin.load().await;
                Ok::<Option<Product>, Infallible>(None)
            }
        };
        assert_eq!(cache.get_or_load("product:none", load).await.unwrap(), None);
        super::support::until("the fill", async || server.exists("product:none").await).await;
    }
    assert_eq!(origin.loads(), 1);
    assert_eq!(counters.sum("ringtide_reader_negatives_total", ""), 2);
    let ttl: u64 = redis::cmd("PTTL").arg("product:none").query_async(&mut server.connection().await).await.unwrap();
    assert!((1_000..=30_000).contains(&ttl), "{ttl} ms");
}

#[tokio::test]
async fn what_somebody_else_wrote_is_a_counted_miss_and_is_replaced() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::open());
    let cache = counters.build(builder(&server)).await;
    let mut connection = server.connection().await;
    let damaged: &[u8] = b"\x9eRT\x1a\x01\x01";
    let later_format: &[u8] = b"\x9eRT\x1a\x09rest";
    redis::pipe()
        .set("text", "{\"pk\":\"42\"}")
        .set("damaged", damaged)
        .set("later", later_format)
        .hset("hash", "field", "value")
        .rpush("list", "value")
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    for (at, key) in ["text", "damaged", "later", "hash", "list"].into_iter().enumerate() {
        assert_eq!(read(&cache, key, &origin).await.unwrap(), Some(product(at + 1)), "{key}");
        super::support::until("the fill", async || counters.sum("ringtide_reader_fills_total", "stored") > at as u64)
            .await;
        assert_eq!(read(&cache, key, &origin).await.unwrap(), Some(product(at + 1)), "{key} is cached now");
    }
    assert_eq!(origin.loads(), 5);
    for (reason, count) in [("foreign", 1), ("damaged", 1), ("unknown_format", 1), ("absent", 2)] {
        assert_eq!(counters.sum("ringtide_reader_misses_total", reason), count, "{reason}");
    }
}

#[tokio::test]
async fn an_entry_of_another_type_is_loaded_afresh_and_replaced() {
    let server = Server::start().await;
    let (counters, origin) = (Counters::default(), Origin::open());
    let cache = counters.build(builder(&server)).await;
    let text = || async { Ok::<_, Infallible>(Some("tea".to_owned())) };
    assert_eq!(cache.get_or_load("product:42", text).await.unwrap().as_deref(), Some("tea"));
    super::support::until("the fill", async || server.exists("product:42").await).await;
    assert_eq!(read(&cache, "product:42", &origin).await.unwrap(), Some(product(1)));
    super::support::until("the fill", async || counters.sum("ringtide_reader_fills_total", "stored") == 2).await;
    assert_eq!(read(&cache, "product:42", &origin).await.unwrap(), Some(product(1)));
    assert_eq!(origin.loads(), 1);
    assert_eq!(counters.sum("ringtide_reader_misses_total", "undecodable"), 1);
}

#[tokio::test]
async fn a_value_that_is_not_read_back_is_an_error_that_says_so() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Lopsided {
        #[serde(rename(serialize = "written", deserialize = "read"))]
        value: u64,
    }
    let server = Server::start().await;
    let cache = cache(&server).await;
    let load = || async { Ok::<_, Infallible>(Some(Lopsided { value: 1 })) };
    let error = cache.get_or_load("product:42", load).await.unwrap_err();
    assert!(matches!(&error, Error::Decode { key, .. } if key.as_str() == "product:42"), "{error}");
}

#[tokio::test]
async fn a_value_of_400_kb_comes_back_whole_and_wakes_waiters_without_travelling() {
    let server = Server::start().await;
    let (here, there, origin) = (cache(&server).await, cache(&server).await, Origin::held());
    let read = |cache: &ringtide::Cache| {
        let (cache, origin) = (cache.clone(), origin.clone());
        tokio::spawn(async move {
            let load = move || {
                let origin = origin.clone();
                async move {
                    origin.load().await;
                    Ok::<_, Infallible>(Some("x".repeat(400_000)))
                }
            };
            cache.get_or_load::<String, _, _, _, _>("large", load).await
        })
    };
    let holder = read(&here);
    origin.begun().await;
    let waiter = read(&there);
    super::support::until("the waiter's lease call", async || server.calls("append").await == 1).await;
    origin.allow(1);
    for task in [holder, waiter] {
        let value = tokio::time::timeout(LONG, task).await.unwrap().unwrap().unwrap().unwrap();
        assert!(value.len() == 400_000 && value.bytes().all(|byte| byte == b'x'));
    }
    assert_eq!(origin.loads(), 1);
}

#[tokio::test]
async fn a_space_renders_keys_and_a_loader_chooses_its_time_to_live() {
    let server = Server::start().await;
    let settings = SpaceSettings::new("line", "line:{order}:{number}").ttl(Duration::from_secs(500)).ttl_jitter(0.5);
    let cache = builder(&server).space(settings).build().await.unwrap();
    let lines = cache.space::<Product>("line").unwrap();
    let usual = || async { Ok::<_, Infallible>(Some(product(1))) };
    let short = || async { Ok::<_, Infallible>(Loaded::new(Some(product(2))).ttl(Duration::from_secs(5))) };
    assert_eq!(lines.get_or_load(("a:b", 7), usual).await.unwrap(), Some(product(1)));
    assert_eq!(lines.get_or_load(("c", 8), short).await.unwrap(), Some(product(2)));
    for (key, range) in [("line:a%3Ab:7", 249_000..=500_000), ("line:c:8", 1_000..=5_000)] {
        super::support::until("the fill", async || server.exists(key).await).await;
        let ttl: u64 = redis::cmd("PTTL").arg(key).query_async(&mut server.connection().await).await.unwrap();
        assert!(range.contains(&ttl), "{key}: {ttl} ms");
    }
    assert!(matches!(lines.get_or_load("one part", usual).await, Err(Error::Key(_))));
    let unknown = cache.space::<Product>("lines").unwrap_err().to_string();
    assert!(unknown.contains("\"lines\"") && unknown.contains("use one of: line"), "{unknown}");
}
