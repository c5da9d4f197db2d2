//! Lambda's event source mapping of a stream: batches, checkpoints, retries, splits and limits. Pure but for the clock.
//!
//! What the documentation says:
//! - With a parallelization factor, records go to that many lanes by item; a lane has one batch under way.
//! - An empty or missing list of failures is success; the lowest number is the new checkpoint; an identifier that is
//!   empty or names no record of the batch fails the batch, as an error, a time-out and a crash do.
//! - With splitting on, a batch that failed is sent again in two halves, one that failed in part from the number on;
//!   neither uses up a retry.
//! - A record older than the limit, and a batch whose retries are used up, are given up and go to the destination.
//!
//! What it leaves open is drawn by the seed: whether progress within a batch gives its retries back, and whether a batch
//! that fails at its first record is split.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::fault::Fault;
use super::runtime_api::Reply;
use super::sandbox::Ended;
use super::table::Record;

/// The mapping's settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) batch_size: usize,
    pub(crate) parallelization: usize,
    pub(crate) bisect: bool,
    pub(crate) retries: Option<u32>,
    pub(crate) maximum_age: Option<Duration>,
    pub(crate) progress_gives_retries_back: bool,
    pub(crate) splits_at_the_first_record: bool,
}

/// The records of one stream shard that share a lane, and how far they are delivered.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    records: Vec<Arc<Record>>,
    /// Everything before this place is delivered or given up.
    done: usize,
    /// What is to be sent, first things first; empty when a new batch is to be cut.
    pieces: VecDeque<Piece>,
}

#[derive(Clone, Debug, PartialEq)]
struct Piece {
    range: Range<usize>,
    retries: u32,
}

/// Records that are sent in one event.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) records: Vec<Arc<Record>>,
}

/// Records that Lambda does not send any more.
#[derive(Clone, Debug)]
pub(crate) struct GivenUp {
    pub(crate) records: Vec<Arc<Record>>,
    pub(crate) condition: &'static str,
}

/// What an answer means to the mapping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Delivered,
    /// Delivered before this place of the batch.
    DeliveredBefore(usize),
    Failed,
    /// Failed, because of an identifier that names no record of the batch.
    BadIdentifier,
}

impl Batch {
    /// The event.
    pub(crate) fn event(&self) -> String {
        let records: Vec<&str> = self.records.iter().map(|record| record.json.as_str()).collect();
        format!("{{\"Records\":[{}]}}", records.join(","))
    }

    /// What the end of an invocation means.
    pub(crate) fn verdict(&self, ended: &Ended) -> Verdict {
        let Ended::Said(Reply::Answer(answer)) = ended else { return Verdict::Failed };
        let Ok(answer) = serde_json::from_str::<Value>(answer) else { return Verdict::Failed };
        let failures = match answer.get("batchItemFailures") {
            None | Some(Value::Null) => return Verdict::Delivered,
            Some(Value::Array(failures)) => failures,
            Some(_) => return Verdict::Failed,
        };
        let place = |failure: &Value| {
            let number: u128 = failure["itemIdentifier"].as_str()?.parse().ok()?;
            self.records.iter().position(|record| record.sequence == number)
        };
        match failures.iter().map(place).collect::<Option<Vec<_>>>() {
            None => Verdict::BadIdentifier,
            Some(places) => places.into_iter().min().map_or(Verdict::Delivered, Verdict::DeliveredBefore),
        }
    }
}

impl Lane {
    pub(crate) fn push(&mut self, record: Arc<Record>) {
        self.records.push(record);
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.done == self.records.len()
    }

    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// Sets the checkpoint back, as a poller does that takes over: what was delivered is delivered again, in order.
    pub(crate) fn replay(&mut self, records: usize) {
        self.done = self.done.saturating_sub(records);
        self.pieces.clear();
    }

