//! Settings by hand and from a file.

use std::convert::Infallible;
use std::io::Write as _;
use std::time::Duration;

use ringtide::{Cache, ConfigError, Mode, SpaceSettings, config};

use super::support::Server;

#[tokio::test]
async fn every_wrong_setting_is_reported_at_once() {
    let error = Cache::builder()
        .shard("a", "127.0.0.1:1")
        .shard("a", "127.0.0.1:2")
        .space(SpaceSettings::new("product", "product:{pk"))
        .space(SpaceSettings::new("order", "order:{pk}").ttl_jitter(2.0).ttl(Duration::ZERO))
        .lease_ttl(Duration::from_millis(1))
        .build()
        .await
        .unwrap_err();
    let ConfigError::Invalid { violations, .. } = &error else { panic!("{error}") };
    let places: Vec<_> = violations.iter().map(|violation| violation.place.as_str()).collect();
    assert_eq!(
        places,
        ["spaces.product.key", "spaces.order.ttl_jitter", "spaces.order.ttl", "reader.lease_ttl", "ring"]
    );
}

#[tokio::test]
async fn settings_by_hand_are_held_to_the_bounds_of_a_file() {
    let valkey = config::Valkey {
        connections: 0,
        command_timeout: Duration::ZERO,
        connect_timeout: Duration::ZERO,
        username: Some("app".to_owned()),
        ..config::Valkey::default()
    };
    let reader = config::Reader {
        max_loads: usize::MAX,
        max_fallback_loads: 0,
        timeout: Some(Duration::ZERO),
        soft_timeout: Some(Duration::ZERO),
        breaker_pause: Duration::ZERO,
        max_attempts: 101,
        inline_max: usize::MAX,
        local_capacity: u64::MAX,
        retry_queue: usize::MAX,
        ..config::Reader::default()
    };
    let settle = SpaceSettings::new("a", "a:{pk}").mode(Mode::Settle { after: Duration::ZERO }).compress_above(0);
    let versioned = Mode::Versioned { attribute: String::new(), tombstone: Some(Duration::ZERO) };
    let versioned = SpaceSettings::new("b", "{pk}").mode(versioned);
    let error = Cache::builder()
        .shard("a", "127.0.0.1:1")
        .valkey(valkey)
        .reader(reader)
        .space(settle)
        .space(versioned)
        .build()
        .await
        .unwrap_err();
    let ConfigError::Invalid { violations, .. } = &error else { panic!("{error}") };
    let places: Vec<_> = violations.iter().map(|violation| violation.place.as_str()).collect();
    assert_eq!(
        places,
        [
            "spaces.a.settle",
            "spaces.a.compress_above",
            "spaces.b.key",
            "spaces.b.version_attribute",
            "spaces.b.tombstone",
            "reader.max_attempts",
            "reader.max_fallback_loads",
            "reader.inline_max",
            "reader.max_loads",
            "reader.local_capacity",
            "reader.retry_queue",
            "reader.timeout",
            "reader.soft_timeout",
            "reader.breaker_pause",
            "valkey.connections",
            "valkey.command_timeout",
            "valkey.connect_timeout",
            "valkey.username",
        ]
    );
}

#[cfg(feature = "memory")]
#[tokio::test]
async fn a_test_in_memory_never_writes_to_a_server() {
    for builder in [
        Cache::builder().in_memory().shard("a", "127.0.0.1:1"),
        Cache::builder().shard("a", "127.0.0.1:1").memory_shard(&ringtide::MemoryServer::new("b")),
    ] {
        let Err(ConfigError::Invalid { violations, .. }) = builder.build().await else { panic!("they mix") };
        assert_eq!(violations.len(), 1);
        assert!(violations[0].problem.contains("a is a server"), "{}", violations[0]);
    }
    assert!(Cache::builder().shard("a", "127.0.0.1:1").in_memory().build().await.is_ok());
}

#[cfg(feature = "memory")]
#[tokio::test]
async fn a_time_to_live_without_end_is_kept_for_as_long_as_a_server_can() {
    let endless =
        SpaceSettings::new("item", "item:{pk}").ttl(Duration::MAX).ttl_jitter(0.0).negative_ttl(Duration::MAX);
    let server = ringtide::MemoryServer::new("a");
    let cache = Cache::builder().memory_shard(&server).space(endless).build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    assert_eq!(items.get_or_load(1, || async { Ok::<_, std::io::Error>(Some(7)) }).await.unwrap(), Some(7));
    cache.settled().await;
    assert!(server.remaining("item:1").unwrap() > Duration::from_secs(99 * 365 * 86_400));
}

#[tokio::test]
async fn a_file_configures_the_reader_as_it_does_the_worker() {
    let server = Server::start().await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let address = server.address();
    write!(
        file,
        "[ring]\nshards = [{{ name = \"a\", address = \"{address}\" }}]\n\n\
         [spaces.product]\nkey = \"product:{{pk}}\"\nttl = \"10s\"\nttl_jitter = 0.0\n"
    )
    .unwrap();
    let cache = Cache::from_config_file(file.path()).await.unwrap();
    let products = cache.space::<String>("product").unwrap();
    let load = || async { Ok::<_, Infallible>(Some("tea".to_owned())) };
    assert_eq!(products.get_or_load(42, load).await.unwrap().as_deref(), Some("tea"));
    super::support::until("the fill", async || server.exists("product:42").await).await;
    let ttl: u64 = redis::cmd("PTTL").arg("product:42").query_async(&mut server.connection().await).await.unwrap();
    assert!((9_000..=10_000).contains(&ttl), "{ttl} ms");
    assert!(matches!(Cache::from_config_file("/nonexistent.toml").await, Err(ConfigError::Unreadable { .. })));
}
