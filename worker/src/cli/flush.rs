//! `ringtide flush`: key spaces are emptied on every ring shard, at a bounded pace.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use ringtide_core::config::Config;
use ringtide_core::ring::ShardName;
use ringtide_core::valkey::{Found, Shard, ShardError, Sweep};
use serde::Serialize;

use super::output::{Format, Output, Progress};
use super::ring::connect;
use super::{Common, Exit};

/// Names that a walk looks at in one page, about.
const PAGE: f64 = 250.0;

/// How often progress is shown.
const LOOK: Duration = Duration::from_millis(250);

/// Removes every entry of key spaces, and their leases, from all ring shards, at a bounded pace.
///
/// Names are found by what the key spaces' keys begin with. Nothing else on the servers is touched.
#[derive(Debug, Args)]
pub(super) struct Flush {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    what: What,
    /// Only counts what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// The most names that are looked at in a second, on each ring shard.
    #[arg(long, value_name = "NAMES", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How long a ring shard may take to be reached, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// A key space.
    #[arg(long, value_name = "NAME")]
    space: Option<String>,
    /// Every key space that the table's routes feed.
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// Every key space.
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    spaces: Vec<Space>,
    ring_shards: Vec<Flushed>,
}

#[derive(Serialize)]
struct Space {
    name: String,
    /// What the names begin with that are removed.
    prefix: String,
    /// Other key spaces whose keys begin so as well, and are removed too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    includes: Vec<String>,
}

/// What became of one ring shard. A name may have been found more than once.
#[derive(Serialize)]
struct Flushed {
    ring_shard: ShardName,
    entries: u64,
    locks: u64,
    removed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What was found on one ring shard so far.
#[derive(Default)]
struct Tally {
    entries: AtomicU64,
    locks: AtomicU64,
}

impl Flush {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        let opened = async {
            let config = self.common.open().await?;
            let spaces = self.what.spaces(&config).map_err(|problem| {
                tracing::error!("{problem}");
                Exit::Configuration
            })?;
            Ok::<_, Exit>((spaces, connect(&config)?))
        };
        let (spaces, shards) = match opened.await {
            Ok(opened) => opened,
            Err(exit) => return Ok(exit),
        };
        let ring_shards = self.sweep(&spaces, &shards).await;
        let report = Report { dry_run: self.dry_run, spaces, ring_shards };
        self.print(&report)?;
        let failed = report.ring_shards.iter().any(|shard| shard.error.is_some());
        Ok(if failed { Exit::Failed } else { Exit::Ok })
    }

    async fn sweep(&self, spaces: &[Space], shards: &[Shard]) -> Vec<Flushed> {
        let tallies: Vec<Tally> = shards.iter().map(|_| Tally::default()).collect();
        let sweeping = join_all(shards.iter().zip(&tallies).map(|(shard, tally)| self.sweep_one(spaces, shard, tally)));
        let mut sweeping = std::pin::pin!(sweeping);
        let mut progress = Progress::begin(if self.dry_run { "names found" } else { "names removed" });
        loop {
            match tokio::time::timeout(LOOK, &mut sweeping).await {
                Ok(flushed) => return flushed,
                Err(_) => progress.at(tallies.iter().map(Tally::names).sum(), None),
            }
        }
    }

    async fn sweep_one(&self, spaces: &[Space], shard: &Shard, tally: &Tally) -> Flushed {
        let swept = async {
            shard.ready(Duration::from_secs(self.timeout)).await?;
            let pause = Duration::from_secs_f64(PAGE / f64::from(self.rate));
            let sweep = if self.dry_run { Sweep::Count } else { Sweep::Unlink };
            let mut removed = 0;
            for space in spaces {
                removed += shard.sweep(&space.prefix, pause, sweep, &|found| tally.add(found)).await?;
            }
            Ok::<_, ShardError>(removed)
        };
        let swept = swept.await;
        Flushed {
            ring_shard: shard.name().clone(),
            entries: tally.entries.load(Ordering::Relaxed),
            locks: tally.locks.load(Ordering::Relaxed),
            removed: *swept.as_ref().unwrap_or(&0),
            error: swept.err().map(|error| error.to_string()),
        }
    }

    fn print(&self, report: &Report) -> std::io::Result<()> {
        let out = Output::from(self.format);
        for space in &report.spaces {
            out.line(format!("key space {}: names that begin with {:?}", space.name, space.prefix))?;
            if !space.includes.is_empty() {
                out.line(format!("  which includes the keys of {}", space.includes.join(", ")))?;
            }
        }
        let rows = report.ring_shards.iter().map(|shard| {
            let numbers = [shard.entries, shard.locks, shard.removed].map(|number| number.to_string());
            let error = shard.error.clone().unwrap_or_default();
            std::iter::once(shard.ring_shard.to_string()).chain(numbers).chain([error]).collect()
        });
        let rows: Vec<Vec<String>> = rows.collect();
        out.table(&["ring shard", "entries found", "locks found", "removed", "error"], &rows)?;
        if report.ring_shards.iter().any(|shard| shard.error.is_some()) {
            out.line("not every ring shard was walked over to its end: repeat it when the ones that failed are back")?;
        } else if report.dry_run {
            out.line("nothing was removed")?;
        }
        out.json(report)
    }
}

impl What {
    /// The key spaces that are meant.
    fn spaces(&self, config: &Config) -> Result<Vec<Space>, String> {
        let known = |names: &mut dyn Iterator<Item = &str>| {
            names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
        };
        let chosen: BTreeMap<&str, &str> = if let Some(name) = &self.space {
            let space = config.spaces.get(name).ok_or_else(|| {
                let known = known(&mut config.spaces.keys().map(String::as_str));
                format!("there is no key space {name:?}; known are {known}")
            })?;
            BTreeMap::from([(name.as_str(), space.template.prefix())])
        } else if let Some(table) = &self.table {
            let routes = config.routes.iter().filter(|route| route.table == *table);
            let chosen: BTreeMap<&str, &str> =
                routes.map(|route| (&*route.space.name, route.space.template.prefix())).collect();
            if chosen.is_empty() {
                let tables: std::collections::BTreeSet<&str> =
                    config.routes.iter().map(|route| route.table.as_str()).collect();
                return Err(format!(
                    "no route names the table {table:?}; known are {}",
                    known(&mut tables.into_iter())
                ));
            }
            chosen
        } else {
            config.spaces.iter().map(|(name, space)| (name.as_str(), space.template.prefix())).collect()
        };
        let spaces = chosen.iter().map(|(&name, &prefix)| {
            let others = config
                .spaces
                .iter()
                .filter(|(other, space)| *other != name && space.template.prefix().starts_with(prefix));
            let includes = others.map(|(other, _)| other.clone()).collect();
            Space { name: name.to_owned(), prefix: prefix.to_owned(), includes }
        });
        Ok(spaces.collect())
    }
}

impl Tally {
    fn add(&self, found: Found) {
        let count = match found {
            Found::Entry => &self.entries,
            Found::Lock => &self.locks,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn names(&self) -> u64 {
        self.entries.load(Ordering::Relaxed) + self.locks.load(Ordering::Relaxed)
    }
}
