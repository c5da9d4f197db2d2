//! One paced listing of a stream's shards, shared by everybody who wants to know them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use ringtide_core::metrics as names;
use ringtide_core::record::Stream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::lineage;
use crate::stream::{Listing, ShardId, StreamError, StreamSource};

/// Two listings of a stream begin at least so far apart: an account has ten calls a second.
const APART: Duration = Duration::from_millis(200);
/// The longest pause between two looks for a child.
const LONGEST_CHILD_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures.
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// The newest listing of one stream, and a way to ask for a newer one.
#[derive(Clone, Debug)]
pub(crate) struct Discovery {
    listing: watch::Receiver<Option<Arc<Listing>>>,
    wanted: Arc<Notify>,
}

/// The task that lists.
pub(crate) struct Lister {
    source: Arc<dyn StreamSource>,
    stream: Arc<Stream>,
    interval: Duration,
    listing: watch::Sender<Option<Arc<Listing>>>,
    wanted: Arc<Notify>,
}

impl Discovery {
    /// Prepares the listing of a stream; nothing is listed until [`Lister::run`].
    pub(crate) fn new(source: Arc<dyn StreamSource>, stream: Arc<Stream>, interval: Duration) -> (Self, Lister) {
        let (sender, listing) = watch::channel(None);
        let wanted = Arc::new(Notify::new());
        let lister = Lister { source, stream, interval, listing: sender, wanted: Arc::clone(&wanted) };
        (Self { listing, wanted }, lister)
    }

    /// The newest listing; `None` before the first.
    pub(crate) fn newest(&self) -> Option<Arc<Listing>> {
        self.listing.borrow().clone()
    }

    /// Asks for a listing soon.
    pub(crate) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Waits for the next listing; never returns once the lister has ended.
    pub(crate) async fn changed(&mut self) {
        if self.listing.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Looks for the children of a stream shard until there are some or `patience` is over.
    pub(crate) async fn children_of(&self, shard: &ShardId, patience: Duration) -> BTreeSet<ShardId> {
        let look = async {
            let mut discovery = self.clone();
            let mut pause = Duration::from_millis(100);
            loop {
                if let Some(listing) = discovery.newest() {
                    let children = lineage::children(&listing, shard);
                    if !children.is_empty() {
                        return children;
                    }
                }
                discovery.want();
                discovery.changed().await;
                let found = discovery.newest().is_some_and(|listing| !lineage::children(&listing, shard).is_empty());
                if !found {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_CHILD_PAUSE);
                }
            }
        };
        tokio::time::timeout(patience, look).await.unwrap_or_default()
    }
}

impl Lister {
    /// Lists at the interval and on demand, for as long as it is polled; a failed listing is tried again.
    ///
    /// A stream that is gone is listed as empty, so that its leased shards are opened and their gaps found.
    pub(crate) async fn run(self) {
        let mut retry = Duration::from_millis(200);
        loop {
            let began = Instant::now();
            let listed = self.source.list_shards(&self.stream).await;
            let outcome = listed.as_ref().map_or_else(StreamError::reason, |_| "listed");
            counter!(names::DISCOVERIES, names::TABLE => self.stream.table.clone(), names::OUTCOME => outcome)
                .increment(1);
            let pause = match listed {
                Ok(listing) => {
                    self.listing.send_replace(Some(Arc::new(listing)));
                    retry = Duration::from_millis(200);
                    None
                }
                Err(StreamError::NotFound(text)) => {
                    tracing::error!(stream = self.stream.arn, text, "stream is gone");
                    self.listing.send_replace(Some(Arc::new(Listing::default())));
                    None
                }
                Err(error) => {
                    tracing::warn!(stream = self.stream.arn, %error, "stream shards not listed, trying again");
                    let pause = retry;
                    retry = (retry * 2).min(LONGEST_RETRY_PAUSE);
                    Some(pause)
                }
            };
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => {
                    tokio::select! {
                        () = tokio::time::sleep(self.interval) => {}
                        () = self.wanted.notified() => tokio::time::sleep_until(began + APART).await,
                    }
                }
            }
        }
    }
}
