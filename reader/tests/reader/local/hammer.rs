//! Writers and readers at once, and what is left when the writers have stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringtide::{LocalTier, config};

use super::super::support::{LONG, Server, builder, until};
use super::{MINUTE, Tier, entry, key};

const ITEMS: u64 = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_old_value_is_left_when_the_writers_have_stopped() {
    let server = Server::start().await;
    let valkey = config::Valkey { connections: 2, command_timeout: LONG, ..config::Valkey::default() };
    let mut tier = Tier::built(&server, LocalTier::Tracked(MINUTE), builder(&server).valkey(valkey)).await;
    for item in 0..ITEMS {
        tier.put(item, 0).await;
    }
    let mut last = 0;
    for round in 1..=3_u64 {
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..4_u64)
            .map(|reader| {
                let (space, stop) = (tier.space.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut at = reader;
                    while !stop.load(Ordering::Relaxed) {
                        at = (at * 7 + 1) % ITEMS;
                        let read = space.get_or_load(at, || async { Ok::<_, std::io::Error>(None) });
                        assert!(read.await.unwrap().is_some());
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..2_u64)
            .map(|writer| {
                let (mut connection, stop) = (tier.writer.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut value = round * 1_000_000;
                    while !stop.load(Ordering::Relaxed) {
                        value += 1;
                        // Each item has one writer, so that its last value is known.
                        for item in (writer..ITEMS).step_by(2) {
                            let set = redis::cmd("SET").arg(key(item)).arg(&entry(value, MINUTE)[..]).clone();
                            set.exec_async(&mut connection).await.unwrap();
                        }
                    }
                    value
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(400)).await;
        stop.store(true, Ordering::Relaxed);
        let mut values = Vec::new();
        for writer in writers {
            values.push(writer.await.unwrap());
        }
        for reader in readers {
            reader.await.unwrap();
        }
        // Words of the last changes may be on their way; one more key says when all have been heard.
        for _ in 0..4 {
            let hits = tier.hits();
            last += 1;
            tier.put(ITEMS, last).await;
            until("the last word", async || tier.read(ITEMS).await == last).await;
            until("a copy of it", async || tier.read(ITEMS).await == last && tier.hits() > hits).await;
        }
        for item in 0..ITEMS {
            for _ in 0..4 {
                assert_eq!(tier.read(item).await, values[(item % 2) as usize], "item {item}");
            }
        }
    }
}
