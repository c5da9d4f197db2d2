//! Warming: filling what refresh routes would store, from a scan of the table, beside the stream.
//!
//! A scanned item has no place in the stream, so that an image of it could overtake a newer one, and an entry that was
//! evicted meanwhile could not tell. So warming reads as a reader does: the scan only names items; each key's lease is
//! taken, then its item is read strongly consistent, then it is filled. A change that is delivered in between takes the lease
//! away, and the fill is refused.

mod fill;
pub(crate) mod position;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use futures_util::{StreamExt, stream};
use ringtide_core::backoff::Backoff;
use ringtide_core::command::Command;
use ringtide_core::config::Config;
use ringtide_core::route::{Route, RouteAction, Router};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::aws::Failure;
use crate::ceiling::Ceiling;
use crate::item::{self, Item};
use crate::ring_shards::RingShards;
use crate::table::{self, PrimaryKey, TableError};

use position::{Position, Positions};

/// Tries of a page before its segment is given up.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A warm-up's leases live at least so long: a batch is read while they do.
const LEASE: Duration = Duration::from_secs(5);

/// What became of the items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    /// Items that the scan named.
    pub(crate) items: u64,
    /// Entries that were stored.
    pub(crate) filled: u64,
    /// Keys that were cached already.
    pub(crate) cached: u64,
    /// Keys that somebody else was loading.
    pub(crate) loading: u64,
    /// Fills that were refused because a change was delivered meanwhile.
    pub(crate) overtaken: u64,
    /// Items that have no image to store: gone meanwhile, or without a usable version.
    pub(crate) without_image: u64,
}

/// Why a warm-up ended early. What is noted in its positions is done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WarmError {
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A ring shard cannot be written to.
    #[error("{0}; nothing past this page was noted as done")]
    Ring(String),
    /// The positions cannot be stored.
    #[error("the position cannot be written to {path}: {source}")]
    Positions {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Warms one table.
pub(crate) struct Warm<'a> {
    pub(crate) client: &'a Client,
    pub(crate) shards: &'a RingShards,
    pub(crate) ceiling: &'a Ceiling,
    pub(crate) table: String,
    pub(crate) primary: PrimaryKey,
    router: Router,
    /// The key spaces that routes of the table refresh.
    spaces: BTreeSet<String>,
    /// The attributes that keys are made of.
    named: BTreeSet<String>,
    lease: Duration,
    inline_max: usize,
}

impl<'a> Warm<'a> {
    /// Prepares it; `None` where no route of the table refreshes.
    pub(crate) fn new(
        config: &Config,
        table: &str,
        primary: PrimaryKey,
        client: &'a Client,
        shards: &'a RingShards,
        ceiling: &'a Ceiling,
    ) -> Option<Self> {
        let refreshes = |route: &&Route| route.table == table && matches!(route.action, RouteAction::Refresh { .. });
        let routes: Vec<&Route> = config.routes.iter().filter(refreshes).collect();
        let spaces: BTreeSet<String> = routes.iter().map(|route| route.space.name.to_string()).collect();
        let named = routes.iter().flat_map(|route| route.attributes.iter().cloned());
        let named = named.chain(primary.names().iter().cloned()).collect();
        let router = Router::new(routes.into_iter().cloned().collect());
        let lease = config.reader.lease_ttl.max(LEASE);
        let inline_max = config.reader.inline_max;
        let table = table.to_owned();
        (!spaces.is_empty()).then_some(Self {
            client,
            shards,
            ceiling,
            table,
            primary,
            router,
            spaces,
            named,
            lease,
            inline_max,
        })
    }

