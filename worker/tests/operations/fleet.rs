//! Status, leases, pause, resume and replay.

use ringtide_worker::lease::Checkpoint;

use crate::world::{World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_deliveries_and_a_resume_goes_on_where_they_were() {
    let world = World::new().await;
    let _worker = world.start(&["run"]);
    world.delivering().await;

    let planned = world.run(&["pause", "--table", "products", "--dry-run", "--json"]).await;
    assert_eq!((planned.code, &planned.json()["paused"][0]["already_paused"]), (Some(0), &false.into()));
    assert!(world.leases().await.iter().all(|lease| !lease.is_paused()), "a dry run writes nothing");

    let paused = world.run(&["pause", "--table", "products", "--json"]).await;
    assert_eq!(paused.code, Some(0), "{paused:?}");
    let line = &paused.json()["paused"][0];
    assert_eq!((&line["leases"], &line["forced"]), (&1.into(), &0.into()), "the worker handed over: {paused:?}");
    let status = world.run(&["status", "--json", "--watch", "0"]).await;
    assert_eq!(status.code, Some(0), "a pause is no problem: {status:?}");
    assert_eq!(status.json()["streams"][0]["paused"], true);

    // Another worker does not begin either, and nothing is delivered.
    let _second = world.start(&["run"]);
    world.cache_anything("product:1");
    world.put("1", 1).await;
    let counters = || async { world.leases().await.iter().map(|lease| lease.counter).collect::<Vec<_>>() };
    let before = counters().await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(world.is_cached("product:1"), "delivered in spite of the pause");
    assert_eq!(counters().await, before, "no worker writes a lease");

    let resumed = world.run(&["resume", "--json"]).await;
    assert_eq!((resumed.code, &resumed.json()["resumed"][0]["leases"]), (Some(0), &1.into()), "{resumed:?}");
    world.dropped("product:1").await;
    let again = world.run(&["resume"]).await;
    assert!(again.code == Some(0) && again.out.contains("was not paused"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_before_any_worker_has_run_holds_the_first_one_back() {
    let world = World::new().await;
    let none = world.run(&["pause"]).await;
    assert!(none.code == Some(1) && none.said.contains("no lease table"), "{none:?}");
    let status = world.run(&["status", "--json"]).await;
    assert_eq!((status.code, &status.json()["lease_table"]), (Some(1), &false.into()));
    let wrong = world.run(&["pause", "--table", "orders"]).await;
    assert!(wrong.code == Some(2) && wrong.said.contains("orders") && wrong.said.contains("products"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leases_of_a_dead_worker_are_paused_by_force() {
    let world = World::new().await;
    let worker = world.start(&["run"]);
    world.delivering().await;
    worker.signal("KILL").unwrap();
    drop(worker);
    let paused = world.run(&["pause", "--json", "--no-wait"]).await;
    assert_eq!((paused.code, &paused.json()["paused"][0]["forced"]), (Some(0), &1.into()), "{paused:?}");
    let shard = world.leases().await[0].key.shard.to_string();
    let refused = world.run(&["leases", "release", &shard]).await;
    assert!(refused.code == Some(2) && refused.said.contains("ringtide resume"), "{refused:?}");
    // What is replayed while a table is paused waits for the resume.
    let replayed = world.run(&["replay", "--table", "products", "--since", "1h"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    assert!(world.leases().await.iter().all(|lease| lease.is_paused()), "it stays paused");
    world.cache_anything("product:probe");
    let _worker = world.start(&["run"]);
    assert_eq!(world.run(&["resume"]).await.code, Some(0));
    world.dropped("product:probe").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_delivers_again_from_its_place_on() {
    let world = World::new().await;
    let _worker = world.start(&["run"]);
    for pk in ["1", "2", "3"] {
        world.cache_anything(&format!("product:{pk}"));
        world.put(pk, 1).await;
        world.dropped(&format!("product:{pk}")).await;
    }
    let checkpoint = async || world.leases().await.first().map(|lease| lease.checkpoint);
    eventually("the last record is checkpointed", async || matches!(checkpoint().await, Some(Checkpoint::At(_)))).await;

    // From a number: the record itself and what follows it, not what was before.
    let second = nth_sequence(&world, 2).await;
    let cache = || {
        for pk in ["1", "2", "3"] {
            world.cache_anything(&format!("product:{pk}"));
        }
    };
    cache();
    let arguments = ["replay", "--table", "products", "--from-sequence", &second, "--json"];
    let planned = world.run(&[&arguments[..], &["--dry-run"]].concat()).await;
    assert_eq!((planned.code, planned.json()["written"].as_array().unwrap().len()), (Some(0), 1), "{planned:?}");
    assert!(world.is_cached("product:2"), "a dry run writes nothing");
    let replayed = world.run(&arguments).await;
    assert_eq!((replayed.code, &replayed.json()["dry_run"]), (Some(0), &false.into()), "{replayed:?}");
    assert!(replayed.said.contains("routes[1]"), "a replay says what it means for refresh routes: {replayed:?}");
    world.dropped("product:2").await;
    world.dropped("product:3").await;
    assert!(world.is_cached("product:1"), "what lies before the place is not delivered again");

    // By time: all of it.
    cache();
    let replayed = world.run(&["replay", "--table", "products", "--since", "1h"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    for pk in ["1", "2", "3"] {
        world.dropped(&format!("product:{pk}")).await;
    }
    assert!(world.leases().await.iter().all(|lease| !lease.is_paused()));
    let wrong = world.run(&["replay", "--table", "products"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

/// The sequence number of the nth record of the stream.
async fn nth_sequence(world: &World, nth: usize) -> String {
    let streams = &world.clients.streams;
    let arn = streams.list_streams().table_name("products").send().await.unwrap();
    let arn = arn.streams.unwrap().remove(0).stream_arn.unwrap();
    let described = streams.describe_stream().stream_arn(&arn).send().await.unwrap().stream_description.unwrap();
    let shard = described.shards.unwrap().remove(0).shard_id.unwrap();
    let iterator = streams.get_shard_iterator().stream_arn(arn).shard_id(shard);
    let iterator = iterator.shard_iterator_type("TRIM_HORIZON".into()).send().await.unwrap().shard_iterator.unwrap();
    let records = streams.get_records().shard_iterator(iterator).send().await.unwrap().records.unwrap();
    records[nth - 1].dynamodb.as_ref().unwrap().sequence_number.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_finds_a_dead_owner_and_leases_can_be_released_and_reset() {
    let world = World::new().await;
    let worker = world.start(&["run", "--owner", "one"]);
    world.delivering().await;
    let well = world.run(&["status", "--json", "--watch", "20"]).await;
    assert_eq!(well.code, Some(0), "{well:?}");
    let shown = well.json();
    assert_eq!((&shown["owners"][0]["owner"], &shown["owners"][0]["alive"]), (&"one".into(), &true.into()));
    assert_eq!(shown["streams"][0]["shards"][0]["stage"], "held");

    worker.signal("KILL").unwrap();
    drop(worker);
    let dead = world.run(&["status", "--json", "--watch", "1"]).await;
    assert_eq!((dead.code, &dead.json()["owners"][0]["alive"]), (Some(1), &false.into()), "{dead:?}");
    assert!(dead.json()["problems"][0].as_str().unwrap().contains("may be dead"), "{dead:?}");

    let shard = shown["streams"][0]["shards"][0]["shard"].as_str().unwrap().to_owned();
    let dry = world.run(&["leases", "release", &shard, "--dry-run"]).await;
    assert!(dry.code == Some(0) && dry.out.contains("would be taken"), "{dry:?}");
    assert!(world.leases().await[0].owner.is_some());
    let released = world.run(&["leases", "release", &shard]).await;
    assert_eq!((released.code, world.leases().await[0].owner.clone()), (Some(0), None), "{released:?}");
    let unheld = world.run(&["status", "--watch", "0"]).await;
    assert!(unheld.code == Some(1) && unheld.out.contains("no worker reads it"), "{unheld:?}");
    let unknown = world.run(&["leases", "release", "shardId-none"]).await;
    assert!(unknown.code == Some(2) && unknown.said.contains("shardId-none"), "{unknown:?}");

    // From the beginning: the first record is delivered again.
    let reset = world.run(&["leases", "reset", "--table", "products", "--json"]).await;
    assert_eq!((reset.code, &reset.json()["written"][0]["now"]), (Some(0), &"TRIM_HORIZON".into()), "{reset:?}");
    let listed = world.run(&["leases", "list", "--json"]).await;
    assert_eq!((listed.code, &listed.json()[0]["checkpoint"]), (Some(0), &"TRIM_HORIZON".into()), "{listed:?}");
    world.cache_anything("product:probe");
    let _worker = world.start(&["run"]);
    world.dropped("product:probe").await;
}
