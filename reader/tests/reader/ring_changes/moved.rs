//! A shard that is reached at another address from some moment on, and told at both for a while.

use super::*;

const COMMAND: Duration = Duration::from_millis(200);

/// A cache whose memberships are forgotten after a short while.
fn forgetful(membership: &Membership) -> CacheBuilder {
    let second = Duration::from_secs(1);
    let reader = config::Reader {
        load_timeout: Duration::from_millis(250),
        lease_ttl: Duration::from_millis(100),
        watch: Duration::from_millis(100),
        ..config::Reader::default()
    };
    let space = SpaceSettings::new("item", "item:{pk}").ttl(second).negative_ttl(second);
    patient(membership, COMMAND).raw_ttl(second, second).reader(reader).space(space)
}

/// Whether a read is answered without a load.
async fn is_cached(table: &Table, cache: &Cache, row: u64) -> bool {
    let loads = table.loads();
    table.read(cache, row).await;
    table.loads() == loads
}

#[tokio::test]
async fn what_the_former_address_owes_keeps_no_key_from_being_read_at_the_other() {
    let (former, now) = (Server::start().await, Server::start().await);
    let cache = forgetful(&ring(1, &[("a", &former)])).build().await.unwrap();
    let (table, items) = (Table::new(), cache.space::<u64>("item").unwrap());
    change(&cache, ring(2, &[("a", &now)])).await;
    former.freeze();
    let invalidated = items.invalidate(1).await.unwrap();
    assert_eq!((invalidated.applied.absent, invalidated.queued), (1, 1), "{invalidated:?}");
    until("a cached read", async || is_cached(&table, &cache, 1).await).await;
    // It answers nothing before the window is over, and is not waited for after that.
    tokio::time::timeout(LONG, cache.settled()).await.expect("what is not read from any more owes nothing");
    former.thaw();
}

#[tokio::test]
async fn each_address_is_told_until_it_has_answered_itself() {
    let (former, now) = (Server::start().await, Server::start().await);
    let old = patient(&ring(1, &[("a", &former)]), COMMAND).build().await.unwrap();
    let cache = patient(&ring(1, &[("a", &former)]), COMMAND).build().await.unwrap();
    change(&cache, ring(2, &[("a", &now)])).await;
    let (table, items) = (Table::new(), cache.space::<u64>("item").unwrap());
    for cache in [&old, &cache] {
        table.read(cache, 1).await;
        cache.settled().await;
    }
    assert!(former.exists("item:1").await && now.exists("item:1").await);
    former.freeze();
    now.freeze();
    assert_eq!(items.invalidate(1).await.unwrap().queued, 2);
    former.thaw();
    until("the former's answer", async || !former.exists("item:1").await).await;
    tokio::time::sleep(COMMAND).await;
    now.thaw();
    tokio::time::timeout(LONG, cache.settled()).await.expect("both are told");
    assert!(!now.exists("item:1").await);
}

#[tokio::test]
async fn gauges_tell_of_the_address_in_use() {
    const UP: &str = "ringtide_ring_shard_up";
    const BREAKER: &str = "ringtide_reader_breaker_state";
    let (mut former, now) = (Server::start().await, Server::start().await);
    let reader = config::Reader { breaker_failures: 2, ..config::Reader::default() };
    let (changed, begun) = (Counters::default(), Counters::default());
    let builder = patient(&ring(1, &[("a", &former)]), COMMAND).reader(reader).metrics(Arc::new(changed.clone()));
    let one = builder.build().await.unwrap();
    let earlier = format!(
        "[[ring.earlier]]\nepoch = 1\nshards = [{{ name = \"a\", address = \"{}\" }}]\n\
         [valkey]\ncommand_timeout = \"200ms\"\n[reader]\nbreaker_failures = 2\n",
        former.address()
    );
    let config = Config::parse(&format!("{}\n{earlier}", ring_text(2, &[("a", &now)])), []).unwrap();
    let two = Cache::builder().config(config).metrics(Arc::new(begun.clone())).build().await.unwrap();
    let (table, items) = (Table::new(), one.space::<u64>("item").unwrap());
    former.freeze();
    until("the open breaker", async || {
        table.read(&one, 1).await;
        changed.gauge(BREAKER, "a") == 2.0
    })
    .await;
    // Its gauges are the new one's at once.
    change(&one, ring(2, &[("a", &now)])).await;
    assert_eq!((changed.gauge(UP, "a"), changed.gauge(BREAKER, "a")), (1.0, 0.0));
    for _ in 0..3 {
        for told in [items.invalidate(1).await.unwrap(), two.invalidate("item:1").await.unwrap()] {
            assert_eq!(told.queued + told.gone, 1, "{told:?}");
        }
    }
    former.kill();
    tokio::time::sleep(COMMAND * 2).await;
    for counters in [&changed, &begun] {
        assert!(counters.sum("ringtide_reader_breaker_opened_total", "a") >= 1, "the former address is left alone");
        assert_eq!((counters.gauge(UP, "a"), counters.gauge(BREAKER, "a")), (1.0, 0.0));
    }
}
