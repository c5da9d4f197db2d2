//! `ringtide invalidate`: keys through the pipeline, to every ring shard that may hold them.

mod targets;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use ringtide_core::clock::unix_ms;
use ringtide_core::ring::ShardName;
use ringtide_core::route::{RouteExplanation, Router, WhyNot};
use serde::Serialize;

use super::output::{Format, Output};
use super::ring::{Delivery, ShardReport, history};
use super::{Common, Exit};

/// Invalidates keys on every ring shard that may hold them.
///
/// Keys are named by a key space and the values of its placeholders, whole, or by items of a table. Whatever their
/// versions are, entries are dropped, or marked stale where the key space keeps stale values, and leases are taken away.
#[derive(Debug, Args)]
pub(super) struct Invalidate {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    what: What,
    /// Only tells which keys would be invalidated on which ring shards.
    #[arg(long)]
    dry_run: bool,
    /// How long it may take, in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// What is to be invalidated.
#[derive(Debug, Args)]
struct What {
    /// A key space, for --key.
    #[arg(long, value_name = "NAME", requires = "keys")]
    space: Option<String>,
    /// The value of a placeholder of the key space's template; one that comes again begins the next key.
    #[arg(long = "key", value_name = "PLACEHOLDER=VALUE", requires = "space")]
    keys: Vec<String>,
    /// A whole key.
    #[arg(long, value_name = "KEY", required_unless_present_any = ["space", "table"])]
    raw_key: Vec<String>,
    /// A table, for --item.
    #[arg(long, value_name = "NAME", requires = "items")]
    table: Option<String>,
    /// An item of the table, in DynamoDB's JSON or plain; every route of the table is followed.
    #[arg(long = "item", value_name = "JSON", requires = "table")]
    items: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    delivered: bool,
    keys: Vec<Target>,
    /// Routes that lead to no key.
    skipped: Vec<Skipped>,
    ring_shards: Vec<ShardReport>,
}

#[derive(Serialize)]
struct Target {
    key: String,
    space: String,
    /// Every ring shard that may hold it, the current owner first.
    ring_shards: Vec<ShardName>,
}

#[derive(Serialize)]
struct Skipped {
    route: String,
    reason: String,
}

impl Invalidate {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        match self.invalidate().await {
            Ok(report) => {
                self.print(&report)?;
                Ok(if report.dry_run || report.delivered { Exit::Ok } else { Exit::Failed })
            }
            Err(exit) => Ok(exit),
        }
    }

    async fn invalidate(&self) -> Result<Report, Exit> {
        let config = self.common.open().await?;
        let targets = self.what.targets(&config).map_err(|problems| {
            problems.iter().for_each(|problem| tracing::error!("{problem}"));
            Exit::Configuration
        })?;
        let router = Router::new(targets.routes.clone());
        let ring = history(&config)?;
        let now = unix_ms();
        let (mut keys, mut skipped) = (BTreeMap::new(), Vec::new());
        for record in targets.records.iter().flatten() {
            for route in router.explain(record).routes {
                match reason_of(&route) {
                    Some(reason) => skipped.push(Skipped { route: route.route.place.clone(), reason }),
                    None => keys.extend(route.commands.into_iter().map(|command| {
                        let owners = ring.owners(command.key.as_bytes(), now).iter().cloned().collect();
                        let target = Target {
                            key: command.key.to_string(),
                            space: command.space.name.to_string(),
                            ring_shards: owners,
                        };
                        (command.key, target)
                    })),
                }
            }
        }
        let keys: Vec<Target> = keys.into_values().collect();
        if keys.is_empty() {
            skipped.iter().for_each(|Skipped { route, reason }| tracing::error!("{route}: {reason}"));
            tracing::error!("no key is to be invalidated; `ringtide explain` tells which keys a record leads to");
            return Err(Exit::Failed);
        }
        if self.dry_run {
            return Ok(Report { dry_run: true, delivered: false, keys, skipped, ring_shards: Vec::new() });
        }
        let delivery = Delivery::start(&config, targets.routes)?;
        let delivered = delivery.deliver(&targets.records, Duration::from_secs(self.timeout)).await;
        let delivered = delivered.first_undelivered.is_none();
        Ok(Report { dry_run: false, delivered, keys, skipped, ring_shards: delivery.end().await })
    }

    fn print(&self, report: &Report) -> std::io::Result<()> {
        let out = Output::from(self.format);
        let rows = report.keys.iter().map(|target| {
            let shards: Vec<&str> = target.ring_shards.iter().map(ShardName::as_str).collect();
            vec![target.key.clone(), target.space.clone(), shards.join(", ")]
        });
        out.table(&["key", "space", "ring shards"], &rows.collect::<Vec<_>>())?;
        for Skipped { route, reason } in &report.skipped {
            out.line(format!("no key at {route}: {reason}"))?;
        }
        if report.dry_run {
            out.line(format!("{} keys would be invalidated", report.keys.len()))?;
        } else {
            out.line("")?;
            let shards: Vec<Vec<String>> = report.ring_shards.iter().map(ShardReport::row).collect();
            out.table(&ShardReport::HEADERS, &shards)?;
            if !report.delivered {
                let more = "repeat it when the ring shards that failed are back; what was delivered stays so";
                out.line(format!("not everything was delivered within {} s: {more}", self.timeout))?;
            }
        }
        out.json(report)
    }
}

fn reason_of(route: &RouteExplanation<'_>) -> Option<String> {
    match route.why_not.as_ref()? {
        // Items are all keys and no image.
        WhyNot::NoImage(names) => Some(format!("the item has no {}", names.join(" and no "))),
        why_not => Some(why_not.to_string()),
    }
}
