//! How long a ring shard that fails is left alone.

use std::time::Duration;

use super::shard::RingShard;

const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// Exponential back-off with jitter, cut short when a shard that could not be reached can be.
#[derive(Default)]
pub(super) struct Backoff {
    current: Option<Duration>,
    unreachable: bool,
}

impl Backoff {
    pub(super) fn grow(&mut self, unreachable: bool) {
        self.current = Some(self.current.map_or(FIRST_BACKOFF, |last| (last * 2).min(LAST_BACKOFF)));
        self.unreachable = unreachable;
    }

    pub(super) fn reset(&mut self) {
        self.current = None;
    }

    pub(super) async fn pause(&self, shard: &dyn RingShard) {
        let Some(pause) = self.current else { return };
        // A connection that breaks as soon as it is made must not be hurried on.
        tokio::time::sleep(FIRST_BACKOFF).await;
        let rest = pause.mul_f64(0.5 + fastrand::f64() / 2.0).saturating_sub(FIRST_BACKOFF);
        if self.unreachable {
            shard.reachable(rest).await;
        } else {
            tokio::time::sleep(rest).await;
        }
    }
}
