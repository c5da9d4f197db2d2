//! What waits to be sent again, by ring shard. Pure: no I/O, the clock is handed in.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use ringtide_core::command::Command;
use ringtide_core::key::CacheKey;
use ringtide_core::valkey::{BATCH, Fill};
use tokio::time::Instant;

use super::late::Late;
use crate::shard::Place;
use crate::space::SpaceState;

/// The most bytes of entries that wait, whatever their number.
const FILL_BYTES: usize = 16 * 1024 * 1024;

/// Fills that are sent at once.
const FILLS_AT_ONCE: usize = 32;

/// A fill that was not answered.
pub(crate) struct PendingFill {
    pub(crate) key: CacheKey,
    pub(crate) space: Arc<SpaceState>,
    pub(crate) fill: Fill,
    /// When its lease's time is over.
    pub(crate) until: Instant,
}

/// Fills and invalidations by the server that they wait for; `S` is how a ring shard is reached.
pub(super) struct Queue<S> {
    limit: usize,
    next: u64,
    fills: usize,
    fill_bytes: usize,
    invalidations: usize,
    shards: BTreeMap<Place, Work<S>>,
    /// What is not in the queue, and not answered either.
    pub(super) late: Late,
}

struct Work<S> {
    shard: S,
    /// In the order of their numbers.
    fills: VecDeque<(u64, PendingFill)>,
    invalidations: BTreeMap<u64, Waiting>,
    by_key: HashMap<CacheKey, u64>,
    /// Somebody sends it.
    busy: bool,
    /// Who has rejected the last invalidations. That may be about one of them, so the next are sent one by one.
    rejecting: BTreeSet<Server>,
}

/// Who answers for a key: in a cluster one of the masters, `None` where there is none; elsewhere always `None`.
pub(super) type Server = Option<Arc<str>>;

/// Which server answers for a key.
pub(super) struct Servers<'a> {
    pub(super) of: &'a dyn Fn(&CacheKey) -> Server,
    /// There is more than one.
    pub(super) several: bool,
}

struct Waiting {
    command: Command,
    /// Which of the commands that were merged into this one was the last.
    edition: u64,
}

/// What is sent at once. Invalidations stay in the queue until they are answered, fills are taken out of it.
pub(super) struct Batch {
    pub(super) invalidations: BTreeMap<Server, Lot>,
    pub(super) fills: Vec<PendingFill>,
}

/// Invalidations that one server answers for.
#[derive(Default)]
pub(super) struct Lot(Vec<(u64, u64, Command)>);

/// What became of a lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Answered,
    Rejected,
    Unanswered,
}

/// What there was no room for.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Dropped {
    pub(super) fills: u64,
    pub(super) invalidations: Vec<(Place, Command)>,
}

impl Lot {
    pub(super) fn commands(&self) -> Vec<Command> {
        self.0.iter().map(|(_, _, command)| command.clone()).collect()
    }
}

