//! `ringtide locate`: where keys live, and what is kept there.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ringtide_core::clock::unix_ms;
use ringtide_core::config::Config;
use ringtide_core::entry::{Codec, Compression, State};
use ringtide_core::key::CacheKey;
use ringtide_core::ring::{Membership, Placement, Ring, RingHistory, ShardName, hashed_part};
use ringtide_core::valkey::{Expiry, Look, Shard, cluster_slot};
use ringtide_core::version::Version;
use serde::Serialize;

use super::output::{Format, Output, span, waiting};
use super::ring::{connect, history};
use super::{Common, Exit};

/// How long a ring shard may take to be reached.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

const PLACEMENTS: [Placement; 3] = [Placement::Ringtide, Placement::Skipper, Placement::GoRedis];

/// Tells where keys live, under each placement, and what is kept there.
#[derive(Debug, Args)]
pub(super) struct Locate {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// Keys, as readers and invalidators render them.
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
    /// Asks the ring shards for the headers of what they keep; never for values.
    #[arg(long)]
    entry: bool,
    /// A configuration with an earlier [ring]: invalidations reach its owners too while entries of that time can live. Oldest
    /// first.
    #[arg(long, value_name = "FILE")]
    earlier: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Located {
    key: String,
    /// The part of the key that places it.
    hashed_part: String,
    lock: String,
    ring_shard: ShardName,
    address: String,
    /// Its slot on the ring; `None` under a placement without slots.
    slot: Option<u32>,
    /// The slot of a cluster's servers, where the ring shard is a cluster.
    cluster_slot: Option<u16>,
    /// Ring shards that only earlier memberships name as owner, newest first.
    earlier_owners: Vec<ShardName>,
    placements: Vec<Placed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<Found>>,
}

/// Where a key lives under one placement.
#[derive(Serialize)]
struct Placed {
    placement: Placement,
    configured: bool,
    ring_shard: Option<ShardName>,
    slot: Option<u32>,
    /// Why the ring's shards cannot be placed so.
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
}

/// What one ring shard keeps of a key.
#[derive(Serialize)]
struct Found {
    ring_shard: ShardName,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<EntryHeader>,
    /// For how long the lock lives, in milliseconds, where a lease is held.
    lock_ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct EntryHeader {
    /// `None` where it is no entry.
    state: Option<&'static str>,
    codec: Option<&'static str>,
    compression: Option<&'static str>,
    /// 56 hexadecimal digits; `None` for no version.
    version: Option<String>,
    floor: Option<String>,
    /// In unix ms; `None` for never.
    soft_expiry_ms: Option<u64>,
    load_cost_us: Option<u32>,
    bytes: usize,
    /// In milliseconds; `None` for never, or where this client may not ask.
    ttl_ms: Option<u64>,
    /// Why readers take it for a miss.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_an_entry: Option<String>,
}

impl Locate {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        let located = match self.locate().await {
            Ok(located) => located,
            Err(exit) => return Ok(exit),
        };
        let out = Output::from(self.format);
        for located in &located {
            located.print(out)?;
        }
        out.json(&located)?;
        let unknown =
            located.iter().flat_map(|located| located.entries.iter().flatten()).any(|found| found.error.is_some());
        Ok(if unknown { Exit::Failed } else { Exit::Ok })
    }

    async fn locate(&self) -> Result<Vec<Located>, Exit> {
        let config = self.common.open().await?;
        let history = self.history(&config)?;
        let shards = if self.entry { connect(&config)? } else { Vec::new() };
        let mut all = Vec::new();
        for text in &self.keys {
            let key = CacheKey::new(text.as_str()).map_err(|error| {
                tracing::error!("{text:?}: {error}");
                Exit::Configuration
            })?;
            let mut located = Located::of(&key, &history, config.valkey.cluster);
            if self.entry {
                let mut found = Vec::new();
                for shard in shards.iter().filter(|shard| located.owners().any(|owner| owner == shard.name())) {
                    found.push(waiting("asking ring shards", Found::on(shard, &key)).await);
                }
                located.entries = Some(found);
            }
            all.push(located);
        }
        Ok(all)
    }

    /// The configuration's ring after the earlier ones.
    fn history(&self, config: &Config) -> Result<RingHistory, Exit> {
        if self.earlier.is_empty() {
            return history(config);
        }
        let mut memberships = Vec::new();
        for path in &self.earlier {
            let earlier = Config::load(path, []).map_err(|error| {
                tracing::error!("{error}");
                Exit::Configuration
            })?;
            memberships.push(earlier.ring);
        }
        memberships.push(config.ring.clone());
        RingHistory::restore(memberships, config.ring_window_ms(), unix_ms()).map_err(|error| {
            tracing::error!("the memberships of the ring do not follow each other: {error}");
            Exit::Configuration
        })
    }
}

impl Located {
    fn of(key: &CacheKey, history: &RingHistory, cluster: bool) -> Self {
        let ring = history.current();
        let membership = ring.membership();
        let owners = history.owners(key.as_bytes(), unix_ms());
        let owner = ring.owner(key.as_bytes());
        let hashed = match membership.placement {
            Placement::Skipper => key.as_bytes(),
            Placement::Ringtide | Placement::GoRedis => hashed_part(key.as_bytes()),
        };
        Self {
            key: key.to_string(),
            hashed_part: String::from_utf8_lossy(hashed).into_owned(),
            lock: key.lock(),
            ring_shard: owner.name.clone(),
            address: owner.address.clone(),
            slot: slot(ring, key),
            cluster_slot: cluster.then(|| cluster_slot(key.as_bytes())),
            earlier_owners: owners.others().iter().map(|name| (*name).clone()).collect(),
            placements: PLACEMENTS.map(|placement| Placed::of(key, membership, placement)).into(),
            entries: None,
        }
    }

