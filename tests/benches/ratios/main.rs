//! Ratios in one run: batches of invalidations against plain `UNLINK` and against one script a key, and the pipeline
//! against its script. Contestants take turns on one server.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

mod delivery;

use std::sync::Arc;
use std::time::Duration;

use ringtide_core::command::Command;
use ringtide_core::key::CacheKey;
use ringtide_core::ring::Ring;
use ringtide_core::valkey::Shard;
use ringtide_servers::ValkeyServer;
use ringtide_tests::products;
use ringtide_tests::raw::raw;
use ringtide_tests::rounds::{Contestant, Work, report, take_turns};

/// What the worker has, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 15;

fn main() {
    // `cargo test --benches` runs benchmarks too; only `cargo bench` says so.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = ValkeyServer::start().unwrap();
        invalidations(&server).await;
        delivery::run(&server).await;
    });
}

async fn invalidations(server: &ValkeyServer) {
    let config = products::config(std::slice::from_ref(server));
    let shard = Shard::connect(&Ring::new(config.ring.clone()).unwrap().shards()[0], &config.valkey).unwrap();
    shard.ready(Duration::from_secs(10)).await.unwrap();
    let space = config.spaces["product"].clone();
    let connection = raw(server).await.unwrap();
    let value = "x".repeat(300);
    let single = redis::Script::new("return redis.call('UNLINK', KEYS[1], KEYS[2])");
    for (title, cached) in [("none of the keys cached", false), ("all keys cached", true)] {
        let commands: Arc<Vec<Command>> = Arc::new(
            (0..10_000)
                .map(|n| Command::drop_entry(CacheKey::new(format!("inv:{n}")).unwrap(), space.clone()))
                .collect(),
        );
        let fill = {
            let (connection, commands, value) = (connection.clone(), commands.clone(), value.clone());
            move || {
                let (mut connection, commands, value) = (connection.clone(), commands.clone(), value.clone());
                async move {
                    for chunk in commands.chunks(1000).filter(|_| cached) {
                        let mut pipe = redis::pipe();
                        for command in chunk {
                            pipe.set(command.key.as_str(), &value).ignore();
                        }
                        pipe.exec_async(&mut connection).await.unwrap();
                    }
                }
            }
        };
        let operations = commands.len() as u64;
        let plain = {
            let (connection, commands) = (connection.clone(), commands.clone());
            move || {
                let (mut connection, commands) = (connection.clone(), commands.clone());
                async move {
                    for chunk in commands.chunks(200) {
                        let mut unlink = redis::cmd("UNLINK");
                        for command in chunk {
                            unlink.arg(command.key.as_str()).arg(command.key.lock());
                        }
                        let _: u64 = unlink.query_async(&mut connection).await.unwrap();
                    }
                }
            }
        };
        let ours = {
            let (shard, commands) = (shard.clone(), commands.clone());
            move || {
                let (shard, commands) = (shard.clone(), commands.clone());
                async move {
                    for chunk in commands.chunks(200) {
                        shard.apply(chunk, 0).await.unwrap();
                    }
                }
            }
        };
        let scripts = {
            let (connection, commands, single) = (connection.clone(), commands.clone(), &single);
            move || {
                let (mut connection, commands) = (connection.clone(), commands.clone());
                async move {
                    for chunk in commands.chunks(200) {
                        let mut pipe = redis::pipe();
                        pipe.load_script(single).ignore();
                        for command in chunk {
                            let mut call = single.key(command.key.as_str());
                            pipe.invoke_script(call.key(command.key.lock())).ignore();
                        }
                        pipe.exec_async(&mut connection).await.unwrap();
                    }
                }
            }
        };
        let contestant = |name: &str, run| {
            let fill = fill.clone();
            let prepare: Option<Work<'_>> = Some(Box::new(move || Box::pin(fill())));
            Contestant { name: name.to_owned(), operations, prepare, run }
        };
        let mut contestants = [
            contestant("plain variadic UNLINK of entries and locks", Box::new(move || Box::pin(plain()))),
            contestant("apply, batches of 200", Box::new(move || Box::pin(ours()))),
            contestant("one script a key, pipelines of 200", Box::new(move || Box::pin(scripts()))),
        ];
        let times = take_turns(ROUNDS, 1, &mut contestants).await;
        report(&format!("invalidation of 10,000 keys, {title}"), &times, None);
    }
}