    /// The next batch, and what is too old to be sent.
    pub(crate) fn next(&mut self, settings: &Settings, now: Instant) -> (Option<Batch>, Option<GivenUp>) {
        let mut given_up = None;
        if let Some(limit) = settings.maximum_age {
            let waiting = &self.records[self.done..];
            let old = waiting.iter().take_while(|record| now.duration_since(record.arrived) > limit).count();
            if old > 0 {
                let records = waiting[..old].to_vec();
                given_up = Some(GivenUp { records, condition: "RecordAgeExceeded" });
                self.advance(self.done + old);
            }
        }
        if self.pieces.is_empty() && !self.is_drained() {
            let end = self.records.len().min(self.done + settings.batch_size);
            self.pieces.push_back(Piece { range: self.done..end, retries: 0 });
        }
        let batch = self.pieces.front().map(|piece| Batch { records: self.records[piece.range.clone()].to_vec() });
        (batch, given_up)
    }

    /// Takes in how the batch ended; returns what is given up.
    pub(crate) fn ended(&mut self, settings: &Settings, fault: Fault, verdict: Verdict) -> Option<GivenUp> {
        let mut piece = self.pieces.pop_front()?;
        let Range { start, end } = piece.range;
        match verdict {
            Verdict::Delivered => {
                self.done = end;
                return None;
            }
            Verdict::DeliveredBefore(_) if fault == Fault::AnswersIgnored => {
                self.done = end;
                return None;
            }
            Verdict::DeliveredBefore(place) if fault == Fault::CheckpointPastTheFailed => {
                self.done = start + place + 1;
                if self.done < end {
                    self.pieces.push_front(Piece { range: self.done..end, retries: piece.retries });
                }
                return None;
            }
            Verdict::DeliveredBefore(place) if place > 0 => {
                self.done = start + place;
                piece.range = self.done..end;
                if settings.bisect {
                    self.pieces.push_front(piece);
                    return None;
                }
                if settings.progress_gives_retries_back {
                    piece.retries = 0;
                }
            }
            Verdict::DeliveredBefore(_) if !settings.splits_at_the_first_record => {}
            Verdict::DeliveredBefore(_) | Verdict::Failed | Verdict::BadIdentifier => {
                if settings.bisect && end - start > 1 {
                    let middle = start + (end - start) / 2;
                    self.pieces.push_front(Piece { range: middle..end, retries: piece.retries });
                    self.pieces.push_front(Piece { range: start..middle, retries: piece.retries });
                    return None;
                }
            }
        }
        piece.retries += 1;
        if settings.retries.is_some_and(|most| piece.retries > most) {
            self.done = end;
            let records = self.records[piece.range].to_vec();
            return Some(GivenUp { records, condition: "RetryAttemptsExhausted" });
        }
        self.pieces.push_front(piece);
        None
    }

