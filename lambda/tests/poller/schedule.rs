//! One schedule: the steps of its plan, the poller at work beside them, and the audit at the end.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::audit::audit;
use super::destination::{Kind, Queue};
use super::fault::Fault;
use super::invocation::{Begun, Finished, Work};
use super::mapping::{Lane, Verdict};
use super::outcome::Outcome;
use super::plan::{Chance, Plan, Step};
use super::readers::Readers;
use super::runtime_api::Reply;
use super::sandbox::{Ended, Fate, Sandbox};
use super::table::Record;
use super::world::World;

/// Longer than anything takes once all is well again; reaching it is a failure.
const LONG: Duration = Duration::from_secs(60);

/// What the function is given for one event once all is well.
const AMPLE: Duration = Duration::from_secs(10);

struct Schedule<'a> {
    world: &'a mut World,
    plan: &'a Plan,
    fault: Fault,
    rng: Rng,
    pks: Vec<String>,
    categories: Vec<String>,
    lanes: Vec<Lane>,
    busy: Vec<bool>,
    queue: Queue,
    queue_busy: bool,
    under_way: JoinSet<Finished>,
    /// Sandboxes frozen past their time, each with its lane and the place that the lane has to pass before it goes on.
    zombies: Vec<(usize, usize, Sandbox)>,
    ending: JoinSet<()>,
    invocations: u64,
    troubles: usize,
    calm: bool,
    unreadable: Vec<u128>,
    outcome: Outcome,
}

/// Runs the schedule of a plan to its end.
pub(crate) async fn run(world: &mut World, plan: &Plan, fault: Fault) -> Outcome {
    let lanes = plan.stream_shards * plan.settings.parallelization;
    let tag = format!("{:x}-", plan.seed);
    let mut rng = Rng::with_seed(plan.seed);
    world.ring.flush().await;
    world.table.lock().unwrap().clear();
    let pks: Vec<String> = (0..plan.items).map(|n| format!("{tag}{n}")).collect();
    let categories: Vec<String> = (0..3).map(|n| format!("{tag}c{n}")).collect();
    let readers = Readers::start(plan.readers, &world.spaces, &pks, &categories, &mut rng);
    let mut schedule = Schedule {
        world,
        plan,
        fault,
        rng,
        pks,
        categories,
        lanes: (0..lanes).map(|_| Lane::default()).collect(),
        busy: vec![false; lanes],
        queue: Queue::default(),
        queue_busy: false,
        under_way: JoinSet::new(),
        zombies: Vec::new(),
        ending: JoinSet::new(),
        invocations: 0,
        troubles: 0,
        calm: false,
        unreadable: Vec::new(),
        outcome: Outcome::new(plan.seed),
    };
    for step in &plan.steps {
        schedule.take(*step).await;
        schedule.poll().await;
    }
    schedule.world.ring.mend_all();
    schedule.troubles += 1;
    schedule.calm = true;
    schedule.outcome.note("all is well again");
    schedule.drain().await;
    let mut outcome = schedule.outcome;
    match readers.stop().await {
        Ok(reads) => outcome.counts.reads += reads,
        Err(violation) => outcome.violated(violation),
    }
    let audited = audit(world, &tag).await;
    outcome.counts.entries += audited.entries as u64;
    audited.stale.into_iter().for_each(|stale| outcome.violated(format!("stale: {stale}")));
    if !outcome.violations.is_empty() {
        outcome.note(format!("logs of the sandboxes that are left\n{}", world.fleet.logs()));
    }
    outcome
}

