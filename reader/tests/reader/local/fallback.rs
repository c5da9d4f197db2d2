//! The fallback: asked only while a ring shard fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringtide::LocalTier;

use super::super::support::{Server, until};
use super::{FALLBACK_HITS, FALLBACK_SETS, MINUTE, Tier, key, run};

#[tokio::test]
async fn a_miss_is_believed_and_an_error_is_not() {
    let mut server = Server::start().await;
    let mut tier = Tier::new(&server, LocalTier::Fallback(MINUTE)).await;
    tier.put(1, 1).await;
    assert_eq!(tier.read(1).await, 1);
    run(&mut tier.writer, &["UNLINK", &key(1)]).await;
    assert_eq!(tier.read_or(1, Some(2)).await, Some(2), "a miss is a miss, whatever is kept");
    tier.cache.settled().await;
    tier.put(1, 3).await;
    assert_eq!(tier.read(1).await, 3, "a hit is what the ring shard says");
    tier.put(2, 5).await;
    assert_eq!(tier.space.get_many([2_u64], no_load).await.into_values().unwrap(), [Some(5)]);
    assert_eq!(tier.counters.sum(FALLBACK_HITS, ""), 0);
    server.kill();
    assert_eq!(tier.read_or(1, Some(9)).await, Some(3), "what was read last is served");
    assert_eq!(tier.space.get_many([1_u64, 2], no_load).await.into_values().unwrap(), [Some(3), Some(5)]);
    assert_eq!((tier.counters.sum(FALLBACK_HITS, ""), tier.hits()), (3, 0));
}

async fn no_load(_: Vec<u64>) -> Result<std::collections::HashMap<u64, u64>, std::io::Error> {
    Ok(std::collections::HashMap::new())
}

#[tokio::test]
async fn what_was_loaded_while_a_ring_shard_fails_answers_for_a_short_while() {
    const TTL: Duration = Duration::from_millis(400);
    let mut server = Server::start().await;
    let tier = Tier::new(&server, LocalTier::Fallback(TTL)).await;
    server.kill();
    let loads = Arc::new(AtomicU64::new(0));
    let read = async || {
        let loads = loads.clone();
        let load = move || {
            let load = loads.fetch_add(1, Ordering::SeqCst) + 1;
            async move { Ok::<_, std::io::Error>(Some(load)) }
        };
        tier.space.get_or_load(1, load).await.unwrap().unwrap()
    };
    let began = Instant::now();
    assert_eq!(read().await, 1);
    until("the next load", async || {
        let asked = began.elapsed();
        let again = read().await == 1;
        // It was kept a little after it was loaded, and what asks first waits for the ring shard's error.
        assert!(!again || asked <= TTL * 2, "served {asked:?} later");
        !again
    })
    .await;
    assert!(began.elapsed() >= TTL / 2, "kept for {:?} only", began.elapsed());
    assert!(tier.counters.sum(FALLBACK_SETS, "") >= 1);
}

#[tokio::test]
async fn an_own_invalidation_is_not_undone_by_the_fallback() {
    let mut server = Server::start().await;
    let mut tier = Tier::new(&server, LocalTier::Fallback(MINUTE)).await;
    tier.put(1, 1).await;
    assert_eq!(tier.read(1).await, 1);
    server.kill();
    assert_eq!(tier.read_or(1, Some(2)).await, Some(1));
    let queued = tier.space.invalidate(1).await.unwrap();
    assert!(!queued.is_done());
    assert_eq!(tier.read_or(1, Some(2)).await, Some(2));
}
