//! One page of a warm-up: leases first, then the items, then the fills.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use ringtide_core::command::{Action, Command};
use ringtide_core::key::{CacheKey, KeySpace, Mode};
use ringtide_core::valkey::{
    Fill, FillReply, LeaseReply, LeaseRequest, Release, Shard, ShardError, Token, image_entry,
};
use ringtide_core::version::Version;

use super::{Counts, Warm, WarmError};
use crate::item::Item;
use crate::table;

/// Items whose entries could not be written.
#[derive(Debug)]
pub(super) struct Failed {
    /// Their identities.
    pub(super) items: BTreeSet<String>,
    /// What the last one failed of.
    pub(super) reason: String,
}

/// A key whose lease is held.
struct Leased<'w> {
    shard: &'w Shard,
    identity: String,
    item_key: Item,
    command: Command,
    token: Token,
    /// What a strong load that begins now is known to have seen.
    floor: Version,
}

/// What a lease was asked for, and what came.
enum Asked<'w> {
    Leased(Box<Leased<'w>>),
    Cached,
    Loading,
    Failed(String, String),
}

/// Fills the entries of these items; tells those that a ring shard did not take.
pub(super) async fn page(warm: &Warm<'_>, items: &[&Item]) -> Result<(Counts, Option<Failed>), WarmError> {
    let (mut counts, mut failed) = (Counts::default(), None);
    let mut fail = |identity: String, reason: String| {
        let failed = failed.get_or_insert_with(|| Failed { items: BTreeSet::new(), reason: String::new() });
        failed.items.insert(identity);
        failed.reason = reason;
    };
    let mut asking = Vec::new();
    for item in items {
        let Some(identity) = warm.primary.identity(item) else { continue };
        for command in warm.commands(item) {
            asking.push(lease(warm, identity.clone(), item, command));
        }
    }
    let mut leased = Vec::new();
    for asked in join_all(asking).await {
        match asked {
            Asked::Leased(held) => leased.push(*held),
            Asked::Cached => counts.cached += 1,
            Asked::Loading => counts.loading += 1,
            Asked::Failed(identity, reason) => fail(identity, reason),
        }
    }
    // Only now: what was delivered before a lease was granted is seen by a strong read that begins after it.
    let keys: Vec<Item> = leased.iter().map(|held| held.item_key.clone()).collect();
    let read = table::read(warm.client, &warm.table, &warm.primary, &keys).await;
    let read = match read {
        Ok(read) => read,
        Err(error) => {
            join_all(leased.iter().map(Leased::give_back)).await;
            return Err(error.into());
        }
    };
    let fills = leased.into_iter().map(|held| {
        let item = read.get(&held.identity);
        async move { (held.identity.clone(), held.fill(warm, item).await) }
    });
    for (identity, filled) in join_all(fills).await {
        match filled {
            Ok(Some(FillReply::Stored)) => counts.filled += 1,
            Ok(Some(FillReply::Void | FillReply::Below { .. } | FillReply::Older)) => counts.overtaken += 1,
            Ok(None) => counts.without_image += 1,
            Err(error) => fail(identity, error.to_string()),
        }
    }
    Ok((counts, failed))
}

async fn lease<'w>(warm: &'w Warm<'_>, identity: String, item: &Item, command: Command) -> Asked<'w> {
    let Some(shard) = warm.shards.owner(&command.key) else {
        return Asked::Failed(identity, "the ring has no such shard".to_owned());
    };
    // A token is sent once: after a failure the next try takes another one.
    let token = Token::random();
    let request = LeaseRequest { token, ttl: warm.lease, inbox: None, refresh_before_ms: 0 };
    match shard.lease(&command.key, &request).await {
        Ok(LeaseReply::Hit(_)) => Asked::Cached,
        Ok(LeaseReply::Wait { .. }) => Asked::Loading,
        Ok(LeaseReply::Granted { floor, .. }) => {
            let item_key = crate::item::key_of(item, warm.primary.names());
            Asked::Leased(Box::new(Leased { shard, identity, item_key, command, token, floor }))
        }
        Err(error) => {
            // It may have been taken all the same.
            give_back(shard, &command.key, &token).await;
            Asked::Failed(identity, error.to_string())
        }
    }
}

impl Leased<'_> {
    /// Stores the item's image and ends the lease; `None` where there is no image.
    async fn fill(&self, warm: &Warm<'_>, item: Option<&Item>) -> Result<Option<FillReply>, ShardError> {
        let key = &self.command.key;
        let commands = item.map(|item| warm.commands(item)).unwrap_or_default();
        let same = |command: &&Command| command.key == *key && command.space.name == self.command.space.name;
        let action = commands.iter().find(same).map(|command| &command.action);
        let Some(Action::Refresh { version, image, .. }) = action else {
            self.give_back().await;
            return Ok(None);
        };
        let version = known(&self.command.space, *version);
        let (entry, ttl) = image_entry(image, &self.command.space, version);
        let (token, proven, inline_max) = (self.token, self.floor, warm.inline_max);
        let fill = Fill { token, version, proven, ttl, entry, inline_max };
        let reply = self.shard.fill(key, &fill).await;
        if matches!(reply, Ok(FillReply::Below { .. }) | Err(_)) {
            self.give_back().await;
        }
        reply.map(Some)
    }

    async fn give_back(&self) {
        give_back(self.shard, &self.command.key, &self.token).await;
    }
}

/// The version of an item that was read from its table: its place in the stream is not known.
fn known(space: &KeySpace, version: Version) -> Version {
    match space.mode {
        Mode::Versioned { .. } => version,
        Mode::Plain | Mode::Settle { .. } => Version::NONE,
    }
}

async fn give_back(shard: &Shard, key: &CacheKey, token: &Token) {
    if let Err(error) = shard.release(key, token, Release::Retry).await {
        tracing::debug!(%key, %error, "lease not given back, it expires");
    }
}