    /// Fills everything that is not done yet, segment by segment side by side, until `stop`; `told` is called after each page.
    ///
    /// # Errors
    /// [`WarmError`], once every segment has ended its page.
    pub(crate) async fn run(
        &self,
        positions: &Positions,
        stop: &CancellationToken,
        told: &(dyn Fn(Counts) + Sync),
    ) -> Result<Counts, WarmError> {
        let counts = Mutex::new(Counts::default());
        let open = positions.open();
        let segments = open.len().max(1);
        // Where one segment fails, the others end their pages.
        let stop = stop.child_token();
        let (stop, counts_of) = (&stop, &counts);
        let ends: Vec<Result<(), WarmError>> = stream::iter(open)
            .map(|(segment, after)| async move {
                let ended = self.segment(segment, after, positions, stop, counts_of, told).await;
                ended.inspect_err(|_| stop.cancel())
            })
            .buffer_unordered(segments)
            .collect()
            .await;
        let stored = positions.store().map_err(|(path, source)| WarmError::Positions { path, source });
        ends.into_iter().collect::<Result<(), _>>().and(stored)?;
        Ok(counts.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads one page of the whole table, and tells the keys that it would fill.
    ///
    /// # Errors
    /// The scan's.
    pub(crate) async fn first_keys(&self) -> Result<Vec<Command>, WarmError> {
        let (items, _) = self.scan(0, 1, None).await?;
        Ok(items.iter().flat_map(|item| self.commands(item)).collect())
    }

    async fn segment(
        &self,
        segment: usize,
        mut after: Option<Item>,
        positions: &Positions,
        stop: &CancellationToken,
        counts: &Mutex<Counts>,
        told: &(dyn Fn(Counts) + Sync),
    ) -> Result<(), WarmError> {
        while !stop.is_cancelled() {
            let (items, next) = self.scan(segment, positions.segments(), after).await?;
            tokio::select! {
                () = self.ceiling.take(items.len()) => {}
                () = stop.cancelled() => return Ok(()),
            }
            let page = self.fill(&items).await?;
            let so_far = {
                let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                counts.add(page);
                *counts
            };
            told(so_far);
            let reached = next.clone().map_or(Position::Done, Position::After);
            positions.reached(segment, reached).map_err(|(path, source)| WarmError::Positions { path, source })?;
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok(())
    }

    /// Reads a page of a segment: what keys are made of, and where the next one begins.
    async fn scan(
        &self,
        segment: usize,
        segments: usize,
        after: Option<Item>,
    ) -> Result<(Vec<Item>, Option<Item>), WarmError> {
        let failed = |reason| TableError::Call { call: "Scan", table: self.table.clone(), reason };
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let mut request = self.client.scan().table_name(&self.table).limit(number(table::BATCH));
        if segments > 1 {
            request = request.segment(number(segment)).total_segments(number(segments));
        }
        let mut projection = Vec::new();
        for (index, name) in self.named.iter().enumerate() {
            request = request.expression_attribute_names(format!("#n{index}"), name);
            projection.push(format!("#n{index}"));
        }
        let request = request.projection_expression(projection.join(", "));
        let after = after.as_ref().and_then(item::key_to_sdk);
        let output = request.set_exclusive_start_key(after).send().await;
        let output = output.map_err(|error| failed(Failure::of(&error).to_string()))?;
        let items: Result<Vec<Item>, String> = output.items.unwrap_or_default().iter().map(item::from_sdk).collect();
        let last = output.last_evaluated_key.filter(|key| !key.is_empty());
        let next = last.map(|key| item::from_sdk(&key)).transpose().map_err(failed)?;
        Ok((items.map_err(failed)?, next))
    }

    /// The commands of refresh routes for an item.
    fn commands(&self, item: &Item) -> Vec<Command> {
        let commands = item::commands(&self.router, &self.table, self.primary.names(), item);
        commands.into_iter().filter(|command| self.spaces.contains(&*command.space.name)).collect()
    }

    /// Fills a page; tries again what fails, as long as that makes sense.
    async fn fill(&self, items: &[Item]) -> Result<Counts, WarmError> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut total = Counts { items: items.len() as u64, ..Counts::default() };
        let mut open: Vec<&Item> = items.iter().collect();
        for tries in 1.. {
            let (page, failed) = fill::page(self, &open).await?;
            total.add(page);
            let Some(failure) = failed else { break };
            if tries == TRIES {
                return Err(WarmError::Ring(failure.reason));
            }
            tracing::debug!(reason = failure.reason, "entries not filled, trying again");
            open.retain(|item| self.primary.identity(item).is_none_or(|identity| failure.items.contains(&identity)));
            tokio::time::sleep(backoff.next_pause()).await;
        }
        Ok(total)
    }
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.items += other.items;
        self.filled += other.filled;
        self.cached += other.cached;
        self.loading += other.loading;
        self.overtaken += other.overtaken;
        self.without_image += other.without_image;
    }
}
