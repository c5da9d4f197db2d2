use std::sync::Arc;

use super::*;
use crate::command::Image;
use crate::config::Config;
use crate::key::{KeySpace, Template};
use crate::record::{Attribute, Attributes, EventName, Stream};
use crate::ring::{Membership, Ring};
use crate::version::Version;

fn setup(extra: &str) -> (Router, RingHistory) {
    let text = format!(
        r#"
        [[ring.shards]]
        name = "a"
        address = "h:1"
        [[ring.shards]]
        name = "b"
        address = "h:2"
        [spaces.p]
        key = "p:{{pk}}"
        {extra}
        [[routes]]
        table = "t"
        space = "p"
        "#
    );
    let config = Config::parse(&text, []).unwrap();
    (Router::new(config.routes), RingHistory::new(Ring::new(config.ring).unwrap(), 1000))
}

fn record(pk: &str, version: u32) -> Result<ChangeRecord, UnreadableRecord> {
    let item = |names: &[(&str, Attribute)]| -> Box<dyn Attributes> {
        let map: std::collections::BTreeMap<String, Attribute> =
            names.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Box::new(map)
    };
    let pk = ("pk", Attribute::S(pk.to_owned()));
    Ok(ChangeRecord {
        stream: Arc::new(Stream { table: "t".into(), arn: "arn".into(), created_ms: 1 }),
        stream_shard: "s".into(),
        event: EventName::Insert,
        keys: item(std::slice::from_ref(&pk)),
        old: None,
        new: Some(item(&[pk, ("v", Attribute::N(version.to_string()))])),
        sequence: "1".parse().unwrap(),
        approximate_time_s: None,
        ttl_deletion: false,
    })
}

#[test]
fn one_command_a_key_and_page_with_the_highest_version() {
    let (router, ring) = setup("mode = \"versioned\"\nversion_attribute = \"v\"");
    let page = [record("1", 3), record("2", 1), record("1", 9), record("1", 5)];
    let plan = plan(&router, &ring, 0, &page);
    assert_eq!(plan.commands(), 2);
    assert_eq!(plan.counts.coalesced, 2);
    let of_one = plan.batches.iter().flat_map(|b| b.commands.iter()).find(|c| c.key.as_str() == "p:1").unwrap();
    assert_eq!(of_one.action, Action::Invalidate { version: Version::from_number(9) });
}

#[test]
fn batches_are_bounded_name_their_first_record_and_lie_on_the_owner() {
    let (router, ring) = setup("");
    let page: Vec<_> = (0..1000).map(|n| record(&n.to_string(), 0)).collect();
    let plan = plan(&router, &ring, 0, &page);
    assert_eq!(plan.commands(), 1000);
    for batch in &plan.batches {
        assert!(batch.commands.len() <= BATCH);
        let first = batch.commands[0].key.as_str().trim_start_matches("p:");
        assert_eq!(first, batch.first_record.to_string());
        assert!(batch.commands.iter().all(|c| *ring.owners(c.key.as_bytes(), 0).current() == batch.shard));
    }
}

#[test]
fn an_image_goes_to_the_owner_and_an_invalidation_to_those_before_it() {
    let (_, ring) = setup("");
    let alone = Membership {
        epoch: 2,
        shards: ring.current().membership().shards[..1].to_vec(),
        ..ring.current().membership().clone()
    };
    let changed = ring.change(alone, 5000).unwrap().unwrap().history;
    let space = Arc::new(KeySpace::new("p", Template::parse("p:{pk}").unwrap()));
    let version = Version::from_number(3);
    let refresh = |n: usize| {
        let key = space.template.render(&[n.into()]).unwrap();
        let action = Action::Refresh { version, image: Image::Deleted, populate: true };
        (Command { key, space: space.clone(), action }, 0)
    };
    let batches = place(&changed, 5500, (0..100).map(refresh).collect());
    let of = |shard: &str| -> Vec<&Command> {
        let theirs = batches.iter().filter(|batch| batch.shard.as_str() == shard);
        theirs.flat_map(|batch| batch.commands.iter()).collect()
    };
    assert_eq!(of("a").len(), 100);
    assert!(of("a").iter().all(|command| matches!(command.action, Action::Refresh { .. })));
    assert!((20..80).contains(&of("b").len()), "the earlier owner of about half of them is not told");
    assert!(of("b").iter().all(|command| command.action == Action::Invalidate { version }));
}

#[test]
fn a_settling_space_is_carried_out_twice() {
    let (router, ring) = setup("mode = \"settle\"\nsettle = \"3s\"");
    let plan = plan(&router, &ring, 0, &[record("1", 0)]);
    assert_eq!(plan.batches[0].settle, Some(Duration::from_secs(3)));
}

