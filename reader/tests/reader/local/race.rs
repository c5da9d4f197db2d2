//! The race between a reply and the word that it is out of date.
//!
//! Reply and word are held back and let go together, so that both have arrived before the reader looks at its reply.

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use redis::caching::CacheConfig;
use ringtide::{Cache, LocalTier};
use ringtide_servers::{Direction, Flow, Proxy};

use super::super::support::{Server, until};
use super::{MINUTE, PUSHES, REFUSED, Tier, patient, run};

const ROUNDS: u64 = 100;

/// Whether a connection's `GET` was carried out: the number of them so far.
async fn gets(server: &Server) -> u64 {
    server.calls("get").await
}

/// Waits until all that the server had to say so far is on its way.
async fn said(writer: &mut MultiplexedConnection) {
    for _ in 0..2 {
        run(writer, &["PING"]).await;
    }
}

#[tokio::test]
async fn the_clients_own_cache_keeps_what_was_changed_while_its_reply_was_on_the_way() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await.unwrap();
    let client = redis::Client::open(format!("redis://{}/?protocol=resp3", proxy.address())).unwrap();
    let config = AsyncConnectionConfig::new().set_cache_config(CacheConfig::new());
    let mut cached = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    let mut writer = server.connection().await;
    let mut stale = 0;
    for round in 0..ROUNDS {
        let key = format!("key:{round}");
        run(&mut writer, &["SET", &key, "old"]).await;
        let before = gets(&server).await;
        proxy.set(Direction::ToClient, Flow::Held);
        let (mut reading, name) = (cached.clone(), key.clone());
        let reading =
            tokio::spawn(async move { redis::cmd("GET").arg(name).query_async::<String>(&mut reading).await.unwrap() });
        until("the read", async || gets(&server).await > before).await;
        run(&mut writer, &["SET", &key, "new"]).await;
        said(&mut writer).await;
        proxy.heal();
        assert_eq!(reading.await.unwrap(), "old");
        // Whatever the server has said by now has been heard.
        run(&mut cached, &["PING"]).await;
        let again: String = redis::cmd("GET").arg(&key).query_async(&mut cached).await.unwrap();
        stale += u64::from(again == "old");
    }
    assert_eq!(stale, ROUNDS, "the client's own cache has learned to refuse such replies");
}

#[tokio::test]
async fn a_tracked_value_that_was_changed_while_its_reply_was_on_the_way_is_not_kept() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await.unwrap();
    let through = patient(Cache::builder().shard("a", proxy.address()));
    let mut tier = Tier::built(&server, LocalTier::Tracked(MINUTE), through).await;
    for round in 0..ROUNDS {
        tier.put(round, 1).await;
        let before = gets(&server).await;
        proxy.set(Direction::ToClient, Flow::Held);
        let space = tier.space.clone();
        let reading =
            tokio::spawn(
                async move { space.get_or_load(round, || async { Ok::<_, std::io::Error>(None) }).await.unwrap() },
            );
        until("the read", async || gets(&server).await > before).await;
        tier.put(round, 2).await;
        said(&mut tier.writer).await;
        proxy.heal();
        assert_eq!(reading.await.unwrap(), Some(1), "the read began before the change");
        assert_eq!(tier.read(round).await, 2);
        assert_eq!(tier.read_locally(round).await, 2);
    }
    assert_eq!(tier.counters.sum(REFUSED, ""), ROUNDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_changed_on_the_way_is_kept_whichever_thread_is_first() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await.unwrap();
    let through = patient(Cache::builder().shard("a", proxy.address()));
    let mut tier = Tier::built(&server, LocalTier::Tracked(MINUTE), through).await;
    for round in 0..ROUNDS {
        tier.put(round, 1).await;
        let before = gets(&server).await;
        proxy.set(Direction::ToClient, Flow::Held);
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let space = tier.space.clone();
                tokio::spawn(async move { space.get_or_load(round, || async { Ok::<_, std::io::Error>(None) }).await })
            })
            .collect();
        until("the reads", async || gets(&server).await >= before + 4).await;
        tier.put(round, 2).await;
        said(&mut tier.writer).await;
        proxy.heal();
        for reader in readers {
            assert!(reader.await.unwrap().unwrap().is_some());
        }
        // A word that has not been heard yet when its reply is kept takes it back.
        let pushed = || tier.counters.sum(PUSHES, "") > round;
        until("the word of the change", async || pushed()).await;
        assert_eq!(tier.read(round).await, 2);
    }
}
