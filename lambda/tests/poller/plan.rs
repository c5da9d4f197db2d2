//! What a seed asks for: the mapping's settings, and the steps of a schedule.

use std::time::Duration;

use fastrand::Rng;

use super::destination::Kind;
use super::fault::Fault;
use super::mapping::Settings;
use super::ring::{SHARDS, Trouble};
use super::sandbox::Fate;

/// A schedule before it is run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) settings: Settings,
    pub(crate) destination: Kind,
    pub(crate) stream_shards: usize,
    pub(crate) items: usize,
    pub(crate) readers: usize,
    /// What the function is given for one event.
    pub(crate) time: Duration,
    pub(crate) steps: Vec<Step>,
    /// In how many of 100 invocations something happens to the sandbox.
    disturbed: u8,
    /// The only disturbance that there is to be.
    only: Option<u8>,
}

/// One step; indexes are taken modulo what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    Write(usize),
    /// An item is written so that only its keys can be read.
    WriteOddly,
    /// A record that nobody can read, of this kind.
    Unreadable(u8),
    Trouble(usize, Trouble),
    /// Everything is read once, so that it is cached.
    ReadAll,
    Wait(Duration),
    /// The checkpoint of a lane goes back by so many records.
    Replay(usize, usize),
    /// A sandbox that waits is taken away; asked kindly, or killed.
    Reap(bool),
}

/// What happens to one invocation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chance {
    pub(crate) fate: Fate,
    /// The batch is sent twice, to two sandboxes where there are two.
    pub(crate) twice: bool,
}

/// Kinds of disturbance.
const KILLED: u8 = 0;
const OUTLIVED: u8 = 1;

/// Neighbouring seeds are to have nothing in common.
fn spread(seed: u64) -> u64 {
    seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(spread(seed));
        let ms = |rng: &mut Rng, range| Duration::from_millis(rng.u64(range));
        let time = Duration::from_millis([300, 400, 700][rng.usize(..3)]);
        let settings = Settings {
            batch_size: [1, 3, 8, 20, 100][rng.usize(..5)],
            parallelization: rng.usize(1..=3),
            bisect: rng.bool(),
            retries: [None, Some(0), Some(1), Some(3)][rng.usize(..4)],
            maximum_age: (rng.u8(..4) == 0).then(|| ms(rng, 200..900)),
            progress_gives_retries_back: rng.bool(),
            splits_at_the_first_record: rng.bool(),
        };
        let mut steps = Vec::new();
        for _ in 0..rng.usize(10..30) {
            steps.push(match rng.u8(..100) {
                ..50 => Step::Write(rng.usize(1..5)),
                50..56 => Step::WriteOddly,
                56..64 => Step::Unreadable(rng.u8(..)),
                64..90 => Step::Wait(ms(rng, 0..12)),
                90..95 => Step::Replay(rng.usize(..), rng.usize(1..12)),
                _ => Step::Reap(rng.bool()),
            });
        }
        for _ in 0..rng.usize(..3) {
            Self::add_trouble(&mut steps, time, rng);
        }
        Self {
            seed,
            settings,
            destination: [Kind::Queue, Kind::Queue, Kind::Bucket, Kind::LostBucket][rng.usize(..4)],
            stream_shards: rng.usize(1..=2),
            items: rng.usize(3..=15),
            readers: rng.usize(1..=3),
            time,
            steps,
            disturbed: [0, 10, 40][rng.usize(..3)],
            only: None,
        }
    }

    /// Makes what a planted fault gets wrong happen more often, and right at the end, where nothing makes it good.
    pub(crate) fn aimed_at(mut self, fault: Fault) -> Self {
        self.settings.maximum_age = None;
        (self.disturbed, self.only) = match fault {
            Fault::None => return self,
            Fault::CrashIsSuccess => (50, Some(KILLED)),
            Fault::TimeOutIsSuccess => (50, Some(OUTLIVED)),
            Fault::AnswersIgnored | Fault::CheckpointPastTheFailed => {
                self.settings.retries = None;
                (0, None)
            }
            Fault::GivenUpForgotten => {
                self.settings.retries = Some(0);
                (0, None)
            }
        };
        self.steps.push(Step::ReadAll);
        if self.only.is_none() {
            self.steps.extend((0..SHARDS).map(|shard| Step::Trouble(shard, Trouble::Cut)));
        }
        self.steps.extend([Step::Write(3), Step::Wait(self.time * 2)]);
        self
    }

    /// Adds trouble with a shard, which is mended later: before an invocation's time is over, or after.
    fn add_trouble(steps: &mut Vec<Step>, time: Duration, rng: &mut Rng) {
        let shard = rng.usize(..SHARDS);
        let kinds = [Trouble::Kill, Trouble::Freeze, Trouble::Cut, Trouble::Cut, Trouble::Stall, Trouble::Disconnect];
        let trouble = kinds[rng.usize(..kinds.len())];
        let begin = rng.usize(..steps.len());
        let end = rng.usize(begin..steps.len()) + 1;
        let mut outage = vec![Step::Trouble(shard, Trouble::Mend)];
        if rng.u8(..4) != 0 {
            let wait = time.mul_f64(0.3 + rng.f64() * 1.2);
            outage.splice(..0, [Step::ReadAll, Step::Write(rng.usize(1..6)), Step::Wait(wait)]);
        }
        steps.splice(end..end, outage);
        steps.splice(begin..begin, [Step::ReadAll, Step::Trouble(shard, trouble)]);
    }

    /// What happens to the invocation with this number.
    pub(crate) fn chance(&self, invocation: u64) -> Chance {
        let rng = &mut Rng::with_seed(spread(self.seed ^ spread(invocation)));
        let soon = Duration::from_micros(rng.u64(..4000));
        let fate = match rng.u8(..100) {
            disturbed if disturbed >= self.disturbed => Fate::Undisturbed,
            disturbed => match self.only.unwrap_or(disturbed % 3) {
                KILLED => Fate::Killed(soon),
                OUTLIVED => Fate::Outlived(soon),
                _ => Fate::Paused(soon, Duration::from_millis(rng.u64(1..60))),
            },
        };
        Chance { fate, twice: rng.u8(..8) == 0 }
    }
}