#[test]
fn a_drop_without_a_version_settles_where_loads_may_lag() {
    let lagging = "mode = \"versioned\"\nversion_attribute = \"other\"\nconsistent_loads = false\ntombstone = \"4s\"";
    let (router, ring) = setup(lagging);
    let dropped = plan(&router, &ring, 0, &[record("1", 0)]);
    assert_eq!(dropped.batches[0].settle, Some(Duration::from_secs(4)));
    let (router, ring) = setup(&lagging.replace("other", "v"));
    let compared = plan(&router, &ring, 0, &[record("1", 0)]);
    assert_eq!(compared.batches[0].settle, None, "its tombstone outlives the lag");
}

#[test]
fn a_deletion_by_the_time_to_live_is_counted_once() {
    let (router, ring) = setup("");
    let mut expired = record("1", 0);
    expired.as_mut().unwrap().ttl_deletion = true;
    let counts = plan(&router, &ring, 0, &[expired, record("2", 0)]).counts;
    assert_eq!(counts.ttl_deletions, std::collections::HashMap::from([("t".to_owned(), 1)]));
    assert_eq!(counts.records, std::collections::HashMap::from([("t".to_owned(), 2)]));
}

#[test]
fn an_unreadable_record_is_parked_and_holds_nothing_up() {
    let (router, ring) = setup("");
    let bad = UnreadableRecord { sequence: Some("7".parse().unwrap()), reason: "bad".into(), ..Default::default() };
    let plan = plan(&router, &ring, 5, &[record("1", 0), Err(bad)]);
    assert_eq!(plan.commands(), 1);
    let parked = &plan.parked[0];
    assert_eq!((parked.index, parked.record.sequence.unwrap().to_string()), (1, "7".to_owned()));
    assert_eq!((parked.record.parked_at_ms, parked.record.reason.as_str()), (5, "bad"));
}

#[test]
fn commands_of_different_kinds_for_one_key_become_a_drop_up_to_the_higher_version() {
    let (router, ring) = setup("");
    let page = [record("1", 0)];
    let command = plan(&router, &ring, 0, &page).batches[0].commands[0].clone();
    let refresh = Command {
        action: Action::Refresh {
            version: Version::from_number(1),
            image: crate::command::Image::Deleted,
            populate: false,
        },
        ..command.clone()
    };
    let newer = Command {
        action: Action::Refresh {
            version: Version::from_number(2),
            image: crate::command::Image::Deleted,
            populate: true,
        },
        ..command.clone()
    };
    let dropped = Action::Invalidate { version: Version::NONE };
    assert_eq!(refresh.clone().merge(command.clone()).action, dropped);
    assert_eq!(command.clone().merge(refresh.clone()).action, dropped);
    let two = Action::Invalidate { version: Version::from_number(2) };
    let invalidate = Command { action: two.clone(), ..command.clone() };
    assert_eq!(refresh.clone().merge(invalidate.clone()).action, two);
    assert_eq!(invalidate.merge(refresh.clone()).action, two);
    assert_eq!(refresh.clone().merge(newer.clone()), newer);
    assert_eq!(newer.clone().merge(refresh), newer);
}

#[test]
fn a_record_that_keys_do_not_lead_from_is_parked_as_it_came_and_drops_what_they_lead_to() {
    let (_, ring) = setup("");
    let text = r#"
        ring = { shards = [{ name = "a", address = "h:1" }, { name = "b", address = "h:2" }] }
        spaces = { p = { key = "p:{pk}" }, c = { key = "c:{category}" } }
        routes = [{ table = "t", space = "p" }, { table = "t", space = "c" }]
    "#;
    let router = Router::new(Config::parse(text, []).unwrap().routes);
    let content = r#"{"eventName":"INSERT","eventSourceARN":"arn:aws:dynamodb:eu-west-1:123456789012:table/t/stream/2026-01-02T03:04:05.678",
        "dynamodb":{"Keys":{"pk":{"S":"1"}},"NewImage":{"category":{"Q":"new"},"pk":{"S":"1"}},"SequenceNumber":"42"}}"#;
    let content = crate::record::RawRecord::parse(content.to_owned()).unwrap();
    let imageless = content.as_raw().get().replace("NewImage", "Left").replace("\"42\"", "\"43\"");
    let imageless = crate::record::RawRecord::parse(imageless).unwrap();
    let [content, imageless] = [&content, &imageless].map(|raw| crate::record::record_from_json(raw.as_raw()));
    let page = [record("2", 0), content, imageless];
    let plan = plan(&router, &ring, 0, &page);
    let keys: Vec<_> = plan.batches.iter().flat_map(|b| b.commands.iter()).map(|c| c.key.to_string()).collect();
    assert!(keys.contains(&"p:1".to_owned()), "{keys:?}");
    let parked = &plan.parked[0];
    assert_eq!(parked.index, 1);
    assert_eq!(parked.record.sequence.unwrap().to_string(), "42");
    assert!(parked.record.content.as_ref().unwrap().get().contains(r#"{"Q":"new"}"#));
    assert!(!parked.record.reason.contains("new\""), "{}", parked.record.reason);
    assert_eq!((plan.parked.len(), plan.counts.keys_only["t"]), (1, 1), "nothing of the other one cannot be decoded");
    assert_eq!(plan.counts.imageless["c"], 1, "and what it would lead to is not known");
}
