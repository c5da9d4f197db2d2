//! The reading of one stream shard, until it ends or somebody else is to do it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::consumer::Exit;
use crate::deliver::Deliver;
use crate::lease::fleet::Holding;

/// How often a worker that was asked for a lease looks whether its ring shards can be delivered to again.
const OUTAGE_CHECK: Duration = Duration::from_millis(250);

/// How the reading of a stream shard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    By(Exit),
    /// The task that writes its lease broke off.
    BrokenOff,
}

/// Waits for the end of a consumer, and stops it where another worker has asked for its lease.
///
/// While a ring shard is down it reads on: a stop would wait for what cannot be delivered, with nobody reading meanwhile.
pub(super) async fn until_asked(
    exit: impl Future<Output = Exit>,
    holding: &Holding,
    deliver: &dyn Deliver,
    stop: &CancellationToken,
) -> Closed {
    let mut exit = std::pin::pin!(exit);
    let give_way = async {
        holding.asked().await;
        while !deliver.unhealthy().is_empty() {
            tokio::time::sleep(OUTAGE_CHECK).await;
        }
    };
    let exit = tokio::select! {
        // In a fixed order, so that a simulation runs the same way twice.
        biased;
        exit = &mut exit => exit,
        () = give_way => {
            stop.cancel();
            exit.await
        }
    };
    if holding.is_broken() { Closed::BrokenOff } else { Closed::By(exit) }
}