    fn advance(&mut self, to: usize) {
        self.done = to;
        while let Some(piece) = self.pieces.front_mut() {
            piece.range.start = piece.range.start.max(to);
            if !piece.range.is_empty() {
                break;
            }
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;

    fn settings() -> Settings {
        Settings {
            batch_size: 4,
            parallelization: 1,
            bisect: false,
            retries: Some(1),
            maximum_age: None,
            progress_gives_retries_back: false,
            splits_at_the_first_record: false,
        }
    }

    fn lane(records: usize) -> Lane {
        let mut table = Table::default();
        let mut lane = Lane::default();
        (0..records).for_each(|n| lane.push(table.put(&n.to_string(), "tea", 1)));
        lane
    }

    /// The items of the next batch.
    fn next(lane: &mut Lane, settings: &Settings) -> String {
        let batch = lane.next(settings, Instant::now()).0;
        batch.map(|batch| batch.records.iter().map(|record| record.item.as_str()).collect()).unwrap_or_default()
    }

    #[test]
    fn it_sends_again_from_the_lowest_failed_number_and_gives_up_after_the_retries() {
        let (mut lane, settings) = (lane(6), settings());
        assert_eq!(next(&mut lane, &settings), "0123");
        assert!(lane.ended(&settings, Fault::None, Verdict::DeliveredBefore(1)).is_none());
        assert_eq!(next(&mut lane, &settings), "123");
        let given_up = lane.ended(&settings, Fault::None, Verdict::Failed).unwrap();
        assert_eq!((given_up.records.len(), given_up.condition), (3, "RetryAttemptsExhausted"));
        assert_eq!(next(&mut lane, &settings), "45");
        assert!(lane.ended(&settings, Fault::None, Verdict::Delivered).is_none());
        assert!(lane.is_drained());
    }

    #[test]
    fn splits_isolate_the_failing_record_and_use_up_no_retry() {
        let (mut lane, settings) = (lane(4), Settings { bisect: true, retries: Some(0), ..settings() });
        for (sent, verdict) in
            [("0123", Verdict::Failed), ("01", Verdict::Delivered), ("23", Verdict::Failed), ("2", Verdict::Delivered)]
        {
            assert_eq!(next(&mut lane, &settings), sent);
            assert!(lane.ended(&settings, Fault::None, verdict).is_none());
        }
        assert_eq!(next(&mut lane, &settings), "3");
        assert_eq!(lane.ended(&settings, Fault::None, Verdict::Failed).unwrap().records.len(), 1);
    }

    #[test]
    fn a_partial_answer_splits_at_its_number() {
        let (mut lane, settings) = (lane(4), Settings { bisect: true, retries: Some(0), ..settings() });
        assert_eq!(next(&mut lane, &settings), "0123");
        assert!(lane.ended(&settings, Fault::None, Verdict::DeliveredBefore(3)).is_none());
        assert_eq!(next(&mut lane, &settings), "3");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_old_is_given_up_before_it_is_sent() {
        let (mut lane, settings) = (lane(3), Settings { maximum_age: Some(Duration::from_secs(60)), ..settings() });
        assert_eq!(next(&mut lane, &settings), "012");
        lane.ended(&settings, Fault::None, Verdict::DeliveredBefore(1));
        tokio::time::advance(Duration::from_secs(61)).await;
        let (batch, given_up) = lane.next(&settings, Instant::now());
        assert!(batch.is_none());
        assert_eq!(given_up.unwrap().records.len(), 2);
    }

    #[test]
    fn answers_mean_what_the_documentation_says() {
        let batch = lane(3).next(&settings(), Instant::now()).0.unwrap();
        let verdict = |answer: &str| batch.verdict(&Ended::Said(Reply::Answer(answer.to_owned())));
        let of = |places: &[usize]| {
            let failures =
                places.iter().map(|place| format!("{{\"itemIdentifier\":\"{}\"}}", batch.records[*place].sequence));
            format!("{{\"batchItemFailures\":[{}]}}", failures.collect::<Vec<_>>().join(","))
        };
        assert_eq!(verdict("null"), Verdict::Delivered);
        assert_eq!(verdict("{}"), Verdict::Delivered);
        assert_eq!(verdict(r#"{"batchItemFailures":null}"#), Verdict::Delivered);
        assert_eq!(verdict(&of(&[])), Verdict::Delivered);
        assert_eq!(verdict(&of(&[2, 1])), Verdict::DeliveredBefore(1));
        for bad in
            [r#"{"itemIdentifier":""}"#, r#"{"itemIdentifier":null}"#, r#"{"id":"1"}"#, r#"{"itemIdentifier":"5"}"#]
        {
            assert_eq!(verdict(&format!("{{\"batchItemFailures\":[{bad}]}}")), Verdict::BadIdentifier);
        }
        assert_eq!(batch.verdict(&Ended::TimedOut), Verdict::Failed);
        assert_eq!(batch.verdict(&Ended::Said(Reply::Error("{}".to_owned()))), Verdict::Failed);
    }
}
