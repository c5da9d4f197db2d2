//! Where keys live, and what removes them.

use ringtide_core::entry::{Codec, Entry, Header};
use ringtide_core::version::Version;
use ringtide_servers::ValkeyCluster;

use super::world::{World, eventually};

/// An entry with a version, whose value must never be shown.
fn entry() -> Vec<u8> {
    let header = Header { version: Version::from_number(7), soft_expiry_ms: 1, ..Header::value(Codec::Json) };
    Entry { header, payload: "\"hush\"".into() }.to_bytes().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_located_under_every_placement_with_the_header_of_its_entry() {
    let world = World::new(3, "").await;
    let at = world.cache("product:1", &entry()).await;
    world.cache("product:2", b"foreign hush").await;
    world.servers[at].ask(&["SET", "lock:{product:1}", "RTL", "PX", "60000"]).unwrap();
    let ran = world.run(&["locate", "product:1", "product:2", "product:3", "--entry", "--json"]).await.expect(0);
    assert!(!ran.out.contains("hush"), "{}", ran.out);
    let located = ran.json();
    let found = &located[0]["entries"][0];
    assert_eq!(located[0]["lock"], "lock:{product:1}");
    assert_eq!(found["entry"]["state"], "value");
    assert!(found["entry"]["version"].as_str().unwrap().ends_with("0800000000"), "{found}");
    assert!(found["entry"]["ttl_ms"].as_u64().unwrap() <= 600_000);
    assert!(found["lock_ttl_ms"].as_u64().unwrap() <= 60_000);
    assert!(located[1]["entries"][0]["entry"]["not_an_entry"].as_str().unwrap().contains("not written by ringtide"));
    assert!(located[2]["entries"][0]["entry"].is_null());
    let placements: Vec<_> =
        located[0]["placements"].as_array().unwrap().iter().map(|p| p["placement"].as_str().unwrap()).collect();
    assert_eq!(placements, ["ringtide", "skipper", "go-redis"]);
    assert!(located[0]["placements"].as_array().unwrap().iter().all(|placed| placed["ring_shard"].is_string()));

    let text = world.run(&["locate", "product:1", "--entry"]).await.expect(0).out;
    for part in ["ring shard", "lock:{product:1}", "under skipper", "value, 86 B", "no longer fresh", "lease held"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    world.run(&["locate", ""]).await.expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn earlier_owners_are_told_and_asked_and_a_ring_shard_that_is_down_is_an_error() {
    let mut world = World::new(2, "").await;
    let both = std::fs::read_to_string(world.config()).unwrap();
    // Earlier, everything was on the first ring shard.
    let (first, rest) = both.split_once("[[ring.shards]]\nname = \"b\"").unwrap();
    let rest = rest.split_once("[spaces").unwrap().1;
    std::fs::write(world.path("earlier.toml"), format!("{first}[spaces{rest}")).unwrap();
    let changed = ringtide_core::clock::unix_ms();
    std::fs::write(world.config(), format!("ring.epoch = 2\nring.changed_at_ms = {changed}\n{both}")).unwrap();
    let earlier = world.path("earlier.toml");
    let mut moved = None;
    for pk in 0..100 {
        let key = format!("product:{pk}");
        let located = world
            .run(&["locate", &key, "--earlier", earlier.to_str().unwrap(), "--entry", "--json"])
            .await
            .expect(0)
            .json();
        if located[0]["ring_shard"] == "b" {
            assert_eq!(located[0]["earlier_owners"], serde_json::json!(["a"]));
            assert_eq!(located[0]["entries"].as_array().unwrap().len(), 2);
            moved = Some(key);
            break;
        }
    }
    let moved = moved.expect("a key on the second ring shard");
    world.servers[1].kill();
    let ran = world.run(&["locate", &moved, "--entry", "--json"]).await.expect(1);
    assert!(ran.json()[0]["entries"][0]["error"].as_str().unwrap().contains("cannot be reached"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_invalidated_on_their_ring_shards_however_they_are_named() {
    let mut world = World::new(3, "").await;
    let mut all = Vec::new();
    for pk in 1..=6 {
        let key = format!("product:{pk}");
        world.cache(&key, b"old").await;
        all.push(key);
    }
    world.cache("category:tea:top", b"old").await;
    let dropped = |report: &serde_json::Value| -> u64 {
        report["ring_shards"].as_array().unwrap().iter().map(|shard| shard["dropped"].as_u64().unwrap()).sum()
    };
    let by_space = ["invalidate", "--space", "product", "--key", "pk=1", "--key", "pk=2", "--json"];
    let dry = world.run(&[&by_space[..], &["--dry-run"]].concat()).await.expect(0).json();
    assert_eq!(dry["keys"].as_array().unwrap().len(), 2);
    assert!(world.cached("product:1"), "nothing was done");
    assert_eq!(dropped(&world.run(&by_space).await.expect(0).json()), 2);
    assert!(!world.cached("product:1") && !world.cached("product:2") && world.cached("product:3"));

    let raw =
        world.run(&["invalidate", "--raw-key", "product:3", "--raw-key", "product:none", "--json"]).await.expect(0);
    assert_eq!(dropped(&raw.json()), 1);
    let item = r#"{"pk":{"S":"4"},"category":{"S":"tea"}}"#;
    let by_item = world.run(&["invalidate", "--table", "products", "--item", item]).await.expect(0);
    assert!(by_item.out.contains("product:4") && by_item.out.contains("category:tea:top"), "{}", by_item.out);
    assert!(!world.cached("product:4") && !world.cached("category:tea:top"));
    let partly = world.run(&["invalidate", "--table", "products", "--item", r#"{"pk":"5"}"#]).await.expect(0);
    assert!(
        partly.out.contains("no key at routes[1]: the item has no category") && !world.cached("product:5"),
        "{}",
        partly.out
    );

    for (wrong, word) in [
        (&["invalidate", "--space", "none", "--key", "pk=1"][..], "category"),
        (&["invalidate", "--raw-key", "other:1"], "other:1"),
        (&["invalidate", "--table", "products", "--item", "7"], "--item 1"),
        (&["invalidate"], "--raw-key"),
    ] {
        let ran = world.run(wrong).await.expect(2);
        assert!(ran.err.contains(word), "{}", ran.err);
    }

    // The ring shard that is down is named, and the others do their part.
    let at = world.cache("product:6", b"old").await;
    world.servers[at].kill();
    let keys: Vec<String> = (1..=6).map(|pk| format!("pk={pk}")).collect();
    let mut arguments = vec!["invalidate", "--space", "product", "--timeout", "2", "--json"];
    keys.iter().for_each(|key| arguments.extend(["--key", key]));
    let ran = world.run(&arguments).await.expect(1);
    assert!(ran.err.contains("waiting for ring shards: "), "{}", ran.err);
    let report = ran.json();
    assert_eq!(report["delivered"], false);
    let failed: Vec<_> = report["ring_shards"].as_array().unwrap().iter().filter(|s| s["error"].is_string()).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["ring_shard"], super::world::name(at));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_removes_one_key_space_and_nothing_else() {
    let mut world = World::new(3, "").await;
    for pk in 0..30 {
        let key = format!("product:{pk}");
        for server in &world.servers {
            server.ask(&["SET", &key, "old"]).unwrap();
        }
    }
    for server in &world.servers {
        for other in ["lock:{product:1}", "category:tea:top", "other:1", "lock:{other:product:1}"] {
            server.ask(&["SET", other, "x"]).unwrap();
        }
    }
    let sum = |report: &serde_json::Value, field: &str| -> u64 {
        report["ring_shards"].as_array().unwrap().iter().map(|shard| shard[field].as_u64().unwrap()).sum()
    };
    let dry = world.run(&["flush", "--space", "product", "--dry-run", "--json"]).await.expect(0).json();
    assert_eq!((sum(&dry, "entries"), sum(&dry, "locks"), sum(&dry, "removed")), (90, 3, 0));
    assert!(world.cached("product:7") && world.cached("lock:{product:1}"));

    let done = world.run(&["flush", "--space", "product", "--json"]).await.expect(0).json();
    assert_eq!(sum(&done, "removed"), 93);
    assert!(!world.cached("product:7") && !world.cached("lock:{product:1}"));
    for other in ["category:tea:top", "other:1", "lock:{other:product:1}"] {
        assert!(world.cached(other), "{other}");
    }
    world.run(&["flush", "--table", "products"]).await.expect(0);
    assert!(!world.cached("category:tea:top") && world.cached("other:1"));
    let ran = world.run(&["flush", "--table", "none"]).await.expect(2);
    assert!(ran.err.contains("products"), "{}", ran.err);
    world.run(&["flush"]).await.expect(2);

    world.servers[1].kill();
    let ran = world.run(&["flush", "--all", "--timeout", "1", "--json"]).await.expect(1).json();
    let failed: Vec<_> = ran["ring_shards"].as_array().unwrap().iter().filter(|s| s["error"].is_string()).collect();
    assert_eq!((failed.len(), &failed[0]["ring_shard"]), (1, &serde_json::json!("b")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_at_a_bounded_pace_shows_its_progress() {
    let world = World::new(1, "").await;
    let mut command = vec!["MSET".to_owned()];
    for pk in 0..3000 {
        command.extend([format!("product:{pk}"), "x".to_owned()]);
    }
    assert_eq!(world.servers[0].ask(&command).unwrap(), "OK");
    // Two walks over 3,000 names at 2,000 names a second.
    let ran = world.run(&["flush", "--space", "product", "--rate", "2000"]).await.expect(0);
    assert!(ran.err.contains("names removed: "), "{}", ran.err);
    assert!(!world.cached("product:0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_one_ring_shard_to_every_command() {
    let world = World::new(0, "").await;
    let cluster = tokio::task::spawn_blocking(|| ValkeyCluster::start(3).unwrap()).await.unwrap();
    let shard = format!("valkey.cluster = true\n[[ring.shards]]\nname = \"a\"\naddress = \"{}\"\n", cluster.address());
    world.configure(&shard, super::world::ROUTES);
    for pk in 0..20 {
        let slot = cluster.slot(&format!("product:{pk}")).unwrap();
        cluster.ask(cluster.first_owner(slot), &["SET", &format!("product:{pk}"), "x"]).unwrap();
    }
    let located = world.run(&["locate", "product:1", "--entry", "--json"]).await.expect(0).json();
    assert_eq!(located[0]["cluster_slot"].as_u64().unwrap(), cluster.slot("product:1").unwrap() as u64);
    assert!(located[0]["entries"][0]["entry"]["not_an_entry"].is_string());
    world.run(&["invalidate", "--raw-key", "product:1"]).await.expect(0);
    let dry = world.run(&["flush", "--all", "--dry-run", "--json"]).await.expect(0).json();
    assert_eq!(dry["ring_shards"][0]["entries"], 19);
    let done = world.run(&["flush", "--all", "--json"]).await.expect(0).json();
    assert_eq!(done["ring_shards"][0]["removed"], 19);
    eventually("nothing is left", async || (0..3).all(|at| cluster.ask(at, &["DBSIZE"]).unwrap().contains('0'))).await;
}