impl<S: Clone> Queue<S> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            next: 0,
            fills: 0,
            fill_bytes: 0,
            invalidations: 0,
            shards: BTreeMap::new(),
            late: Late::default(),
        }
    }

    pub(super) fn fills(&self) -> usize {
        self.fills
    }

    pub(super) fn invalidations(&self) -> usize {
        self.invalidations
    }

    pub(super) fn places(&self) -> Vec<Place> {
        self.shards.keys().cloned().collect()
    }

    pub(super) fn shard(&self, place: &Place) -> Option<S> {
        self.shards.get(place).map(|work| work.shard.clone())
    }

    pub(super) fn add_invalidation(&mut self, place: &Place, shard: S, command: Command) -> Dropped {
        let number = self.number();
        let work = self.work(place, shard);
        let known = work.by_key.get(&command.key).copied();
        let merged = known.and_then(|at| work.invalidations.remove(&at).map(|waiting| (at, waiting)));
        let (at, waiting) = match merged {
            // It keeps its place.
            Some((at, waiting)) => (at, Waiting { command: waiting.command.merge(command), edition: number }),
            None => {
                work.by_key.insert(command.key.clone(), number);
                (number, Waiting { command, edition: number })
            }
        };
        work.invalidations.insert(at, waiting);
        if at == number {
            self.invalidations += 1;
        }
        self.make_room()
    }

    pub(super) fn add_fill(&mut self, place: &Place, shard: S, fill: PendingFill) -> Dropped {
        self.work(place, shard);
        self.put_back(place, fill);
        self.make_room()
    }

    /// Puts a fill (back) that was not answered.
    pub(super) fn put_back(&mut self, place: &Place, fill: PendingFill) {
        let number = self.number();
        if let Some(work) = self.shards.get_mut(place) {
            self.fills += 1;
            self.fill_bytes += fill.fill.entry.len();
            work.fills.push_back((number, fill));
        }
    }

    /// Notes that somebody begins to send; `false` where somebody does already, or where there is nothing.
    pub(super) fn begin(&mut self, place: &Place) -> bool {
        self.shards.get_mut(place).is_some_and(|work| !std::mem::replace(&mut work.busy, true))
    }

    /// Notes that whoever sends has stopped before the end.
    pub(super) fn stop(&mut self, place: &Place) {
        if let Some(work) = self.shards.get_mut(place) {
            work.busy = false;
        }
    }

    /// Notes that whoever sends wants to stop; `false` where there is more to send.
    pub(super) fn end(&mut self, place: &Place) -> bool {
        let idle = self.shards.get(place).is_none_or(|work| work.fills.is_empty() && work.invalidations.is_empty());
        if idle {
            self.shards.remove(place);
        }
        idle
    }

    /// Takes what is to be sent next, oldest first, except to those that have `failed`, and drops fills whose time is
    /// over; the second is their number.
    pub(super) fn take(
        &mut self,
        place: &Place,
        now: Instant,
        servers: &Servers<'_>,
        failed: &BTreeSet<Server>,
    ) -> (Option<(S, Batch)>, u64) {
        let Some(work) = self.shards.get_mut(place) else { return (None, 0) };
        let mut invalidations: BTreeMap<Server, Lot> = BTreeMap::new();
        for (at, waiting) in &work.invalidations {
            let server = (servers.of)(&waiting.command.key);
            if failed.contains(&server) {
                continue;
            }
            let at_once = if work.rejecting.contains(&server) { 1 } else { BATCH };
            let Lot(lot) = invalidations.entry(server).or_default();
            if lot.len() < at_once {
                lot.push((*at, waiting.edition, waiting.command.clone()));
            } else if !servers.several {
                break;
            }
        }
        let (mut fills, mut others, mut expired) = (Vec::new(), Vec::new(), 0);
        while fills.len() < FILLS_AT_ONCE
            && let Some((at, fill)) = work.fills.pop_front()
        {
            if fill.until > now && failed.contains(&(servers.of)(&fill.key)) {
                others.push((at, fill));
                continue;
            }
            self.fills -= 1;
            self.fill_bytes -= fill.fill.entry.len();
            if fill.until > now {
                fills.push(fill);
            } else {
                expired += 1;
            }
        }
        others.into_iter().rev().for_each(|other| work.fills.push_front(other));
        let batch = Batch { invalidations, fills };
        let anything = !batch.invalidations.is_empty() || !batch.fills.is_empty();
        (anything.then(|| (work.shard.clone(), batch)), expired)
    }

    /// Notes what became of a server's lot; how many of its invalidations are done with.
    pub(super) fn sent(&mut self, place: &Place, server: &Server, lot: &Lot, sent: Sent) -> u64 {
        let mut answered = 0;
        let rejected = lot.0.len() as u64;
        let later = self.next;
        let Some(work) = self.shards.get_mut(place) else { return 0 };
        match sent {
            Sent::Answered => work.rejecting.remove(server),
            Sent::Rejected => work.rejecting.insert(server.clone()),
            Sent::Unanswered => return 0,
        };
        for (turn, (at, edition, command)) in (0..).zip(&lot.0) {
            match (sent, work.invalidations.get(at)) {
                // One that came while this was on its way has to be sent as well.
                (Sent::Answered, Some(waiting)) if waiting.edition == *edition => {
                    work.invalidations.remove(at);
                    work.by_key.remove(&command.key);
                    answered += 1;
                }
                (Sent::Rejected, Some(_)) => {
                    // To the end, so that those behind it have their turn.
                    if let Some(waiting) = work.invalidations.remove(at) {
                        work.by_key.insert(command.key.clone(), later + turn);
                        work.invalidations.insert(later + turn, waiting);
                    }
                }
                (Sent::Answered | Sent::Rejected | Sent::Unanswered, _) => {}
            }
        }
        self.next += rejected;
        self.invalidations -= answered;
        answered as u64
    }

    pub(super) fn owes(&self, place: &Place, key: &CacheKey) -> bool {
        self.shards.get(place).is_some_and(|work| work.by_key.contains_key(key)) || self.late.has(place, key)
    }

    /// Drops what waits for any other place.
    pub(super) fn keep(&mut self, known: impl Fn(&Place) -> bool) {
        for (_, work) in self.shards.extract_if(.., |place, _| !known(place)) {
            self.fills -= work.fills.len();
            self.fill_bytes -= work.fills.iter().map(|(_, fill)| fill.fill.entry.len()).sum::<usize>();
            self.invalidations -= work.invalidations.len();
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn work(&mut self, place: &Place, shard: S) -> &mut Work<S> {
        let work = self.shards.entry(place.clone()).or_insert_with(|| Work {
            shard: shard.clone(),
            fills: VecDeque::new(),
            invalidations: BTreeMap::new(),
            by_key: HashMap::new(),
            busy: false,
            rejecting: BTreeSet::new(),
        });
        // It may have left and come back since.
        work.shard = shard;
        work
    }

    /// Drops the oldest fills, which cost a load each, and only then invalidations.
    fn make_room(&mut self) -> Dropped {
        let mut dropped = Dropped::default();
        while self.fills > 0 && (self.fills + self.invalidations > self.limit || self.fill_bytes > FILL_BYTES) {
            let works = self.shards.values_mut();
            let oldest = works.filter_map(|work| Some((work.fills.front()?.0, work))).min_by_key(|(at, _)| *at);
            let Some((_, fill)) = oldest.and_then(|(_, work)| work.fills.pop_front()) else { break };
            self.fills -= 1;
            self.fill_bytes -= fill.fill.entry.len();
            dropped.fills += 1;
        }
        while self.invalidations > self.limit {
            let works = self.shards.iter_mut();
            let firsts =
                works.filter_map(|(place, work)| Some((*work.invalidations.first_key_value()?.0, place, work)));
            let Some((_, place, work)) = firsts.min_by_key(|(at, ..)| *at) else { break };
            let Some((_, waiting)) = work.invalidations.pop_first() else { break };
            work.by_key.remove(&waiting.command.key);
            self.invalidations -= 1;
            dropped.invalidations.push((place.clone(), waiting.command));
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use ringtide_core::command::Action;
    use ringtide_core::key::{KeySpace, Template};
    use ringtide_core::valkey::Token;
    use ringtide_core::version::Version;

    use super::*;

    fn space() -> Arc<KeySpace> {
        Arc::new(KeySpace::new("test", Template::whole()))
    }

    fn place(name: &str) -> Place {
        Place { name: name.into(), address: format!("{name}:6379") }
    }

    fn invalidation(key: &str, version: u128) -> Command {
        let action = Action::Invalidate { version: Version::from_number(version) };
        Command { key: CacheKey::new(key).unwrap(), space: space(), action }
    }

    fn fill(key: &str, until: Instant) -> PendingFill {
        let (version, proven, ttl) = (Version::NONE, Version::NONE, Duration::from_secs(1));
        let entry = Bytes::from_static(b"entry");
        let fill = Fill { token: Token::random(), version, proven, ttl, entry, inline_max: 0 };
        PendingFill { key: CacheKey::new(key).unwrap(), space: SpaceState::new(space(), 0), fill, until }
    }

    fn keys(lot: &Lot) -> Vec<String> {
        lot.0.iter().map(|(_, _, command)| command.key.to_string()).collect()
    }

    /// What is taken of a place with one server.
    fn take<S: Clone>(queue: &mut Queue<S>, place: &Place, now: Instant) -> (Option<(S, Lot, Vec<PendingFill>)>, u64) {
        let one = Servers { of: &|_| None, several: false };
        let (taken, expired) = queue.take(place, now, &one, &BTreeSet::new());
        let parts = |(shard, mut batch): (S, Batch)| {
            (shard, batch.invalidations.remove(&None).unwrap_or_default(), batch.fills)
        };
        (taken.map(parts), expired)
    }

    #[test]
    fn invalidations_of_a_key_are_merged_and_one_that_came_meanwhile_is_sent_as_well() {
        let (mut queue, a) = (Queue::new(10), place("a"));
        assert!(queue.add_invalidation(&a, (), invalidation("k", 1)).invalidations.is_empty());
        assert!(queue.begin(&a) && !queue.begin(&a));
        let _ = queue.add_invalidation(&a, (), invalidation("k", 3));
        let _ = queue.add_invalidation(&a, (), invalidation("other", 1));
        assert_eq!(queue.invalidations(), 2);
        let (_, batch, _) = take(&mut queue, &a, Instant::now()).0.unwrap();
        assert_eq!(batch.commands()[0], invalidation("k", 3));
        // Another change, while the batch is on its way.
        let _ = queue.add_invalidation(&a, (), invalidation("k", 4));
        assert_eq!(queue.sent(&a, &None, &batch, Sent::Answered), 1);
        assert!(!queue.end(&a));
        let (_, batch, _) = take(&mut queue, &a, Instant::now()).0.unwrap();
        assert_eq!(batch.commands(), [invalidation("k", 4)]);
        assert_eq!(queue.sent(&a, &None, &batch, Sent::Answered), 1);
        assert!(queue.end(&a));
        assert_eq!((queue.invalidations(), queue.places().len()), (0, 0));
    }

    #[test]
    fn what_one_address_of_a_shard_has_answered_another_still_owes() {
        let (mut queue, here) = (Queue::new(10), place("a"));
        let there = Place { address: "elsewhere:6379".to_owned(), ..here.clone() };
        let key = CacheKey::new("k").unwrap();
        let _ = queue.add_invalidation(&here, "here", invalidation("k", 1));
        let _ = queue.add_invalidation(&there, "there", invalidation("k", 1));
        let (reached, batch, _) = take(&mut queue, &there, Instant::now()).0.unwrap();
        assert_eq!((reached, queue.sent(&there, &None, &batch, Sent::Answered)), ("there", 1));
        assert!(queue.owes(&here, &key) && !queue.owes(&there, &key));
        assert_eq!(take(&mut queue, &here, Instant::now()).0.unwrap().0, "here");
        queue.keep(|place| *place == there);
        assert!(!queue.owes(&here, &key) && queue.invalidations() == 0);
    }

    #[test]
    fn what_was_not_answered_stays_and_what_was_rejected_lets_others_pass() {
        let (mut queue, a) = (Queue::new(10), place("a"));
        for key in ["1", "2", "3"] {
            let _ = queue.add_invalidation(&a, (), invalidation(key, 1));
        }
        let (_, batch, _) = take(&mut queue, &a, Instant::now()).0.unwrap();
        assert_eq!(queue.sent(&a, &None, &batch, Sent::Unanswered), 0);
        assert_eq!(keys(&take(&mut queue, &a, Instant::now()).0.unwrap().1), ["1", "2", "3"]);
        assert_eq!(queue.sent(&a, &None, &batch, Sent::Rejected), 0);
        let (_, first, _) = take(&mut queue, &a, Instant::now()).0.unwrap();
        assert_eq!(keys(&first), ["1"]);
        queue.sent(&a, &None, &first, Sent::Rejected);
        let (_, second, _) = take(&mut queue, &a, Instant::now()).0.unwrap();
        assert_eq!(keys(&second), ["2"]);
        assert_eq!(queue.sent(&a, &None, &second, Sent::Answered), 1);
        assert_eq!(keys(&take(&mut queue, &a, Instant::now()).0.unwrap().1), ["3", "1"]);
    }

    #[test]
    fn a_server_that_does_not_answer_keeps_nothing_waiting_for_the_others() {
        let (mut queue, a, now) = (Queue::new(1000), place("a"), Instant::now());
        let by_first = |key: &CacheKey| -> Server { Some(key.as_str()[..1].into()) };
        let servers = Servers { of: &by_first, several: true };
        for number in 0..BATCH + 1 {
            let _ = queue.add_invalidation(&a, (), invalidation(&format!("x{number}"), 1));
        }
        let _ = queue.add_invalidation(&a, (), invalidation("y", 1));
        let _ = queue.add_fill(&a, (), fill("x", now + Duration::from_secs(1)));
        let _ = queue.add_fill(&a, (), fill("y", now + Duration::from_secs(1)));
        let (dead, alive): (Server, Server) = (Some("x".into()), Some("y".into()));
        let (_, batch) = queue.take(&a, now, &servers, &BTreeSet::new()).0.unwrap();
        assert_eq!(batch.invalidations[&dead].0.len(), BATCH);
        assert_eq!(keys(&batch.invalidations[&alive]), ["y"], "behind more of the other's than are sent at once");
        assert_eq!(queue.sent(&a, &dead, &batch.invalidations[&dead], Sent::Rejected), 0);
        assert_eq!(queue.sent(&a, &alive, &batch.invalidations[&alive], Sent::Answered), 1);
        batch.fills.into_iter().for_each(|fill| queue.put_back(&a, fill));
        let _ = queue.add_invalidation(&a, (), invalidation("y2", 1));
        let _ = queue.add_invalidation(&a, (), invalidation("y3", 1));
        let (_, batch) = queue.take(&a, now, &servers, &[dead.clone()].into()).0.unwrap();
        assert_eq!(keys(&batch.invalidations[&alive]), ["y2", "y3"], "nothing of theirs was rejected");
        assert_eq!(batch.invalidations.len(), 1);
        assert_eq!(batch.fills.iter().map(|fill| fill.key.as_str()).collect::<Vec<_>>(), ["y"]);
        assert_eq!(queue.fills(), 1);
        assert!(queue.take(&a, now, &servers, &[dead, alive].into()).0.is_none());
    }

    #[test]
    fn a_full_queue_drops_fills_before_invalidations_and_the_oldest_of_all_ring_shards_first() {
        let (mut queue, a, b) = (Queue::new(3), place("a"), place("b"));
        let later = Instant::now() + Duration::from_secs(9);
        let _ = queue.add_invalidation(&b, (), invalidation("1", 1));
        let _ = queue.add_fill(&b, (), fill("old", later));
        let _ = queue.add_fill(&a, (), fill("new", later));
        let dropped = queue.add_invalidation(&a, (), invalidation("2", 1));
        assert_eq!((dropped.fills, dropped.invalidations.len()), (1, 0));
        assert!(queue.shards[&b].fills.is_empty());
        let dropped = queue.add_invalidation(&a, (), invalidation("3", 1));
        assert_eq!((dropped.fills, dropped.invalidations.len(), queue.fills()), (1, 0, 0));
        let dropped = queue.add_invalidation(&a, (), invalidation("4", 1));
        assert_eq!(dropped.invalidations, [(b.clone(), invalidation("1", 1))]);
        assert_eq!(queue.invalidations(), 3);
        queue.keep(|place| *place != a);
        assert_eq!((queue.fill_bytes, queue.invalidations()), (0, 0));
    }

    #[test]
    fn a_fill_is_dropped_when_its_leases_time_is_over() {
        let (mut queue, a, now) = (Queue::new(10), place("a"), Instant::now());
        let _ = queue.add_fill(&a, (), fill("short", now + Duration::from_secs(1)));
        let _ = queue.add_fill(&a, (), fill("long", now + Duration::from_secs(3)));
        let (taken, expired) = take(&mut queue, &a, now + Duration::from_secs(2));
        let (_, _, fills) = taken.unwrap();
        assert_eq!((fills.len(), expired, queue.fill_bytes), (1, 1, 0));
        queue.put_back(&a, fills.into_iter().next().unwrap());
        let (taken, expired) = take(&mut queue, &a, now + Duration::from_secs(3));
        assert!(taken.is_none() && expired == 1 && queue.end(&a));
    }

    #[test]
    fn large_fills_are_bounded_by_their_bytes() {
        let (mut queue, a) = (Queue::new(1000), place("a"));
        let later = Instant::now() + Duration::from_secs(9);
        let mut dropped = 0;
        for _ in 0..3 {
            let mut large = fill("k", later);
            large.fill.entry = vec![0; FILL_BYTES / 2].into();
            dropped += queue.add_fill(&a, (), large).fills;
        }
        assert_eq!((dropped, queue.fills()), (1, 2));
    }
}
