use std::collections::BTreeMap;

use super::*;
use crate::config::Config;
use crate::record::{JsonImage, Stream};

fn router(config: &str) -> Router {
    let text = format!("[[ring.shards]]\nname = \"a\"\naddress = \"h:1\"\n{config}");
    Router::new(Config::parse(&text, []).unwrap().routes)
}

fn image(json: &str) -> Box<dyn Attributes> {
    Box::new(JsonImage::new(serde_json::value::RawValue::from_string(json.to_owned()).unwrap()))
}

fn record(event: EventName, old: Option<&str>, new: Option<&str>) -> ChangeRecord {
    ChangeRecord {
        stream: Arc::new(Stream { table: "t".into(), arn: "arn".into(), created_ms: 5 }),
        stream_shard: "shard".into(),
        event,
        keys: image(r#"{"pk":{"S":"1"}}"#),
        old: old.map(image),
        new: new.map(image),
        sequence: "77".parse().unwrap(),
        approximate_time_s: None,
        ttl_deletion: false,
    }
}

fn routed(router: &Router, record: &ChangeRecord) -> (Vec<String>, Routed) {
    let mut commands = Vec::new();
    let routed = router.route(record, &mut |command| commands.push(show(&command)));
    (commands, routed)
}

/// A command in one line, with the version's name where it has one.
fn show(command: &Command) -> String {
    let version = |version: &Version| {
        let sequence = Version::from_sequence(5, &"77".parse().unwrap());
        let numbers = (0..10).flat_map(|n| {
            let version = Version::from_number(n);
            [(version, format!("v{n}")), (version.just_above(), format!("v{n}+"))]
        });
        let known: BTreeMap<Version, String> =
            numbers.chain([(Version::NONE, "always".into()), (sequence, "seq".into())]).collect();
        known[version].clone()
    };
    match &command.action {
        Action::Invalidate { version: v } => format!("drop {} {}", command.key, version(v)),
        Action::Refresh { version: v, image: Image::Json(json), populate } => {
            format!("store {} {} {} {populate}", command.key, version(v), String::from_utf8_lossy(json))
        }
        Action::Refresh { version: v, image: Image::Deleted, populate } => {
            format!("store {} {} nothing {populate}", command.key, version(v))
        }
    }
}

const CATEGORY: &str = "[spaces.c]\nkey = \"c:{cat}\"\n[[routes]]\ntable = \"t\"\nspace = \"c\"\n";
const ITEM: &str = "[spaces.p]\nkey = \"p:{pk}\"\n[[routes]]\ntable = \"t\"\nspace = \"p\"\n";

#[test]
fn old_and_new_key_are_invalidated_where_they_differ() {
    let router = router(CATEGORY);
    let item = |cat: &str| format!(r#"{{"pk":{{"S":"1"}},"cat":{{"S":"{cat}"}}}}"#);
    let (a, b) = (item("a"), item("b"));
    for (event, old, new, expected) in [
        (EventName::Insert, None, Some(&a), vec!["drop c:a always"]),
        (EventName::Modify, Some(&a), Some(&b), vec!["drop c:a always", "drop c:b always"]),
        (EventName::Modify, Some(&a), Some(&a), vec!["drop c:a always"]),
        (EventName::Remove, Some(&b), None, vec!["drop c:b always"]),
    ] {
        let record = record(event, old.map(String::as_str), new.map(String::as_str));
        assert_eq!(routed(&router, &record).0, expected);
    }
    // A sparse attribute that appears: only the new image has a key.
    let record = record(EventName::Modify, Some(r#"{"pk":{"S":"1"}}"#), Some(&a));
    assert_eq!(routed(&router, &record).0, ["drop c:a always"]);
}

#[test]
fn a_key_of_the_primary_key_needs_no_image() {
    let (commands, routed) = routed(&router(ITEM), &record(EventName::Modify, Some("\"broken\""), None));
    assert_eq!(commands, ["drop p:1 always"]);
    assert!(routed.keys_only.is_none());
}

#[test]
fn events_and_unchanged_attributes_are_filtered() {
    let router = router(&format!("{ITEM}on = [\"MODIFY\", \"REMOVE\"]\nwhen_changed = [\"price\"]\n"));
    let item = |price: &str| format!(r#"{{"pk":{{"S":"1"}},"price":{{"N":"{price}"}}}}"#);
    let (one, two) = (item("1"), item("2"));
    assert!(routed(&router, &record(EventName::Insert, None, Some(&one))).0.is_empty());
    assert!(routed(&router, &record(EventName::Modify, Some(&one), Some(&one))).0.is_empty());
    assert_eq!(routed(&router, &record(EventName::Modify, Some(&one), Some(&two))).0.len(), 1);
    assert_eq!(routed(&router, &record(EventName::Remove, Some(&one), None)).0.len(), 1);
    // An image that is missing proves nothing about what has changed.
    assert_eq!(routed(&router, &record(EventName::Modify, None, Some(&two))).0.len(), 1);
}

#[test]
fn versions_come_from_the_item_and_a_deletion_is_just_above() {
    let router = router(&ITEM.replace("[[routes]]", "mode = \"versioned\"\nversion_attribute = \"v\"\n[[routes]]"));
    let item = |v: u32| format!(r#"{{"pk":{{"S":"1"}},"v":{{"N":"{v}"}}}}"#);
    let (three, four) = (item(3), item(4));
    assert_eq!(routed(&router, &record(EventName::Modify, Some(&three), Some(&four))).0, ["drop p:1 v4"]);
    assert_eq!(routed(&router, &record(EventName::Remove, Some(&four), None)).0, ["drop p:1 v4+"]);
    let (commands, routed) = routed(&router, &record(EventName::Insert, None, Some(r#"{"pk":{"S":"1"}}"#)));
    assert_eq!(commands, ["drop p:1 always"]);
    assert_eq!(routed.version_missing.len(), 1);
}

#[test]
fn a_refresh_stores_the_projection_of_the_new_image() {
    let router = router(&format!("{ITEM}action = \"refresh\"\nprojection = [\"pk\", \"n\"]\npopulate = true\n"));
    let new = r#"{"pk":{"S":"1"},"n":{"N":"2.50"},"other":{"Q":"unread"}}"#;
    assert_eq!(
        routed(&router, &record(EventName::Modify, None, Some(new))).0,
        [r#"store p:1 seq {"pk":"1","n":2.5} true"#]
    );
    assert_eq!(routed(&router, &record(EventName::Remove, Some(new), None)).0, ["store p:1 seq nothing true"]);
    // Without the image there is nothing to store, and dropping is always right.
    assert_eq!(routed(&router, &record(EventName::Modify, None, None)).0, ["drop p:1 seq"]);
}

#[test]
fn an_undecodable_image_still_invalidates_by_the_keys() {
    let both = router(&format!("{ITEM}{CATEGORY}"));
    let broken = r#"{"cat":{"S":7}}"#;
    let (commands, routed_both) = routed(&both, &record(EventName::Modify, Some(broken), Some(broken)));
    assert_eq!(commands, ["drop p:1 always"]);
    assert!(routed_both.keys_only.is_some());
    assert_eq!(routed_both.unreachable, ["routes[1]"]);
    let mut keyless = record(EventName::Remove, None, None);
    keyless.keys = image("7");
    assert_eq!(routed(&both, &keyless).1.unreachable, ["routes[0]", "routes[1]"]);
}

#[test]
fn a_record_without_the_image_that_tells_its_keys_is_told_apart_from_one_without_such_keys() {
    let both = router(&format!("{ITEM}{CATEGORY}"));
    let (with, without) = (Some(r#"{"cat":{"S":"a"}}"#), Some(r#"{"n":{"N":"1"}}"#));
    for (event, old, new, imageless) in [
        (EventName::Insert, None, None, true),
        (EventName::Modify, None, None, true),
        (EventName::Remove, None, None, true),
        (EventName::Insert, None, with, false),
        (EventName::Modify, None, with, false),
        (EventName::Remove, with, None, false),
        (EventName::Insert, None, without, false),
        (EventName::Modify, without, without, false),
        (EventName::Remove, without, None, false),
    ] {
        let (commands, routed) = routed(&both, &record(event, old, new));
        assert_eq!(commands[0], "drop p:1 always");
        assert_eq!(routed.imageless.len(), usize::from(imageless), "{event:?} {old:?} {new:?}");
        assert!(routed.imageless.iter().all(|space| &**space == "c") && routed.unreachable.is_empty());
    }
    let removals = router(&format!("{CATEGORY}on = [\"REMOVE\"]\n"));
    assert!(routed(&removals, &record(EventName::Insert, None, None)).1.imageless.is_empty());
}

#[test]
fn what_no_key_is_made_of_is_counted() {
    let (commands, routed) = routed(&router(CATEGORY), &record(EventName::Insert, None, Some(r#"{"cat":{"L":[]}}"#)));
    assert!(commands.is_empty());
    assert_eq!(routed.unrenderable.len(), 1);
    let long = format!(r#"{{"cat":{{"S":"{}"}}}}"#, "x".repeat(400_000));
    assert_eq!(self::routed(&router(CATEGORY), &record(EventName::Insert, None, Some(&long))).1.unrenderable.len(), 1);
}
