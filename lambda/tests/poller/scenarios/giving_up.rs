//! Batches that Lambda gives up: the same function makes good for them.

use super::*;
use crate::destination::{Kind, Queue};
use crate::fault::Fault;
use crate::ring::Trouble;
use crate::world::ROUTES;
use tokio::time::Instant;

/// Gives all of a lane up, and has the function told of it by way of the destination.
fn give_up(world: &World, lane: &mut Lane, kind: Kind) -> Queue {
    let settings = Settings { retries: Some(0), ..SETTINGS };
    let mut queue = Queue::default();
    while lane.next(&settings, Instant::now()).0.is_some() {
        let given_up = lane.ended(&settings, Fault::None, Verdict::Failed).expect("no retry is left");
        queue.push(&given_up, kind, &world.objects);
    }
    queue
}

/// Sends what waits in the queue; returns how many messages are left.
async fn send_messages(sandbox: &mut Sandbox, queue: &mut Queue, time: Duration) -> usize {
    let (event, messages) = queue.event().expect("messages");
    let ended = sandbox.invoke(&event, time, Fate::Undisturbed).await;
    assert!(queue.ended(messages, &ended), "{ended:?}");
    queue.waiting.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_past_the_age_limit_end_in_a_flush_of_the_table() {
    let mut world = World::start(ROUTES).await;
    let pks = world.cached_items(12).await;
    let mut lane = lane([world.put(&pks[0])]);
    let settings = Settings { maximum_age: Some(Duration::ZERO), ..SETTINGS };
    let (batch, given_up) = lane.next(&settings, Instant::now() + Duration::from_secs(1));
    assert!(batch.is_none() && lane.is_drained(), "it is never sent");
    let mut queue = Queue::default();
    queue.push(&given_up.unwrap(), Kind::Queue, &world.objects);
    let mut sandbox = world.sandbox().await;
    assert_eq!(send_messages(&mut sandbox, &mut queue, AMPLE).await, 0);
    for space in ["versioned", "plain", "price", "copy", "mirror"] {
        for pk in &pks {
            assert!(!world.holds(&format!("{space}:{pk}")).await, "{space}:{pk}");
        }
    }
    deliver(&mut sandbox, &[world.put(&pks[1])]).await;
    records_are_counted(&sandbox, 1).await;
    assert_eq!(counted(&sandbox, "ringtide_gaps_total", &[("table", "products")]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_stays_until_every_shard_is_flushed() {
    let mut world = World::start(ROUTES).await;
    let pks = world.cached_items(12).await;
    let record = world.put(&pks[0]);
    let mut queue = give_up(&world, &mut lane([record]), Kind::Queue);
    let mut sandbox = world.sandbox().await;
    world.ring.trouble(2, Trouble::Cut);
    assert_eq!(send_messages(&mut sandbox, &mut queue, SHORT).await, 1);
    world.ring.mend_all();
    assert_eq!(send_messages(&mut sandbox, &mut queue, AMPLE).await, 0);
    world.nothing_is_stale().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_up_batch_is_made_good_by_whatever_is_left_of_it() {
    let mut world = World::start(ROUTES).await;
    let mut sandbox = world.sandbox().await;
    for kind in [Kind::Queue, Kind::Bucket, Kind::LostBucket] {
        let pks = world.cached_items(6).await;
        let records: Vec<_> = pks.iter().map(|pk| world.put(pk)).collect();
        let mut queue = give_up(&world, &mut lane(records), kind);
        assert!(!audit(&world, "").await.stale.is_empty());
        assert_eq!(send_messages(&mut sandbox, &mut queue, AMPLE).await, 0, "{kind:?}");
        world.nothing_is_stale().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_up_batch_brings_no_old_image_back() {
    let mut world = World::start(ROUTES).await;
    let mut sandbox = world.sandbox().await;
    let old = world.put("item0");
    let mut queue = give_up(&world, &mut lane([old]), Kind::Bucket);
    // Lambda goes on. The item is not cached when its newer record is delivered, and read afterwards.
    deliver(&mut sandbox, &[world.put("item0")]).await;
    world.ring.flush().await;
    world.read(&["item0".to_owned()]).await;
    assert_eq!(send_messages(&mut sandbox, &mut queue, AMPLE).await, 0);
    world.nothing_is_stale().await;
    // The same where nothing is cached at all, for what is stored without having been read.
    world.ring.flush().await;
    let mut queue = give_up(&world, &mut lane([world.put("item1")]), Kind::Bucket);
    deliver(&mut sandbox, &[world.put("item1")]).await;
    world.ring.flush().await;
    assert_eq!(send_messages(&mut sandbox, &mut queue, AMPLE).await, 0);
    world.nothing_is_stale().await;
}
