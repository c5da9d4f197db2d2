//! What is delivered, what is not, and what is sent again.

use super::*;
use crate::fault::Fault;
use crate::ring::{SHARDS, Trouble};
use crate::world::{PLAIN_ROUTE, ROUTES};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_a_shard_that_is_down_fail_and_are_sent_again_from_the_first() {
    let mut world = World::start_patient(PLAIN_ROUTE).await;
    let pks = world.cached_items(24).await;
    let mut on_cut = Vec::new();
    for pk in &pks {
        on_cut.push(world.ring.shard_of(&format!("plain:{pk}")).await == Some(1));
    }
    let first = on_cut.iter().position(|on_cut| *on_cut).expect("24 items are on all shards");
    let records: Vec<_> = pks.iter().map(|pk| world.put(pk)).collect();

    let mut sandbox = world.sandbox().await;
    deliver(&mut sandbox, &[world.put("another")]).await;
    world.ring.trouble(1, Trouble::Cut);
    let (verdict, ended) = send(&mut sandbox, &records, 6 * SHORT, Fate::Undisturbed).await;
    assert_eq!(verdict, Verdict::DeliveredBefore(first), "{ended:?}");
    for (pk, on_cut) in pks.iter().zip(&on_cut) {
        assert_eq!(
            world.holds(&format!("plain:{pk}")).await,
            *on_cut,
            "only what is on the shard that is down is left"
        );
    }
    world.ring.mend_all();
    deliver(&mut sandbox, &records[first..]).await;
    for pk in &pks {
        assert!(!world.holds(&format!("plain:{pk}")).await, "{pk}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splitting_isolates_what_cannot_be_delivered() {
    let mut world = World::start(PLAIN_ROUTE).await;
    let pks = world.cached_items(5).await;
    let cut = world.ring.shard_of(&format!("plain:{}", pks[1])).await;
    let mut on_cut = Vec::new();
    for pk in &pks {
        on_cut.push(world.ring.shard_of(&format!("plain:{pk}")).await == cut);
    }
    let mut sandbox = world.sandbox().await;
    deliver(&mut sandbox, &[world.put("another")]).await;
    world.ring.trouble(cut.unwrap(), Trouble::Cut);
    let mut lane = lane(pks.iter().map(|pk| world.put(pk)));
    let settings = Settings { bisect: true, retries: Some(0), ..SETTINGS };
    let mut given_up = Vec::new();
    while let Some(batch) = lane.next(&settings, Instant::now()).0 {
        let (verdict, _) = send(&mut sandbox, &batch.records, 2 * SHORT, Fate::Undisturbed).await;
        let lost = lane.ended(&settings, Fault::None, verdict).into_iter().flat_map(|lost| lost.records);
        given_up.extend(lost.map(|record| record.item.clone()));
    }
    let expected = pks.iter().zip(&on_cut).filter(|(_, on_cut)| **on_cut).map(|(pk, _)| pk.clone());
    assert_eq!(given_up, expected.collect::<Vec<_>>());
    for (pk, on_cut) in pks.iter().zip(&on_cut) {
        assert_eq!(world.holds(&format!("plain:{pk}")).await, *on_cut, "{pk}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_change_nothing() {
    let mut world = World::start_patient(ROUTES).await;
    let pks = world.cached_items(5).await;
    let records: Vec<_> = pks.iter().map(|pk| world.put(pk)).collect();
    let mut sandbox = world.sandbox().await;
    deliver(&mut sandbox, &records).await;
    world.read(&pks).await;
    // What compares versions. The plain key space drops once more, which costs a miss.
    let kept = async |world: &World| {
        let mut kept = world.ring.entries("versioned:").await;
        kept.extend(world.ring.entries("copy:").await);
        kept.extend(world.ring.entries("mirror:").await);
        kept.sort_by(|(a, _), (b, _)| a.cmp(b));
        kept
    };
    let before = kept(&world).await;
    assert_eq!(before.len(), 3 * 5);
    let applied = |sandbox: &Sandbox| {
        ["dropped", "refreshed", "older", "absent"]
            .map(|outcome| counted(sandbox, "ringtide_applied_total", &[("outcome", outcome)]))
    };
    records_are_counted(&sandbox, 5).await;
    assert_eq!(applied(&sandbox), [10, 10, 0, 0]);
    deliver(&mut sandbox, &records).await;
    assert_eq!(kept(&world).await, before);
    records_are_counted(&sandbox, 10).await;
    assert_eq!(applied(&sandbox), [10 + 5, 10, 3 * 5, 0]);
    world.nothing_is_stale().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_by_item_keep_refreshes_in_order() {
    let mut world = World::start(ROUTES).await;
    let mut lanes: Vec<Lane> = (0..3).map(|_| Lane::default()).collect();
    for n in 0..90 {
        lanes[n % 3].push(world.put(&format!("item{}", n % 6)));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for mut lane in lanes {
        let mut sandbox = world.sandbox().await;
        tasks.spawn(async move {
            let settings = Settings { batch_size: 4, ..SETTINGS };
            while let Some(batch) = lane.next(&settings, Instant::now()).0 {
                let (verdict, ended) = send(&mut sandbox, &batch.records, AMPLE, Fate::Undisturbed).await;
                assert_eq!(verdict, Verdict::Delivered, "{ended:?}");
                lane.ended(&settings, Fault::None, verdict);
            }
        });
    }
    tasks.join_all().await;
    for n in 0..6 {
        assert!(world.holds(&format!("mirror:item{n}")).await, "what is refreshed with populate is there unread");
    }
    world.nothing_is_stale().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_nobody_can_read_are_parked_and_harm_no_other() {
    let mut world = World::start(ROUTES).await;
    let pks = world.cached_items(8).await;
    let mut records = Vec::new();
    for (kind, pk) in (0..).zip(&pks) {
        records.push(world.table.lock().unwrap().unreadable("bad", kind));
        records.push(world.put(pk));
    }
    records.extend(world.table.lock().unwrap().put_with_an_image_that_cannot_be_read(&pks[0]));
    let mut sandbox = world.sandbox().await;
    deliver(&mut sandbox, &records).await;
    world.nothing_is_stale().await;
    let parked = world.parked();
    for record in records.iter().filter(|record| record.unreadable && record.number_is_readable) {
        assert!(parked.contains(&record.sequence), "{} is not parked with its content", record.json);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_comes_in_time_even_where_no_shard_answers() {
    let mut world = World::start(ROUTES).await;
    let records = [world.put("a"), world.put("b")];
    let mut sandbox = world.sandbox().await;
    deliver(&mut sandbox, &records).await;
    (0..SHARDS).for_each(|shard| world.ring.trouble(shard, Trouble::Freeze));
    let (verdict, ended) = send(&mut sandbox, &records, SHORT, Fate::Undisturbed).await;
    assert_eq!(verdict, Verdict::DeliveredBefore(0), "{ended:?}");
    world.ring.mend_all();
    deliver(&mut sandbox, &records).await;
}
