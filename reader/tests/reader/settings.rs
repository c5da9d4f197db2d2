//! Settings by hand and from a file.

use std::convert::Infallible;
use std::io::Write as _;
use std::time::Duration;

use ringtide::{Cache, ConfigError, SpaceSettings, config};

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
        ..config::Valkey::default()
    };
    let reader = config::Reader {
        max_loads: usize::MAX,
        max_fallback_loads: 0,
        timeout: Some(Duration::ZERO),
        soft_timeout: Some(Duration::ZERO),
        breaker_pause: Duration::ZERO,
        ..config::Reader::default()
    };
    let error = Cache::builder().shard("a", "127.0.0.1:1").valkey(valkey).reader(reader).build().await.unwrap_err();
    let ConfigError::Invalid { violations, .. } = &error else { panic!("{error}") };
    let places: Vec<_> = violations.iter().map(|violation| violation.place.as_str()).collect();
    assert_eq!(
        places,
        [
            "reader.max_fallback_loads",
            "reader.max_loads",
            "reader.timeout",
            "reader.soft_timeout",
            "reader.breaker_pause",
            "valkey.connections",
            "valkey.command_timeout",
            "valkey.connect_timeout",
        ]
    );
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