impl Schedule<'_> {
    async fn take(&mut self, step: Step) {
        self.outcome.note(format!("{step:?}"));
        let table = self.world.table.clone();
        match step {
            Step::Write(writes) => {
                for _ in 0..writes {
                    let pk = &self.pks[self.rng.usize(..self.pks.len())];
                    let record = table.lock().unwrap().change(pk, &self.categories, &mut self.rng);
                    self.push(record);
                }
            }
            Step::WriteOddly => {
                let pk = &self.pks[self.rng.usize(..self.pks.len())];
                let record = table.lock().unwrap().put_with_an_image_that_cannot_be_read(pk);
                record.into_iter().for_each(|record| self.push(record));
            }
            Step::Unreadable(kind) => {
                let pk = format!("{:x}-bad{}", self.plan.seed, self.rng.usize(..3));
                let record = table.lock().unwrap().unreadable(&pk, kind);
                self.push(record);
            }
            Step::Trouble(shard, trouble) => {
                self.troubles += 1;
                self.world.ring.trouble(shard, trouble);
            }
            Step::ReadAll => {
                let reads = self.world.spaces.read_everything(&self.pks, &self.categories).await;
                match reads {
                    Ok(reads) => self.outcome.counts.reads += reads,
                    Err(violation) => self.outcome.violated(violation),
                }
            }
            Step::Wait(time) => {
                let until = Instant::now() + time;
                while let Ok(Some(finished)) = tokio::time::timeout_at(until, self.under_way.join_next()).await {
                    self.finished(finished.unwrap());
                    self.poll().await;
                }
                tokio::time::sleep_until(until).await;
            }
            Step::Replay(lane, records) => {
                let lane = lane % self.lanes.len();
                if !self.busy[lane] {
                    self.lanes[lane].replay(records);
                }
            }
            Step::Reap(kindly) => self.world.fleet.reap(kindly).await,
        }
    }

    /// Puts a record into its stream shard, in the lane of its item.
    fn push(&mut self, record: Arc<Record>) {
        self.outcome.counts.records += 1;
        if record.unreadable {
            self.unreadable.extend(record.number_is_readable.then_some(record.sequence));
        }
        let item = record.item.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31) + usize::from(byte));
        let lane = item % self.lanes.len();
        self.lanes[lane].push(record);
    }

    /// Takes in what has ended and begins what can begin.
    async fn poll(&mut self) {
        while let Some(finished) = self.under_way.try_join_next() {
            self.finished(finished.unwrap());
        }
        self.release_zombies();
        if !self.queue_busy
            && let Some((event, messages)) = self.queue.event()
            && let Some(sandbox) = self.world.fleet.take().await
        {
            self.queue_busy = true;
            self.begin(Work::Messages(messages), event, sandbox, None);
        }
        for lane in 0..self.lanes.len() {
            if self.busy[lane] {
                continue;
            }
            let (batch, given_up) = self.lanes[lane].next(&self.plan.settings, Instant::now());
            if let Some(given_up) = given_up {
                self.give_up(&given_up);
            }
            let Some(batch) = batch else { continue };
            let Some(sandbox) = self.world.fleet.take().await else { return };
            self.busy[lane] = true;
            let second = match self.chance().twice {
                true => self.world.fleet.take().await,
                false => None,
            };
            let event = batch.event();
            self.begin(Work::Batch(lane, batch), event, sandbox, second);
        }
    }

    /// What happens to the next invocation; nothing any more once all is well.
    fn chance(&self) -> Chance {
        let chance = self.plan.chance(self.invocations);
        if self.calm { Chance { fate: Fate::Undisturbed, ..chance } } else { chance }
    }

    fn begin(&mut self, work: Work, event: String, sandbox: Sandbox, second: Option<Sandbox>) {
        let chance = self.chance();
        // A busy machine gets everything done in the end, and the first fetch of an object in a build for tests.
        let time = match &work {
            _ if self.calm => AMPLE,
            Work::Messages(_) if self.plan.destination != Kind::Queue => AMPLE / 5,
            Work::Batch(..) | Work::Messages(_) => self.plan.time,
        };
        self.invocations += 1;
        self.outcome.counts.invocations += 1;
        let what = match &work {
            Work::Batch(lane, batch) => {
                let (first, last) = (&batch.records[0], &batch.records[batch.records.len() - 1]);
                format!("lane {lane}: {} to {}", first.sequence, last.sequence)
            }
            Work::Messages(messages) => format!("{messages} messages"),
        };
        self.outcome.note(format!("{what} to {} {chance:?}", sandbox.pid));
        let troubles = self.world.ring.is_whole().then_some(self.troubles);
        self.under_way.spawn(Begun { work, event, chance, sandbox, second, time, troubles }.run());
    }

    fn finished(&mut self, finished: Finished) {
        let Finished { work, chance, ended, again, sandboxes, zombie, troubles } = finished;
        sandboxes.into_iter().for_each(|sandbox| self.world.fleet.give_back(sandbox));
        let counts = &mut self.outcome.counts;
        counts.timed_out += u64::from(matches!(ended, Ended::TimedOut));
        counts.died += u64::from(matches!(ended, Ended::Died));
        counts.duplicates += u64::from(again.is_some());
        // Nothing was wrong with the ring or with the sandbox for as long as it took.
        let in_peace = troubles == Some(self.troubles) && chance.fate == Fate::Undisturbed;
        let said = format!("{ended:?}");
        match work {
            Work::Batch(lane, batch) => {
                let verdict = match (&ended, self.fault) {
                    (Ended::TimedOut, Fault::TimeOutIsSuccess) | (Ended::Died, Fault::CrashIsSuccess) => {
                        Verdict::Delivered
                    }
                    _ => batch.verdict(&ended),
                };
                self.outcome.note(format!("lane {lane}: {verdict:?}, {said}, again {again:?}"));
                self.outcome.counts.partial += u64::from(matches!(verdict, Verdict::DeliveredBefore(_)));
                let again = again.as_ref().map(|again| batch.verdict(again));
                if verdict == Verdict::BadIdentifier || again == Some(Verdict::BadIdentifier) {
                    self.outcome.violated(format!("an identifier that names no record of the batch: {said}"));
                }
                if in_peace && matches!(ended, Ended::Said(Reply::Error(_)) | Ended::Died) {
                    self.outcome.violated(format!("a batch failed though nothing was wrong: {said}"));
                }
                if let Some(zombie) = zombie {
                    self.outcome.counts.zombies += 1;
                    let past = self.lanes[lane].done() + batch.records.len();
                    self.zombies.push((lane, past, zombie));
                }
                self.busy[lane] = false;
                if let Some(given_up) = self.lanes[lane].ended(&self.plan.settings, self.fault, verdict) {
                    self.give_up(&given_up);
                }
            }
            Work::Messages(messages) => {
                self.outcome.note(format!("{messages} messages: {said}"));
                self.queue_busy = false;
                let proper = self.queue.ended(messages, &ended);
                if let Some(zombie) = zombie {
                    self.zombies.push((0, 0, zombie));
                }
                if !proper && (in_peace || matches!(ended, Ended::Said(Reply::Answer(_)))) {
                    self.outcome.violated(format!("messages of the on-failure queue failed: {said}"));
                }
            }
        }
    }

    fn give_up(&mut self, given_up: &super::mapping::GivenUp) {
        self.outcome.counts.given_up += 1;
        self.outcome.note(format!("given up: {} records, {}", given_up.records.len(), given_up.condition));
        // Without their event, records that cannot be read are not parked either.
        let lost = |number: &u128| given_up.records.iter().any(|record| record.sequence == *number);
        self.unreadable.retain(|number| !lost(number));
        if self.fault != Fault::GivenUpForgotten {
            self.queue.push(given_up, self.plan.destination, &self.world.objects);
        }
    }

    /// Lets a sandbox that outlived its time go on once its records were delivered by another one.
    fn release_zombies(&mut self) {
        let mut place = 0;
        while place < self.zombies.len() {
            let (lane, past, _) = &self.zombies[place];
            if self.lanes[*lane].done() < *past && !self.lanes[*lane].is_drained() {
                place += 1;
                continue;
            }
            let (_, _, zombie) = self.zombies.swap_remove(place);
            self.outcome.note(format!("{} goes on", zombie.pid));
            self.ending.spawn(zombie.go_on_and_end());
        }
    }

    /// Goes on until everything is delivered.
    async fn drain(&mut self) {
        let begun = Instant::now();
        loop {
            self.poll().await;
            let drained = self.lanes.iter().all(Lane::is_drained) && self.queue.waiting.is_empty();
            if drained && self.under_way.is_empty() && self.zombies.is_empty() {
                break;
            }
            if begun.elapsed() > LONG {
                self.outcome.violated("the stream is not drained".to_owned());
                self.outcome.hung = true;
                return;
            }
            if let Ok(Some(finished)) = tokio::time::timeout(LONG, self.under_way.join_next()).await {
                self.finished(finished.unwrap());
            }
        }
        while self.ending.join_next().await.is_some() {}
        let parked = self.world.parked();
        for number in self.unreadable.iter().filter(|number| !parked.contains(number)) {
            self.outcome.violations.push(format!("{number} is not parked with its content"));
        }
        self.outcome.note("drained");
    }
}