    fn owners(&self) -> impl Iterator<Item = &ShardName> {
        std::iter::once(&self.ring_shard).chain(&self.earlier_owners)
    }

    fn print(&self, out: Output) -> std::io::Result<()> {
        let line = |name: &str, value: String| out.line(format!("  {name:<16}{value}"));
        let slot = |slot: Option<u32>| slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
        out.line(&self.key)?;
        line("ring shard", format!("{} ({}){}", self.ring_shard, self.address, slot(self.slot)))?;
        if !self.earlier_owners.is_empty() {
            let names: Vec<&str> = self.earlier_owners.iter().map(ShardName::as_str).collect();
            line("earlier owners", names.join(", "))?;
        }
        line("lock", self.lock.clone())?;
        if self.hashed_part != self.key {
            line("placed by", self.hashed_part.clone())?;
        }
        if let Some(slot) = self.cluster_slot {
            line("cluster slot", slot.to_string())?;
        }
        for placed in self.placements.iter().filter(|placed| !placed.configured) {
            let place = match (&placed.ring_shard, &placed.why_not) {
                (Some(shard), _) => format!("{shard}{}", slot(placed.slot)),
                (None, why_not) => format!("not possible: {}", why_not.clone().unwrap_or_default()),
            };
            line(&format!("under {}", placed.placement), place)?;
        }
        for found in self.entries.iter().flatten() {
            line(&format!("on {}", found.ring_shard), found.text())?;
        }
        Ok(())
    }
}

fn slot(ring: &Ring, key: &CacheKey) -> Option<u32> {
    (ring.membership().placement != Placement::GoRedis).then(|| ring.slot(key.as_bytes()))
}

impl Placed {
    fn of(key: &CacheKey, membership: &Membership, placement: Placement) -> Self {
        let configured = membership.placement == placement;
        match Ring::new(Membership { placement, ..membership.clone() }) {
            Ok(ring) => {
                let ring_shard = Some(ring.owner(key.as_bytes()).name.clone());
                Self { placement, configured, ring_shard, slot: slot(&ring, key), why_not: None }
            }
            Err(errors) => {
                let why_not = errors.first().map(ToString::to_string);
                Self { placement, configured, ring_shard: None, slot: None, why_not }
            }
        }
    }
}

impl Found {
    async fn on(shard: &Shard, key: &CacheKey) -> Self {
        let looked = match shard.ready(REACHED_WITHIN).await {
            Ok(()) => shard.look(key).await,
            Err(error) => Err(error),
        };
        let ring_shard = shard.name().clone();
        match looked {
            Ok(Look { entry, lock }) => Self {
                ring_shard,
                entry: entry.map(|entry| EntryHeader::of(&entry)),
                lock_ttl_ms: lock.and_then(ttl_ms),
                error: None,
            },
            Err(error) => Self { ring_shard, entry: None, lock_ttl_ms: None, error: Some(error.to_string()) },
        }
    }

    fn text(&self) -> String {
        if let Some(error) = &self.error {
            return format!("unknown: {error}");
        }
        let mut parts = vec![self.entry.as_ref().map_or_else(|| "nothing cached".to_owned(), EntryHeader::text)];
        if let Some(ms) = self.lock_ttl_ms {
            parts.push(format!("lease held for another {}", span(Duration::from_millis(ms))));
        }
        parts.join("; ")
    }
}

impl EntryHeader {
    fn of(looked: &ringtide_core::valkey::LookedAt) -> Self {
        let header = looked.header.as_ref().ok();
        let version = |version: Version| (!version.is_none()).then(|| hex(&version));
        Self {
            state: header.map(|header| match header.state {
                State::Tombstone => "tombstone",
                State::Value => "value",
                State::Negative => "negative",
                State::Stale => "stale",
            }),
            codec: header.map(|header| match header.codec {
                Codec::Raw => "raw",
                Codec::Json => "json",
                Codec::MessagePack => "messagepack",
            }),
            compression: header.map(|header| match header.compression {
                Compression::None => "none",
                Compression::Zstd => "zstd",
            }),
            version: header.and_then(|header| version(header.version)),
            floor: header.and_then(|header| version(header.floor)),
            soft_expiry_ms: header.map(|header| header.soft_expiry_ms).filter(|at| *at > 0),
            load_cost_us: header.map(|header| header.load_cost_us),
            bytes: looked.bytes,
            ttl_ms: ttl_ms(looked.expiry),
            not_an_entry: looked.header.as_ref().err().map(ToString::to_string),
        }
    }

    fn text(&self) -> String {
        let mut parts = match (&self.not_an_entry, self.state) {
            (Some(why), _) => vec![format!("no entry: {why}")],
            (None, state) => vec![state.unwrap_or("value").to_owned()],
        };
        parts.push(format!("{} B", self.bytes));
        parts.extend(self.version.as_ref().map(|version| format!("version {version}")));
        parts.extend(self.floor.as_ref().map(|floor| format!("floor {floor}")));
        parts.extend(self.soft_expiry_ms.map(|at| match at.checked_sub(unix_ms()) {
            Some(left) => format!("fresh for another {}", span(Duration::from_millis(left))),
            None => "no longer fresh".to_owned(),
        }));
        parts.push(match self.ttl_ms {
            Some(ms) => format!("ends in {}", span(Duration::from_millis(ms))),
            None => "no end known".to_owned(),
        });
        parts.join(", ")
    }
}

fn ttl_ms(expiry: Expiry) -> Option<u64> {
    match expiry {
        Expiry::After(left) => u64::try_from(left.as_millis()).ok(),
        Expiry::Never | Expiry::Unknown => None,
    }
}

fn hex(version: &Version) -> String {
    version.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}
