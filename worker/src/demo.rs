//! The whole job on real servers: `ringtide demo`.
//!
//! An application reads through the cache and writes to DynamoDB; the worker, a process of its own, consumes the stream
//! and invalidates the entries on a ring of Valkey servers; things are killed on the way. Every read is judged: once a
//! probe has shown that all that was committed until then is delivered to a ring shard, no read of one of its keys may
//! show anything older.
//!
//! # Layout
//! - `stage`: servers, configuration, the worker's process
//! - `catalog`: the table and what is cached of it
//! - `world`, `ledger`: readers and writers; what was written when, and judging reads by it
//! - `lag`: probes
//! - `acts`, `herd`, `audit`: what is done, one after the other
//! - `stats`, `pages`, `ticker`, `screen`, `report`: numbers, and showing them

mod acts;
mod audit;
mod catalog;
mod herd;
mod lag;
mod ledger;
mod pages;
mod report;
mod screen;
mod stage;
mod stats;
mod ticker;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusBuilder;
use ringtide_core::metrics as names;
use ringtide_core::valkey::Shard;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use acts::Acts;
use catalog::{Catalog, Item};
use report::Report;
use screen::Screen;
use stage::{Planted, Stage};
use ticker::Ticker;
use world::World;

pub(crate) use herd::join as join_herd;

/// Draining, the audit and the end of the servers take about this long.
const EPILOGUE: Duration = Duration::from_secs(2);

/// What can be chosen.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) length: Duration,
    pub(crate) shards: usize,
    pub(crate) readers: usize,
    pub(crate) writers: usize,
    pub(crate) seed: u64,
    /// Whether a route is kept from the worker, so that promises have to break.
    pub(crate) broken: bool,
}

/// Why the demo cannot go on. A broken promise is none of these.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// A server cannot be started.
    #[error(transparent)]
    Server(#[from] ringtide_servers::ServerError),
    /// The configuration that was written is refused.
    #[error(transparent)]
    Config(#[from] ringtide_core::config::ConfigError),
    /// The ring is refused.
    #[error("the ring is refused: {0}")]
    Ring(String),
    /// The worker ended by itself, or does not come up.
    #[error("the worker failed: {reason}\n{log}")]
    Worker {
        /// How it ended.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// The emulator refuses a call.
    #[error("the table: {0}")]
    Table(String),
    /// An item cannot be loaded.
    #[error(transparent)]
    Item(#[from] ringtide::dynamodb::ItemError),
    /// A read failed where none may.
    #[error(transparent)]
    Read(#[from] ringtide::Error),
    /// A ring shard cannot be reached as configured.
    #[error(transparent)]
    Connect(#[from] ringtide_core::valkey::ConnectError),
    /// A ring shard does not answer the audit.
    #[error("auditing a ring shard: {0}")]
    Audit(#[from] redis::RedisError),
    /// The herd's processes failed.
    #[error("the herd: {0}")]
    Herd(String),
    /// No place for the numbers.
    #[error("the numbers cannot be kept: {0}")]
    Numbers(String),
    /// Something on this machine failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Plays the demo and tells whether every promise was kept; whatever ends it early ends the servers too.
pub(crate) async fn play(settings: &Settings) -> Result<bool, DemoError> {
    let screen = Screen::new();
    let readers = PrometheusBuilder::new().install_recorder().map_err(|error| DemoError::Numbers(error.to_string()))?;
    let mut random = fastrand::Rng::with_seed(settings.seed);
    screen.act(&format!("setting up: the DynamoDB emulator, {} Valkey servers, the worker", settings.shards));
    let planted = if settings.broken { Planted::RouteLeftOut } else { Planted::Nothing };
    let began = Instant::now();
    let mut stage = Stage::set(settings.shards, planted).await?;
    let catalog = Catalog::connect(stage.endpoint());
    catalog.create().await?;
    let config = stage.config()?;
    let options = config.valkey.clone();
    let world = Arc::new(World::new(config, catalog).await?);
    world.fill().await?;
    stage.start_worker().await?;
    screen.say(&format!(
        "  -> {} items in table {}, all in {}",
        Item::all().count(),
        catalog::TABLE,
        stage.dir().display()
    ));

    let (stop, mut load, mut probes) = (CancellationToken::new(), JoinSet::new(), JoinSet::new());
    for (index, spec) in world.ring.shards().iter().enumerate() {
        let (world, shard) = (Arc::clone(&world), Shard::connect(spec, &options)?);
        probes.spawn(async move { lag::probe(&world, index, &shard).await });
    }
    for _ in 0..settings.readers {
        load.spawn(world::reader(Arc::clone(&world), random.fork(), stop.clone()));
    }
    for number in 0..settings.writers {
        let share = Item::busy().skip(number).step_by(settings.writers).collect();
        load.spawn(world::writer(Arc::clone(&world), share, random.fork(), stop.clone()));
    }
    let shards = stage.addresses().into_iter().enumerate().map(|(at, address)| (Stage::shard_name(at), address));
    let ticker = Ticker { world: &world, readers: readers.clone(), worker: stage.listen(), shards: shards.collect() };
    let mut acts = Acts {
        stage: &mut stage,
        world: &world,
        screen: &screen,
        report: Report::default(),
        began,
        length: settings.length.saturating_sub(EPILOGUE),
        outages: Vec::new(),
    };
    let fallbacks = || pages::sum(&readers.render(), names::READER_FALLBACKS, "");
    let report = {
        let acts = async {
            acts.steady().await?;
            acts.herd().await?;
            acts.dead_shard(fallbacks).await?;
            acts.dead_worker().await?;
            stop.cancel();
            while load.join_next().await.is_some() {}
            acts.drain().await?;
            probes.shutdown().await;
            acts.audit().await?;
            Ok::<_, DemoError>(acts)
        };
        tokio::select! {
            acts = acts => {
                let mut acts = acts?;
                screen.act("promises");
                acts.throughout();
                acts.report
            }
            () = ticker.run(&screen) => Report::default(),
        }
    };
    report.print(&screen);
    stage.clear().await?;
    screen.say(&format!("ended after {:.1} s, nothing is left behind", began.elapsed().as_secs_f64()));
    Ok(report.kept())
}
