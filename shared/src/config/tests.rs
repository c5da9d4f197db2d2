use super::*;
use crate::key::Mode;
use crate::record::EventName;
use crate::route::RouteAction;

const MINIMAL: &str = r#"
[[ring.shards]]
name = "a"
address = "127.0.0.1:6379"

[spaces.product]
key = "product:{pk}"

[[routes]]
table = "products"
space = "product"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, [])
}

fn violations(text: &str) -> Vec<String> {
    parse(text).unwrap_err().violations().iter().map(ToString::to_string).collect()
}

#[test]
fn a_few_lines_are_enough() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.routes[0].on, EventName::ALL);
    assert_eq!(config.routes[0].action, RouteAction::Invalidate);
    assert_eq!(config.routes[0].attributes, ["pk"]);
    assert_eq!(config.spaces["product"].mode, Mode::Plain);
    assert_eq!(config.longest_ttl_ms(), 3_600_000);
}

#[test]
fn every_setting_is_read() {
    let config = parse(
        r#"
        aws = { region = "eu-west-1", endpoint_url = "http://127.0.0.1:4566" }
        valkey = { username = "app", password = "hush", tls = true, connections = 2, command_timeout = "250ms" }
        worker = { application = "cdc", listen = "", idle_poll = "2s", log_capacity = 5000 }
        reader = { lease_ttl = "3s", max_attempts = 7 }
        ring = { placement = "go-redis", epoch = 3, shards = [{ name = "a", address = "h:1", weight = 1 }] }
        [spaces.product]
        key = "product:{id}"
        mode = "versioned"
        version_attribute = "rev"
        consistent_loads = false
        ttl = "5m"
        [[routes]]
        table = "t"
        space = "product"
        attributes = { id = "pk" }
        on = ["INSERT", "MODIFY"]
        when_changed = ["price"]
        action = "refresh"
        projection = ["pk", "price"]
        "#,
    )
    .unwrap();
    assert_eq!(config.valkey.password.as_ref().map(Secret::reveal), Some("hush"));
    assert_eq!(config.worker.listen, None);
    assert_eq!(config.routes[0].attributes, ["pk"]);
    let tombstone = Some(std::time::Duration::from_secs(10));
    assert_eq!(config.spaces["product"].mode, Mode::Versioned { attribute: "rev".into(), tombstone });
}

#[test]
fn all_violations_are_told_at_once_with_place_and_remedy() {
    let found = violations(
        r#"
        speling = 1
        [[ring.shards]]
        name = "a"
        address = "h:1"
        [[ring.shards]]
        name = "a"
        address = "h:2"
        [spaces.one]
        key = "one:{pk"
        [spaces.two]
        key = "{pk}"
        mode = "fast"
        ttl = "5 minutes"
        [spaces.three]
        key = "three:{pk}"
        mode = "versioned"
        [spaces.four]
        key = "four:{pk}"
        settle = "1s"
        [[routes]]
        table = "t"
        space = "nowhere"
        [[routes]]
        table = "t"
        space = "four"
        attributes = { id = "pk" }
        on = ["DELETE"]
        action = "invalidate"
        populate = true
        [worker]
        idle_pol = "1s"
        log_capacity = 1
        [valkey]
        username = "app"
        "#,
    );
    let expected = [
        "speling: ",
        "ring: ",
        "spaces.one.key: ",
        "spaces.two.key: ",
        "spaces.two.mode: ",
        "spaces.two.ttl: ",
        "spaces.three.version_attribute: ",
        "spaces.four.settle: ",
        "routes[0].space: ",
        "routes[1].attributes: ",
        "routes[1].on: ",
        "routes[1].populate: ",
        "worker.idle_pol: ",
        "worker.log_capacity: ",
        "valkey.username: ",
    ];
    for place in expected {
        assert!(found.iter().any(|violation| violation.starts_with(place)), "{place} is missing in {found:#?}");
    }
}

#[test]
fn two_tables_cannot_feed_a_space_that_compares_versions() {
    let text = format!("{MINIMAL}\naction = \"refresh\"\n[[routes]]\ntable = \"others\"\nspace = \"product\"\n");
    let found = violations(&text);
    assert!(found[0].contains("routes[0]") && found[0].contains("\"others\""), "{found:?}");
}

#[test]
fn the_environment_overrides_the_file() {
    let env = [
        ("RINGTIDE_WORKER_IDLE_POLL", "3s"),
        ("RINGTIDE_WORKER_LOG_CAPACITY", "7000"),
        ("RINGTIDE_VALKEY_PASSWORD", "12345"),
        ("RINGTIDE_RING_SHARDS", r#"[{ name = "z", address = "h:9" }]"#),
        ("HOME", "/"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::parse(MINIMAL, env).unwrap();
    assert_eq!(config.worker.idle_poll, Duration::from_secs(3));
    assert_eq!(config.worker.log_capacity, 7000);
    assert_eq!(config.valkey.password.as_ref().map(Secret::reveal), Some("12345"));
    assert_eq!(config.ring.shards[0].address, "h:9");
}

#[test]
fn no_error_and_no_debug_text_shows_a_password() {
    let config = parse(&format!("valkey = {{ password = \"hush\" }}\n{MINIMAL}")).unwrap();
    assert!(!format!("{config:?}").contains("hush"));
    for malformed in [
        "[valkey]\npassword = \"hush\" x",
        "[valkey]\npassword = [\"hush\"]",
        "valkey = { password = \"hush\", tls = 3 }",
    ] {
        let error = parse(malformed).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(std::path::Path::new("/nowhere/ringtide.toml"), []).unwrap_err().to_string();
    assert!(error.contains("/nowhere/ringtide.toml"), "{error}");
}
