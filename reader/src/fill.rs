//! Filling: storing what was loaded, where the lease still allows it.

use bytes::Bytes;
use ringtide_core::clock::unix_ms;
use ringtide_core::entry::{Entry, Header};
use ringtide_core::key::{Chosen, Lifetime};
use ringtide_core::valkey::{Fill, FillReply, ShardError};
use ringtide_core::version::Version;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::Inner;
use crate::counters::FillOutcome;
use crate::lease::{HeldLease, Plan};
use crate::load::Load;
use crate::retry::PendingFill;

/// Writes the whole entry of what was loaded.
pub(crate) fn entry_of(load: &Load, soft_expiry_ms: u64) -> Bytes {
    let (header, payload) = match &load.encoded.payload {
        Some(payload) => {
            let header = Header { compression: payload.compression, ..Header::value(payload.codec) };
            (header, payload.bytes.clone())
        }
        None => (Header::negative(), Bytes::new()),
    };
    let load_cost_us = u32::try_from(load.took.as_micros()).unwrap_or(u32::MAX);
    let header = Header { version: load.encoded.version, load_cost_us, soft_expiry_ms, ..header };
    Entry { header, payload }.to_bytes()
}

/// How long what was loaded lives, from now on.
pub(crate) fn lifetime_of(plan: &Plan, load: &Load) -> Lifetime {
    let (space, negative) = (&plan.space.settings, load.encoded.payload.is_none());
    let chosen = Chosen { exactly: load.encoded.ttl, ..plan.options.lifetime(space, negative) };
    space.lifetime(chosen, negative, unix_ms(), fastrand::f64())
}

/// Stores the entry under the lease and ends the lease, except below the floor.
pub(crate) async fn fill(
    inner: &Inner,
    plan: &Plan,
    lease: &mut HeldLease,
    load: &Load,
    (entry, ttl): (Bytes, Duration),
    proven: Version,
) -> Result<FillReply, ShardError> {
    if load.encoded.payload.is_some() && load.encoded.version == Version::NONE {
        plan.space.note_unversioned();
    }
    let inline_max = inner.settings.inline_max;
    let fill = Fill { token: lease.token(), version: load.encoded.version, proven, ttl, entry, inline_max };
    let reply = lease.fill(&fill).await;
    let outcome = match &reply {
        Ok(FillReply::Stored) => FillOutcome::Stored,
        Ok(FillReply::Void) => FillOutcome::Void,
        Ok(FillReply::Below { .. }) => FillOutcome::Below,
        Ok(FillReply::Older) => FillOutcome::Older,
        Err(ShardError::Unavailable { .. } | ShardError::TimedOut { .. }) => {
            let (key, space, until) = (plan.key.clone(), Arc::clone(&plan.space), lease.leave());
            inner.retries.fill(&plan.shard, PendingFill { key, space, fill, until: until.into() });
            FillOutcome::Failed
        }
        Err(ShardError::Rejected { .. }) => FillOutcome::Failed,
    };
    plan.space.counters.fills.add(outcome);
    tracing::debug!(key = %plan.key, ?outcome, "fill");
    reply
}
