//! When the reading of one stream shard is to stop, and how it ended.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::consumer::Exit;
use crate::deliver::Deliver;
use crate::lease::fleet::Holding;

/// How often a worker that was asked for a lease looks whether it can deliver again.
const OUTAGE_CHECK: Duration = Duration::from_millis(250);

/// How the reading of a stream shard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    By(Exit),
    /// The task that writes its lease broke off.
    BrokenOff,
}

impl Closed {
    pub(super) fn of(exit: Exit, holding: &Holding) -> Self {
        if holding.is_broken() { Self::BrokenOff } else { Self::By(exit) }
    }
}

/// Resolves once a reading is to stop, which is ordered here where another worker has asked for the lease.
///
/// While a ring shard is down or being flushed the reading goes on: a stop would wait for what cannot be delivered, with nobody
/// reading meanwhile. Likewise where records cannot be parked.
pub(super) async fn to_stop(stop: CancellationToken, asked: impl Future<Output = ()>, deliver: Arc<dyn Deliver>) {
    let give_way = async {
        asked.await;
        while deliver.stands_still() {
            tokio::time::sleep(OUTAGE_CHECK).await;
        }
    };
    tokio::select! {
        // In a fixed order, so that a simulation runs the same way twice.
        biased;
        () = stop.cancelled() => {}
        () = give_way => stop.cancel(),
    }
}
