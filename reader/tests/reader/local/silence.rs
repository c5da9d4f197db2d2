//! Connections that are dead and not lost.

use std::cell::Cell;
use std::time::{Duration, Instant};

use ringtide::{Cache, LocalTier, config};
use ringtide_servers::{Direction, Flow, Proxy};

use super::super::support::{Server, until};
use super::{FLUSHES, MINUTE, Tier};

/// How long copies may be served after the last sign of life.
const SILENCE: Duration = Duration::from_secs(1);

/// Reads a key whose connection has just died until the memory answers no more; notes how long it did.
async fn answered_for(tier: &Tier, died: Instant, last: &Cell<Duration>) {
    until("silence to be noticed", async || {
        let (hits, asked) = (tier.hits(), died.elapsed());
        let value = tier.read_or(1, Some(2)).await;
        if tier.hits() == hits {
            assert_eq!(value, Some(2), "the origin answers");
            return true;
        }
        assert_eq!(value, Some(1));
        last.set(asked);
        false
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_stopped_is_noticed_within_a_second() {
    let server = Server::start().await;
    // So that nothing but the missing sign of life is noticed.
    let valkey = config::Valkey { command_timeout: Duration::from_secs(5), ..config::Valkey::default() };
    let through = super::builder(&server).valkey(valkey);
    let mut tier = Tier::built(&server, LocalTier::Tracked(MINUTE), through).await;
    tier.put(1, 1).await;
    assert_eq!(tier.read(1).await, 1);
    // Longer than the first second, in which nothing has to be heard yet.
    let since = Instant::now();
    until("a while of signs of life", async || {
        assert_eq!(tier.read_locally(1).await, 1);
        since.elapsed() > SILENCE * 3 / 2
    })
    .await;
    server.freeze();
    let (died, last) = (Instant::now(), Cell::new(Duration::ZERO));
    // The read that asks the server in the end is answered when it goes on.
    let _still_asking = tokio::time::timeout(SILENCE * 2, answered_for(&tier, died, &last)).await;
    server.thaw();
    assert!(last.get() <= SILENCE, "{:?}", last.get());
    assert!(last.get() > SILENCE / 4, "the memory answers while there is hope: {:?}", last.get());
    let hits_while_stopped = tier.hits();
    until("the memory to be used again", async || {
        tier.read_or(1, Some(2)).await;
        tier.hits() > hits_while_stopped
    })
    .await;
    assert_eq!(tier.counters.sum(FLUSHES, ""), 0, "the connection was never lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_drops_everything_is_noticed_within_a_second() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await.unwrap();
    let valkey = config::Valkey { command_timeout: Duration::from_millis(200), ..config::Valkey::default() };
    let through = Cache::builder().shard("a", proxy.address()).valkey(valkey);
    let mut tier = Tier::built(&server, LocalTier::Tracked(MINUTE), through).await;
    for direction in [Direction::ToServer, Direction::ToClient] {
        tier.put(1, 1).await;
        until("the value", async || tier.read_or(1, None).await == Some(1)).await;
        assert_eq!(tier.read_locally(1).await, 1);
        proxy.set(direction, Flow::BlackHole);
        let (died, last) = (Instant::now(), Cell::new(Duration::ZERO));
        tier.put(1, 3).await;
        answered_for(&tier, died, &last).await;
        assert!(last.get() <= SILENCE, "{direction:?}: {:?}", last.get());
        // What was changed meanwhile is seen as soon as there is a connection again.
        proxy.heal();
        proxy.cut();
        until("the changed value", async || tier.read_or(1, Some(2)).await == Some(3)).await;
        assert_eq!(tier.read_locally(1).await, 3);
    }
}
