//! One paced listing of a stream's shards, shared by everybody who wants to know them.
//!
//! Every DescribeStream call of a stream is made by one task, so that one pace holds for all of them: it slows down when
//! the service throttles, and a listing of many pages goes on with the page that was refused.

mod board;
mod wants;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use ringtide_core::backoff::Backoff;
use ringtide_core::metrics as names;
use ringtide_core::record::{SequenceNumber, Stream};
use tokio::time::Instant;

use crate::lineage::{self, LOOK_AGAIN, PATIENCE};
use crate::pace::AdaptingRate;
use crate::stream::{Gathering, Listing, ShardId, StreamError, StreamSource};

use board::Board;
use wants::{Look, Wants};

/// Two listings on demand begin at least so far apart.
const APART: Duration = Duration::from_millis(150);
/// The most calls a second; an account has ten.
const MOST_CALLS: f64 = 8.0;
/// The fewest calls a second, however much is throttled.
const FEWEST_CALLS: f64 = 0.2;
/// The first pause after failures.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause after failures.
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(10);
/// A listing is begun anew when one of its pages has failed so often: its place may be gone.
const PAGE_TRIES: u32 = 4;
/// How long children are looked for where the stream is off: it gets no new ones, and its last are soon shown.
const PATIENCE_WHEN_OFF: Duration = Duration::from_secs(5);

/// The newest listing of one stream, and a way to ask for a newer one.
#[derive(Clone, Debug)]
pub(crate) struct Discovery {
    board: Arc<Board>,
    /// The version of the listing that [`Discovery::changed`] told of last.
    seen: u64,
    wants: Arc<Wants>,
}

/// The task that lists.
pub(crate) struct Lister {
    source: Arc<dyn StreamSource>,
    stream: Arc<Stream>,
    interval: Duration,
    board: Arc<Board>,
    wants: Arc<Wants>,
    rate: AdaptingRate,
    next_call: Instant,
    retry: Backoff,
    /// Pages of the newest full listing.
    pages: usize,
    filter: Filter,
}

/// What came of looking for a stream shard that the newest listing does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sought {
    /// A listing shows it, and where it begins as far as that is told.
    Shown(Option<SequenceNumber>),
    /// Listings were answered for long enough, and none shows it.
    Gone,
    /// No listing was answered that could tell.
    Unanswered,
}

/// What is known about the filter that asks for a stream shard's children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Untried,
    Works,
    /// The service refuses it: full listings are used instead.
    Refused,
}

impl Discovery {
    /// Prepares the listing of a stream; nothing is listed until [`Lister::run`].
    pub(crate) fn new(source: Arc<dyn StreamSource>, stream: Arc<Stream>, interval: Duration) -> (Self, Lister) {
        let (board, wants) = (Arc::new(Board::default()), Arc::new(Wants::default()));
        let lister = Lister {
            source,
            stream,
            interval,
            board: Arc::clone(&board),
            wants: Arc::clone(&wants),
            rate: AdaptingRate::new(FEWEST_CALLS, MOST_CALLS),
            next_call: Instant::now(),
            retry: Backoff::new(FIRST_RETRY_PAUSE, LONGEST_RETRY_PAUSE),
            pages: 1,
            filter: Filter::Untried,
        };
        (Self { board, seen: 0, wants }, lister)
    }

    /// The newest listing, and when its full part was begun; `None` before the first.
    pub(crate) fn newest(&self) -> Option<(Arc<Listing>, Instant)> {
        self.board.newest()
    }

    /// Where a stream shard begins, as far as the listing tells; `None` where it is not listed.
    pub(crate) fn beginning(&self, shard: &ShardId) -> Option<Option<SequenceNumber>> {
        self.board.beginning(shard)
    }

    /// Where a stream shard begins that was missed at `since`: listings are asked for until one shows it, or until those that
    /// were answered have left it out for too long. Where none is answered this comes back undecided, to be asked again.
    pub(crate) async fn look_up(&self, shard: &ShardId, since: Instant) -> Sought {
        let patience = Instant::now() + PATIENCE + LOOK_AGAIN;
        loop {
            // Asked first: what is not shown counts by a listing that is no newer than the one that is looked at.
            let listed = self.board.listed();
            if let Some(beginning) = self.beginning(shard) {
                return Sought::Shown(beginning);
            }
            if lineage::is_gone(since, listed) {
                return Sought::Gone;
            }
            if Instant::now() >= patience {
                return Sought::Unanswered;
            }
            self.want();
            let mut discovery = self.clone();
            let shown = async {
                while self.beginning(shard).is_none() {
                    discovery.changed().await;
                }
            };
            // What was found is looked at once more above.
            let _not_yet = tokio::time::timeout(LOOK_AGAIN, shown).await;
        }
    }

    /// Asks for a listing soon.
    pub(crate) fn want(&self) {
        self.wants.listing();
    }

    /// Waits for the next listing; never returns once the lister has ended.
    pub(crate) async fn changed(&mut self) {
        self.seen = self.board.newer_than(self.seen).await;
    }

