//! Sandboxes that are frozen, killed, and outlive their time.

use super::*;
use crate::link::Link;
use crate::ring::{SHARDS, Trouble};
use crate::world::{MIRROR_ROUTE, ROUTES};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_invocation_after_a_thaw_delivers_over_connections_that_died_meanwhile() {
    let mut world = World::start(ROUTES).await;
    let pks = world.cached_items(3).await;
    let mut sandbox = world.sandbox().await;
    deliver(&mut sandbox, &[world.put(&pks[0])]).await;
    for trouble in [Trouble::Disconnect, Trouble::Kill, Trouble::Cut] {
        (0..SHARDS).for_each(|shard| world.ring.trouble(shard, trouble));
        world.ring.mend_all();
        world.read(&pks).await;
        let records: Vec<_> = pks.iter().map(|pk| world.put(pk)).collect();
        deliver(&mut sandbox, &records).await;
        world.nothing_is_stale().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_sandbox_is_killed_is_delivered_by_another_one() {
    let mut world = World::start(ROUTES).await;
    let pks = world.cached_items(3).await;
    let records: Vec<_> = pks.iter().map(|pk| world.put(pk)).collect();
    let (mut killed, mut other) = (world.sandbox().await, world.sandbox().await);
    (0..SHARDS).for_each(|shard| world.ring.trouble(shard, Trouble::Stall));
    let (verdict, ended) = send(&mut killed, &records, AMPLE, Fate::Killed(Duration::from_millis(50))).await;
    assert!(matches!((verdict, ended), (Verdict::Failed, Ended::Died)));
    world.ring.mend_all();
    deliver(&mut other, &records).await;
    world.nothing_is_stale().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_outlived_its_time_brings_no_old_image_back() {
    outlived(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_that_arrives_after_its_retry_brings_no_old_image_back() {
    outlived(true).await;
}

/// Holds up what a sandbox sends, and with `both` also the first attempt of the one that takes over.
async fn outlived(both: bool) {
    let mut world = World::start(MIRROR_ROUTE).await;
    let mut zombie = world.sandbox().await;
    let warm: Vec<_> = (0..20).map(|n| world.put(&format!("warm{n}"))).collect();
    deliver(&mut zombie, &warm).await;
    let old: Vec<_> = (0..20).map(|n| world.put(&format!("item{n}"))).collect();
    let mut before = if both { Some(world.sandbox().await) } else { None };
    if let Some(other) = &mut before {
        deliver(other, &warm).await;
    }
    // What it sends is under way for longer than the sandbox may work.
    world.ring.links.iter().for_each(Link::hold_connections);
    let frozen = Fate::Outlived(Duration::from_millis(60));
    let (verdict, ended) = send(&mut zombie, &old, SHORT, frozen).await;
    assert!(matches!((verdict, ended), (Verdict::Failed, Ended::TimedOut)));
    let mut other = match before {
        Some(other) => other,
        None => world.sandbox().await,
    };
    deliver(&mut other, &old).await;
    let new: Vec<_> = (0..20).map(|n| world.put(&format!("item{n}"))).collect();
    deliver(&mut other, &new).await;
    // Without an entry, nothing but the deadline tells the zombie's images from new ones.
    world.ring.flush().await;
    world.ring.mend_all();
    zombie.go_on_and_end().await;
    world.nothing_is_stale().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_ends_when_it_is_asked_to() {
    let mut world = World::start(ROUTES).await;
    let mut sandbox = world.sandbox().await;
    deliver(&mut sandbox, &[world.put("a")]).await;
    sandbox.terminate().await;
}
