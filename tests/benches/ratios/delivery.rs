//! The pipeline from records in memory, beside the script that it calls, with calls that were made beforehand.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use ringtide_core::command::Command;
use ringtide_core::key::CacheKey;
use ringtide_core::pipeline::{Pipeline, Services};
use ringtide_servers::ValkeyServer;
use ringtide_tests::products;
use ringtide_tests::raw::raw;
use ringtide_tests::records::page;
use ringtide_tests::rounds::{Contestant, Work, report, take_turns};
use tokio::time::Instant;

use super::ROUNDS;

const PAGES: usize = 20;
const PAGE: usize = 1000;
const CALLS_AT_ONCE: usize = 8;
const KEPT: &str = "records through the pipeline";

pub(crate) async fn run(server: &ValkeyServer) {
    let config = products::config(std::slice::from_ref(server));
    let connected = Pipeline::connect(&config, Services::default()).unwrap();
    let shard = connected.shards[0].clone();
    shard.ready(Duration::from_secs(10)).await.unwrap();
    let pipeline = Arc::new(connected.pipeline);
    let space = config.spaces["product"].clone();
    let commands: Arc<Vec<Command>> = Arc::new(
        (0..PAGES * PAGE)
            .map(|item| Command::drop_entry(CacheKey::new(format!("product:{item}")).unwrap(), space.clone()))
            .collect(),
    );
    let connection = raw(server).await.unwrap();
    let pages = Arc::new(Mutex::new(Vec::new()));
    // Every tenth key is cached, and the records are made, before each turn.
    let prepare = || -> Option<Work<'_>> {
        let (connection, pages) = (connection.clone(), pages.clone());
        Some(Box::new(move || {
            let (mut connection, pages) = (connection.clone(), pages.clone());
            Box::pin(async move {
                let mut fill = redis::pipe();
                for item in (0..PAGES * PAGE).step_by(10) {
                    fill.set(format!("product:{item}"), "x".repeat(300)).ignore();
                }
                fill.exec_async(&mut connection).await.unwrap();
                *pages.lock().unwrap() = (0..PAGES).map(|n| page(n * PAGE..(n + 1) * PAGE)).collect();
            })
        }))
    };
    let script: Work<'_> = Box::new(|| {
        let (shard, commands) = (shard.clone(), commands.clone());
        Box::pin(async move {
            let calls = commands.chunks(200).map(|batch| shard.apply(batch, 0));
            futures_util::stream::iter(calls)
                .buffer_unordered(CALLS_AT_ONCE)
                .for_each(|applied| async {
                    applied.unwrap();
                })
                .await;
        })
    });
    // As many pages at once as a stream shard's consumer would hand over: the records are freed outside the time that is
    // measured, which is the work of whoever made them.
    let kept: Work<'_> = Box::new(|| {
        let (pipeline, pages) = (pipeline.clone(), pages.clone());
        Box::pin(async move {
            let made = std::mem::take(&mut *pages.lock().unwrap());
            let deadline = Instant::now() + Duration::from_secs(60);
            let delivered = join_all(made.iter().map(|page| pipeline.deliver(page, deadline))).await;
            assert!(delivered.iter().all(|delivered| delivered.first_undelivered.is_none()));
            *pages.lock().unwrap() = made;
        })
    });
    let through: Work<'_> = Box::new(|| {
        let (pipeline, pages) = (pipeline.clone(), pages.clone());
        Box::pin(async move {
            let pages = std::mem::take(&mut *pages.lock().unwrap());
            let mut tickets = Vec::with_capacity(PAGES);
            for page in pages {
                tickets.push(pipeline.submit(page, 0).await);
            }
            for ticket in tickets {
                ticket.await.unwrap();
            }
        })
    });
    let operations = (PAGES * PAGE) as u64;
    let mut contestants = [
        Contestant { name: "the script alone, batches of 200".into(), operations, prepare: prepare(), run: script },
        Contestant { name: KEPT.into(), operations, prepare: prepare(), run: kept },
        Contestant {
            name: "the same, which also frees the records".into(),
            operations,
            prepare: prepare(),
            run: through,
        },
    ];
    let times = take_turns(ROUNDS, 1, &mut contestants).await;
    report("20,000 changes delivered to one server, a tenth of the keys cached", &times, Some((KEPT, 0.7)));
}
