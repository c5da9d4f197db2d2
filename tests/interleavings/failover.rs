//! Fail-over: a replica that lacks the last commands takes the place of its server.

use super::cache::Copied;
use super::flaw::Flaw;
use super::outcome::Step;
use super::reader::Reader;
use super::schedule::{Bounds, Schedule};

/// The replica of the schedule's server, and what became of the last promotion.
#[derive(Default)]
pub(crate) struct Replica {
    copied: Option<Copy>,
    unnoticed: Option<Promotion>,
}

/// What a replica holds.
#[derive(Clone)]
struct Copy {
    values: Copied,
    /// For each feed, the records that had been delivered, and delivered again after the settle time.
    told: Vec<(usize, usize)>,
}

/// A promotion that the invalidator does not know of.
struct Promotion {
    /// For each feed, what the replica and what its predecessor had been told.
    replica: Vec<(usize, usize)>,
    predecessor: Vec<(usize, usize)>,
}

impl Replica {
    /// The server came back empty, and so does its replica.
    pub(crate) fn forget(&mut self) {
        self.copied = None;
    }

    pub(crate) fn is_unnoticed(&self) -> bool {
        self.unnoticed.is_some()
    }
}

impl Schedule<'_> {
    pub(crate) async fn step_replica(&mut self) {
        match self.rng.u8(..6) {
            _ if self.replica.is_unnoticed() => self.notice_promotion().await,
            0..3 => self.replicate().await,
            3..5 => self.promote().await,
            _ => {
                let process = self.rng.usize(..self.processes.len());
                self.lose_notices(process);
            }
        }
    }

    /// The replica catches up with its server.
    async fn replicate(&mut self) {
        let names = self.keys.iter().flat_map(|key| [key.key.to_string(), key.key.lock()]);
        let values = self.servers[0].copy(&names.collect::<Vec<_>>()).await;
        let mut told = self.told();
        // While a replay goes on, what it has not come back to yet may be older than what had been delivered before.
        for ((delivered, _), feed) in told.iter_mut().zip(&self.feeds) {
            *delivered = feed.delivered.min(feed.next - 1);
        }
        self.replica.copied = Some(Copy { values, told });
        self.note(Step::Replicated);
    }

    fn told(&self) -> Vec<(usize, usize)> {
        self.feeds.iter().map(|feed| (feed.delivered, feed.settled)).collect()
    }

    /// The replica takes over; what its server had done since is lost.
    async fn promote(&mut self) {
        let Some(Copy { values, told }) = self.replica.copied.take() else { return self.read().await };
        self.hear(0).await;
        self.servers[0].bring_back(&values).await;
        self.hear(0).await;
        for key in &mut self.keys {
            key.places[0].clear();
            key.places[0].registered = true;
            key.seen.fill(0);
        }
        self.note(Step::Promoted);
        // Every connection is made anew, and whoever waits asks again.
        (0..self.processes.len()).for_each(|process| self.lose_notices(process));
        if self.flaw == Flaw::PromotionUnnoticed {
            return;
        }
        let predecessor = self.told();
        for (feed, (delivered, settled)) in self.feeds.iter_mut().zip(&told) {
            feed.delivered = feed.delivered.min(*delivered);
            feed.settled = feed.settled.min(*settled);
        }
        self.replica.unnoticed = Some(Promotion { replica: told, predecessor });
        let bounds = self.bounds();
        self.readers.iter_mut().for_each(|reader| reader.relax(&bounds));
    }

    /// The invalidator finds another server than before: it delivers again what that one may not have been told, or
    /// flushes.
    pub(crate) async fn notice_promotion(&mut self) {
        let Some(Promotion { replica, predecessor }) = self.replica.unnoticed.take() else { return };
        // A flush takes floors with it, which loads that lag would need.
        let flushed = self.cell.loses_keys() && self.rng.u8(..3) == 0 || self.flaw == Flaw::FlushSparesLocks;
        if flushed {
            if self.flaw == Flaw::FlushSparesLocks {
                let entries: Vec<String> = self.keys.iter().map(|key| key.key.to_string()).collect();
                self.servers[0].delete(&entries).await;
            } else {
                self.empty(0).await;
            }
            for (feed, (delivered, settled)) in self.feeds.iter_mut().zip(predecessor) {
                feed.delivered = feed.delivered.max(delivered);
                feed.settled = feed.settled.max(settled);
            }
        } else {
            for ((feed, (delivered, settled)), (_, before)) in self.feeds.iter_mut().zip(replica).zip(predecessor) {
                feed.next = feed.next.min(delivered + 1);
                // What was acknowledged lately is delivered again at once, second deliveries like all others.
                feed.settling.extend((settled + 1..=before).map(|record| (record, self.now)));
            }
        }
        self.note(Step::PromotionNoticed { flushed });
    }
}

impl Reader {
    /// Asks for no more than what the cache can still know.
    fn relax(&mut self, bounds: &Bounds) {
        match self {
            Reader::Idle => {}
            Reader::Missed(ask) | Reader::Waiting(ask, _) => ask.began.relax(bounds),
            Reader::Granted(held) | Reader::Loaded(held, _) => held.ask.began.relax(bounds),
        }
    }
}
