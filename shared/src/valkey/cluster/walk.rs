//! Walking over all masters, whatever moves between them in the meantime.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures_util::future::try_join_all;
use redis::Value;

use super::members::Map;
use super::slots::Address;
use super::{Cluster, slot_of};
use crate::valkey::ShardError;
use crate::valkey::flush::Walk;
use crate::valkey::link::Links;

/// Walks over the whole cluster before it is given up because slots keep moving.
const PASSES: usize = 20;

/// Who serves what, and what is on its way.
#[derive(PartialEq, Eq)]
struct State {
    /// For each master what it says about itself: its epoch, its slots, and which of them are moving.
    masters: BTreeMap<String, String>,
    moving: bool,
}

impl Cluster {
    /// Unlinks what matches and is `wanted`, on every master.
    pub(in crate::valkey) async fn unlink(
        &self,
        pattern: &str,
        wanted: impl Fn(&[u8]) -> bool + Sync,
        pause: Duration,
    ) -> Result<u64, ShardError> {
        let wanted = &wanted;
        let unlink =
            |names: Vec<Vec<u8>>| async move { self.unlink_each(names.iter().filter(|name| wanted(name))).await };
        self.each_page(pattern, pause, unlink).await
    }

    /// Does something about each page of the names that match, on every master; returns the sum of what that returns.
    pub(in crate::valkey) async fn each_page<F: Future<Output = Result<u64, ShardError>>>(
        &self,
        pattern: &str,
        pause: Duration,
        page: impl Fn(Vec<Vec<u8>>) -> F,
    ) -> Result<u64, ShardError> {
        let mut sum = 0;
        let mut passes = Passes::begin(self).await?;
        while !passes.over {
            let map = self.shared().map().clone();
            let page = &page;
            let walks = map.nodes.iter().map(|node| async move {
                let mut walk = Walk::new(&node.links, pattern, pause)?;
                let mut sum = 0;
                while let Some(names) = walk.next().await? {
                    sum += page(names).await?;
                }
                Ok(sum)
            });
            sum += try_join_all(walks).await?.into_iter().sum::<u64>();
            passes.end(self, &map).await?;
        }
        Ok(sum)
    }

    /// The names that match, on every master.
    pub(in crate::valkey) async fn names(
        &self,
        pattern: &str,
        pause: Duration,
    ) -> Result<HashSet<Vec<u8>>, ShardError> {
        let mut found = HashSet::new();
        let mut passes = Passes::begin(self).await?;
        while !passes.over {
            let map = self.shared().map().clone();
            for node in &map.nodes {
                let mut walk = Walk::new(&node.links, pattern, pause)?;
                while let Some(names) = walk.next().await? {
                    found.extend(names);
                }
            }
            passes.end(self, &map).await?;
        }
        Ok(found)
    }

    /// Unlinks names wherever they are; returns how many there were.
    pub(in crate::valkey) async fn unlink_each(
        &self,
        names: impl Iterator<Item = &Vec<u8>>,
    ) -> Result<u64, ShardError> {
        let call = |name: &Vec<u8>| {
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(&name[..]);
            (slot_of(name), unlink)
        };
        let mut unlinked = 0;
        for answer in self.send_all(names.map(call).collect(), None).await {
            match answer? {
                Value::Int(count) => unlinked += u64::try_from(count).unwrap_or_default(),
                Value::ServerError(error) => return Err(self.rejected(&error)),
                _ => return Err(ShardError::unexpected(self.name(), "UNLINK")),
            }
        }
        Ok(unlinked)
    }

    /// Asks anew who serves what.
    async fn state(&self) -> Result<State, ShardError> {
        if self.shared().discover().await.is_err() || self.shared().map().missing > 0 {
            return Err(self.unavailable());
        }
        let map = self.shared().map().clone();
        let mut masters = BTreeMap::new();
        for node in &map.nodes {
            // One master, as a proxy shows, has nowhere to move a slot to.
            let own =
                if map.nodes.len() == 1 { String::new() } else { self.own_line(&node.links, &node.address).await? };
            masters.insert(node.address.to_string(), own);
        }
        let moving = masters.values().any(|own| own.contains('['));
        Ok(State { masters, moving })
    }

    /// What a master says about itself in `CLUSTER NODES`, without what changes by the second.
    async fn own_line(&self, links: &Links, address: &Address) -> Result<String, ShardError> {
        let text = match links.ask(redis::cmd("CLUSTER").arg("NODES")).await? {
            Value::VerbatimString { text, .. } => text,
            Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => return Err(ShardError::unexpected(self.name(), "CLUSTER NODES")),
        };
        let own = text.lines().find(|line| line.split(' ').nth(2).is_some_and(|flags| flags.contains("myself")));
        // Id, address, flags, primary, ping, pong, epoch, link, slots.
        let own = own.map(|line| line.split(' ').skip(6).filter(|field| *field != "connected").collect::<Vec<_>>());
        own.map(|fields| fields.join(" ")).ok_or_else(|| {
            tracing::warn!(ring_shard = %self.name(), %address, "a master does not know itself");
            ShardError::unexpected(self.name(), "CLUSTER NODES")
        })
    }
}

/// Tells when a walk has seen everything that was there when it began.
///
/// A slot may move in the middle of a walk, from a master that is not walked over yet to one that already was: then
/// everything is walked over again. While a slot is moving, its names go one way only, so that a second pass under the
/// same circumstances finds what has escaped the first.
struct Passes {
    state: State,
    /// A pass under the same circumstances has ended.
    once: bool,
    over: bool,
    left: usize,
}

impl Passes {
    async fn begin(cluster: &Cluster) -> Result<Self, ShardError> {
        Ok(Self { state: cluster.state().await?, once: false, over: false, left: PASSES })
    }

    async fn end(&mut self, cluster: &Cluster, walked: &Map) -> Result<(), ShardError> {
        let now = cluster.state().await?;
        let same = now == self.state && walked.nodes.len() == now.masters.len();
        self.over = same && (self.once || !now.moving);
        self.once = same;
        self.state = now;
        self.left -= 1;
        if self.left == 0 && !self.over {
            let text = "slots keep moving, so that not every name can have been seen".into();
            return Err(ShardError::Rejected { shard: cluster.name().clone(), code: "TRYAGAIN".into(), text });
        }
        Ok(())
    }
}
