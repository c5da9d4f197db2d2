//! Shards that have left the ring and cannot be told of an invalidation.
#![cfg(feature = "memory")]

use ringtide::MemoryServer;

use super::super::support::Origin;
use super::*;

#[tokio::test]
async fn a_load_under_a_lease_of_a_shard_that_has_left_answers_no_read_after_an_invalidation() {
    let (a, b) = (MemoryServer::new("a"), MemoryServer::new("b"));
    let settings = SpaceSettings::new("item", "item:{pk}");
    let cache = Cache::builder().memory_shard(&a).memory_shard(&b).space(settings).build().await.unwrap();
    let items = cache.space::<usize>("item").unwrap();
    let ring = |shards: &[&str]| Ring::new(only(1, shards)).unwrap();
    let pk =
        (0..KEYS).find(|pk| ring(&["a", "b"]).owner(format!("item:{pk}").as_bytes()).name.as_str() == "a").unwrap();

    let origin = Origin::held();
    let read = || {
        let (items, origin) = (items.clone(), origin.clone());
        let load = move || {
            let origin = origin.clone();
            async move { Ok::<_, Infallible>(Some(origin.load().await)) }
        };
        tokio::spawn(
            async move { tokio::time::timeout(LONG, items.get_or_load(pk, load)).await.expect("nobody hangs") },
        )
    };
    let first = read();
    origin.begun().await;
    change(&cache, only(2, &["b"])).await;
    a.down(true);
    let invalidated = items.invalidate(pk).await.unwrap();
    assert_eq!((invalidated.applied.absent, invalidated.gone, invalidated.is_done()), (1, 1, true), "{invalidated:?}");
    a.down(false);
    let second = read();
    // It has joined the first one's flight, or begun one of its own.
    tokio::time::sleep(Duration::from_millis(20)).await;
    origin.allow(2);
    assert_eq!(first.await.unwrap().unwrap(), Some(1), "it began before the invalidation");
    assert_eq!(second.await.unwrap().unwrap(), Some(2), "it began after the invalidation had returned");
}

fn only(epoch: u64, names: &[&str]) -> Membership {
    let spec = |name: &&str| ShardSpec { name: ShardName::new(name), address: format!("memory:{name}"), weight: 1 };
    let shards = names.iter().map(spec).collect();
    Membership { epoch, changed_at_ms: 0, placement: Placement::default(), shards }
}
