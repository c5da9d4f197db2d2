//! How long a ring shard that fails is left alone.

use std::time::Duration;

use super::shard::RingShard;
use crate::backoff::Backoff;

const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// Exponential back-off with jitter, cut short when a shard that could not be reached can be.
#[derive(Default)]
pub(super) struct ShardBackoff {
    current: Option<Backoff>,
    unreachable: bool,
}

impl ShardBackoff {
    pub(super) fn grow(&mut self, unreachable: bool) {
        match &mut self.current {
            None => self.current = Some(Backoff::new(FIRST_BACKOFF, LAST_BACKOFF)),
            Some(backoff) => _ = backoff.next_pause(),
        }
        self.unreachable = unreachable;
    }

    pub(super) fn reset(&mut self) {
        self.current = None;
    }

    pub(super) async fn pause(&self, shard: &dyn RingShard) {
        let Some(mut backoff) = self.current else { return };
        // A connection that breaks as soon as it is made must not be hurried on.
        tokio::time::sleep(FIRST_BACKOFF).await;
        let rest = backoff.next_from_half(fastrand::f64()).saturating_sub(FIRST_BACKOFF);
        if self.unreachable {
            shard.reachable(rest).await;
        } else {
            tokio::time::sleep(rest).await;
        }
    }
}