    /// Looks for the children of a stream shard until there are some or `patience` is over.
    pub(crate) async fn children_of(&self, shard: &ShardId, patience: Duration) -> BTreeSet<ShardId> {
        let mut discovery = self.clone();
        let mut wanted = None;
        let began = Instant::now();
        loop {
            let (children, status, version) = self.board.children(shard);
            discovery.seen = version;
            let patience = if status.is_on() { patience } else { patience.min(PATIENCE_WHEN_OFF) };
            if !children.is_empty() || began.elapsed() >= patience {
                return children;
            }
            wanted.get_or_insert_with(|| self.wants.children(shard));
            // The end of patience is looked at once more above.
            let _late = tokio::time::timeout_at(began + patience, discovery.changed()).await;
        }
    }
}

impl Lister {
    /// Lists at the interval and on demand, for as long as it is polled; a failed call is made again.
    ///
    /// A stream that is gone is listed as empty, so that its leased shards are opened and their gaps found.
    pub(crate) async fn run(mut self) {
        let wants = Arc::clone(&self.wants);
        let mut due = Instant::now();
        loop {
            let look = if Instant::now() >= due { Look::All } else { wants.next(due, self.pages).await };
            let began = Instant::now();
            match look {
                Look::All => {
                    self.list_all().await;
                    due = Instant::now() + self.interval;
                }
                Look::ChildrenOf(parent) if self.filter != Filter::Refused => {
                    if !self.list_children(&parent).await {
                        wants.listing();
                    }
                }
                Look::ChildrenOf(_) => wants.listing(),
            }
            self.next_call = self.next_call.max(began + APART);
        }
    }

    /// Lists all stream shards; a listing that fails is tried again until there is one.
    async fn list_all(&mut self) {
        self.wants.begun();
        let (mut gathering, mut begun, mut tries) = (Gathering::of_all(), Instant::now(), 0);
        loop {
            let page = self.call(&gathering).await;
            match page.and_then(|page| gathering.take(page)) {
                Ok(None) => tries = 0,
                Ok(Some(listing)) => {
                    self.pages = gathering.pages();
                    self.retry.reset();
                    self.publish(listing, begun, "listed");
                    return;
                }
                Err(error @ StreamError::NotFound(_)) => {
                    tracing::error!(stream = self.stream.arn, %error, "stream is gone");
                    self.publish(Listing::default(), begun, error.reason());
                    return;
                }
                Err(error) => {
                    tracing::warn!(stream = self.stream.arn, %error, "stream shards not listed, trying again");
                    self.count(error.reason());
                    tries += 1;
                    if !matches!(error, StreamError::Throttled(_)) {
                        self.next_call = Instant::now() + self.retry.next_pause();
                        if tries >= PAGE_TRIES {
                            (gathering, begun, tries) = (Gathering::of_all(), Instant::now(), 0);
                        }
                    }
                }
            }
        }
    }

    /// Lists one stream shard's children and adds them to the listing; `false` where all have to be listed instead.
    async fn list_children(&mut self, parent: &ShardId) -> bool {
        let mut gathering = Gathering::of_children(parent);
        loop {
            let page = self.call(&gathering).await;
            match page.and_then(|page| gathering.take(page)) {
                Ok(None) => {}
                Ok(Some(mut found)) => {
                    self.filter = Filter::Works;
                    self.count("filtered");
                    // A service that ignores the filter lists all of them, which does no harm.
                    found.shards.retain(|shard| shard.id != *parent);
                    self.board.add(found);
                    return true;
                }
                Err(error) => {
                    self.count(error.reason());
                    return match error {
                        // The pace has slowed down; the same is asked again when its turn comes.
                        StreamError::Throttled(_) => true,
                        StreamError::Invalid(_) if self.filter == Filter::Untried => {
                            tracing::info!(stream = self.stream.arn, %error, "children are found by full listings");
                            self.filter = Filter::Refused;
                            false
                        }
                        StreamError::IteratorExpired
                        | StreamError::Trimmed(_)
                        | StreamError::NotFound(_)
                        | StreamError::Denied(_)
                        | StreamError::Unreachable(_)
                        | StreamError::Invalid(_)
                        | StreamError::Other(_) => false,
                    };
                }
            }
        }
    }

    /// Makes one call when the pace allows it.
    async fn call(&mut self, gathering: &Gathering) -> Result<crate::stream::ShardsPage, StreamError> {
        tokio::time::sleep_until(self.next_call).await;
        let began = Instant::now();
        let page = self.source.shards_page(&self.stream, gathering.query()).await;
        match &page {
            Ok(_) => self.rate.succeeded(),
            Err(StreamError::Throttled(_)) => self.rate.throttled(),
            Err(_) => {}
        }
        self.next_call = began + self.rate.apart();
        page
    }

    fn publish(&self, listing: Listing, begun: Instant, outcome: &'static str) {
        self.count(outcome);
        self.board.publish(listing, begun);
    }

    fn count(&self, outcome: &'static str) {
        counter!(names::DISCOVERIES, names::TABLE => self.stream.table.clone(), names::OUTCOME => outcome).increment(1);
    }
}
