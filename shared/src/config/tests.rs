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
    assert_eq!(config.ring_window_ms(), 3_600_000 + 4 * 30_000 + 2 * 2_000 + 2 * 2_000);
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

#[test]
fn one_way_to_authenticate_and_what_it_needs() {
    let found = violations(&format!(
        "valkey = {{ username = \"u\", password = \"p\", password_secret = \"s\", iam_cache = \"c\" }}\n{MINIMAL}"
    ));
    for place in [
        "valkey.password_secret: ",
        "valkey.iam_cache: there is more",
        "valkey.iam_cache: authentication by IAM needs TLS",
    ] {
        assert!(found.iter().any(|violation| violation.starts_with(place)), "{place} is missing in {found:#?}");
    }
    assert!(!found.iter().any(|violation| violation.starts_with("valkey.username")), "{found:#?}");
    let lonely = violations(&format!("valkey = {{ iam_serverless = true }}\n{MINIMAL}"));
    assert!(lonely[0].starts_with("valkey.iam_serverless"), "{lonely:?}");

    let iam = "valkey = { username = \"u\", tls = true, iam_cache = \"c\", iam_serverless = true, cluster = true }";
    let config = parse(&format!("{iam}\n{MINIMAL}")).unwrap();
    assert_eq!(config.valkey.iam, Some(Iam { cache: "c".into(), serverless: true }));
    assert!(config.valkey.cluster);
}

#[test]
fn a_cluster_is_the_only_ring_shard() {
    let text = format!("valkey = {{ cluster = true }}\n{MINIMAL}\n[[ring.shards]]\nname = \"b\"\naddress = \"h:2\"\n");
    let found = violations(&text);
    assert!(found[0].starts_with("valkey.cluster"), "{found:?}");
}

#[test]
fn a_place_for_unreadable_records_is_read_by_its_scheme() {
    let park = |to: &str| parse(&format!("park = {{ to = {to:?} }}\n{MINIMAL}")).map(|config| config.park);
    let url = "https://sqs.eu-west-1.amazonaws.com/123456789012/parked";
    assert_eq!(park(url).unwrap(), Some(ParkTarget::Sqs { queue_url: url.to_owned() }));
    let s3 = |prefix: &str| Some(ParkTarget::S3 { bucket: "b".into(), prefix: prefix.into() });
    assert_eq!(park("s3://b").unwrap(), s3(""));
    assert_eq!(park("s3://b/x/y").unwrap(), s3("x/y/"));
    assert_eq!(park("file:///var/lib/parked").unwrap(), Some(ParkTarget::Directory("/var/lib/parked".into())));
    assert_eq!(park("").unwrap(), None);
    for bad in ["queue", "s3://", "file://relative", "ftp://h/x"] {
        let error = park(bad).unwrap_err();
        assert!(error.violations()[0].to_string().starts_with("park.to"), "{bad}: {error}");
    }
}

#[test]
fn earlier_memberships_and_how_shards_are_delivered_to_are_read() {
    let config = parse(&format!(
        "ring.epoch = 3\n[[ring.earlier]]\nepoch = 1\nshards = [{{ name = \"b\", address = \"h:2\" }}]\n\
         [delivery]\nredeliver_window = \"5m\"\nredeliver_keys = 0\ncheck_interval = \"1s\"\nwait_replicas = 2\n\
         wait_timeout = \"100ms\"\nwatch = \"10s\"\n{MINIMAL}"
    ))
    .unwrap();
    assert_eq!((config.earlier_rings.len(), config.earlier_rings[0].epoch), (1, 1));
    let expected = Delivery {
        redeliver_window: Duration::from_secs(300),
        redeliver_keys: 0,
        check_interval: Duration::from_secs(1),
        wait_replicas: 2,
        wait_timeout: Duration::from_millis(100),
        watch: Duration::from_secs(10),
    };
    assert_eq!(config.delivery, expected);
    assert_eq!(parse(MINIMAL).unwrap().delivery, Delivery::default());
}

#[test]
fn what_cannot_be_delivered_by_is_refused_with_its_place() {
    let text = "valkey = { cluster = true }\ndelivery = { wait_replicas = 1, wait_timeout = \"1s\", redeliver_keys = -1, x = 1 }\n\
                [ring]\nepoch = 2\nshards = [{ name = \"a\", address = \"h:1\" }]\n\
                [[ring.earlier]]\nepoch = 2\nshards = [{ name = \"a\" }, { name = \"b\", address = \"h:2\" }]\n";
    let found = violations(text);
    for place in [
        "ring.earlier[0].shards[0].address: ",
        "ring.earlier[0].epoch: ",
        "delivery.x: ",
        "delivery.wait_timeout: ",
        "delivery.wait_replicas: ",
        "delivery.redeliver_keys: ",
    ] {
        assert!(found.iter().any(|violation| violation.starts_with(place)), "{place} in {found:?}");
    }
}
