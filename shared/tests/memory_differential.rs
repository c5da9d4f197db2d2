//! The ring shard in memory answers as a real server does and holds the same bytes: random sequences of calls on both,
//! compared call by call. `RINGTIDE_DOUBLE_SEQUENCES` says how many, `RINGTIDE_DOUBLE_SEED` where they begin.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use redis::aio::MultiplexedConnection;
use ringtide_core::command::{Command, Image};
use ringtide_core::entry::{HEADER_LEN, State};
use ringtide_core::key::{KeySpace, Mode};
use ringtide_core::valkey::{
    Applied, Fill, FillReply, Inbox, InboxEvent, LeaseReply, LeaseRequest, MemoryServer, Notice, Release, Shard, Token,
};
use ringtide_core::version::Version;
use ringtide_servers::number;

use crate::support::*;

const STEPS: usize = 40;
const NAMES: [&str; 4] = ["a", "b", "{t}c", "ü"];
const INBOXES: [&str; 2] = ["one", "two"];

/// Times to live that are told apart however slow the machine is; in ms.
const TTLS: [u64; 4] = [20_000, 40_000, 60_000, 80_000];
const SLACK_MS: u64 = 9_000;

/// One call, made on both.
#[derive(Clone, Debug)]
enum Step {
    Put { name: String, value: Bytes, ttl_ms: Option<u64> },
    Evict { name: String },
    Lease { key: &'static str, token: Token, ttl_ms: u64, inbox: Option<&'static str>, refresh_before_ms: u64 },
    Extend { key: &'static str, token: Token, ttl_ms: u64 },
    Fill { key: &'static str, fill: Fill },
    Release { key: &'static str, token: Token, reason: Option<String> },
    Apply { commands: Vec<Command>, deadline_ms: u64 },
    Get { keys: Vec<&'static str> },
    Names { prefix: &'static str },
    Flush { prefix: &'static str },
}

/// What a call was answered.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Done,
    Lease(LeaseReply),
    Fill(FillReply),
    Flag(bool),
    Applied(Applied),
    Values(Vec<Option<Bytes>>),
    Names(Vec<String>, u64),
    Count(u64),
}

struct Dice(Rng);

impl Dice {
    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.0.usize(..choices.len())].clone()
    }

    fn one_in(&mut self, sides: u32) -> bool {
        self.0.u32(..sides) == 0
    }

    fn key(&mut self) -> &'static str {
        self.of(&NAMES)
    }

    fn token(&mut self) -> Token {
        Token::from_bytes([self.0.u8(1..4); 16])
    }

    fn version(&mut self) -> Version {
        match self.0.u8(..8) {
            0 | 1 => Version::NONE,
            2 => Version::from_sequence(1_700_000_000_000, &"40000000000000000000001".parse().unwrap()),
            3 => version(3).just_above(),
            number => version(number.into()),
        }
    }

    fn ttl(&mut self) -> u64 {
        self.of(&TTLS)
    }

    fn entry(&mut self) -> Bytes {
        let state = self.of(&[State::Tombstone, State::Value, State::Value, State::Negative, State::Stale]);
        let payload = self.of(&["", "short", "somewhat longer"]);
        let mut bytes = entry(state, self.version(), self.version(), payload).to_vec();
        if self.one_in(4) {
            bytes[64..72].copy_from_slice(&self.of(&[1000, u64::MAX, 1 << 53]).to_be_bytes());
        }
        bytes.into()
    }

    /// What may lie under a key: mostly entries, else whatever is almost one.
    fn value(&mut self) -> Bytes {
        let mut bytes = self.entry().to_vec();
        match self.0.u8(..16) {
            0 => bytes = b"foreign".to_vec(),
            1 => bytes.clear(),
            2 => bytes.truncate(self.0.usize(..bytes.len())),
            3 => bytes.push(b'x'),
            4 => bytes[self.0.usize(4..8)] = self.0.u8(..),
            5 => bytes[6] = self.of(&[0x02, 0x03, 0x10, 0x12, 0x20, 0x1f]),
            _ => {}
        }
        bytes.into()
    }

    /// What may lie under a lock's name.
    fn lock(&mut self) -> Bytes {
        let mut bytes = [b"RTL\x01", &self.token().as_bytes()[..], self.version().as_bytes()].concat();
        match self.0.u8(..8) {
            0 => bytes = b"foreign".to_vec(),
            1 => bytes.truncate(self.of(&[0, 3, 47])),
            2 => bytes[3] = 2,
            3 => bytes.extend_from_slice(b"\x03one"),
            // A name that is cut.
            4 => bytes.extend_from_slice(b"\x03one\x09two"),
            // Room for one more name of three bytes, or not.
            5 => {
                let room = self.of(&[3_usize, 4, 5]);
                while bytes.len() < 48 + 65_536 - room {
                    let length = (48 + 65_536 - room - bytes.len() - 1).min(255);
                    bytes.push(u8::try_from(length).unwrap());
                    bytes.resize(bytes.len() + length, b'0');
                }
            }
            _ => {}
        }
        bytes.into()
    }

    fn space(&mut self) -> Arc<KeySpace> {
        let tombstone = self.of(&[None, Some(Duration::from_millis(40_000)), Some(Duration::from_millis(80_000))]);
        let mode = match self.0.u8(..5) {
            0 => Mode::Plain,
            1 => Mode::Settle { after: Duration::from_secs(1) },
            _ => Mode::Versioned { attribute: "v".to_owned(), tombstone },
        };
        space(mode, self.0.bool())
    }

    /// A batch whose commands share one script, for batches have no order among scripts; a key may come twice.
    fn commands(&mut self) -> Vec<Command> {
        let space = self.space();
        let refreshes = self.one_in(3);
        let has_version = !matches!(space.mode, Mode::Versioned { .. }) || self.0.bool();
        let count = self.0.usize(1..4);
        let command = |_| {
            let key = self.key();
            if !refreshes {
                let version = if has_version { self.version() } else { Version::NONE };
                return invalidate(key, &space, version);
            }
            let version = Some(self.version()).filter(|version| !version.is_none()).unwrap_or(version(9));
            let long = format!("{:?}", "x".repeat(9000));
            let image = match self.0.u8(..6) {
                0 => Image::Deleted,
                1 => Image::Json(long.into()),
                _ => Image::Json("{}".into()),
            };
            refresh(key, &space, version, image, self.one_in(3))
        };
        (0..count).map(command).collect()
    }

    fn step(&mut self) -> Step {
        let key = self.key();
        let token = self.token();
        let ttl_ms = self.ttl();
        match self.0.u8(..40) {
            0..4 => Step::Put {
                name: key.to_owned(),
                value: self.value(),
                ttl_ms: Some(ttl_ms).filter(|_| !self.one_in(5)),
            },
            4..6 => {
                let ttl_ms = Some(ttl_ms).filter(|_| !self.one_in(5));
                Step::Put { name: crate::support::key(key).lock(), value: self.lock(), ttl_ms }
            }
            6 => Step::Evict { name: key.to_owned() },
            7 => Step::Evict { name: crate::support::key(key).lock() },
            8..18 => Step::Lease {
                key,
                token,
                ttl_ms,
                inbox: self.of(&[None, Some("one"), Some("two"), Some("two")]),
                refresh_before_ms: self.of(&[0, 0, 999, 1000, u64::MAX]),
            },
            18 => Step::Extend { key, token, ttl_ms },
            19..26 => {
                let (version, proven) = (self.version(), self.version());
                let (entry, inline_max) = (self.entry(), self.of(&[0, 85, 1024]));
                let ttl = Duration::from_millis(ttl_ms);
                Step::Fill { key, fill: Fill { token, version, proven, ttl, entry, inline_max } }
            }
            26 | 27 => {
                let reason = self.of(&[None, Some("boom".to_owned()), Some("ä".repeat(150))]);
                Step::Release { key, token, reason }
            }
            28..37 => Step::Apply { commands: self.commands(), deadline_ms: self.of(&[0, 0, 0, 1]) },
            37 => Step::Get { keys: (0..self.0.usize(..4)).map(|_| self.key()).collect() },
            38 => Step::Names { prefix: self.of(&["", "a", "lock:", "{"]) },
            _ => Step::Flush { prefix: self.of(&["a", "{", "{t}", "lock:{b", "*", "ü", ""]) },
        }
    }
}

async fn take(shard: &Shard, step: &Step) -> Answer {
    match step {
        Step::Put { .. } | Step::Evict { .. } => Answer::Done,
        Step::Lease { key: name, token, ttl_ms, inbox, refresh_before_ms } => {
            let ttl = Duration::from_millis(*ttl_ms);
            let request = LeaseRequest { token: *token, ttl, inbox: *inbox, refresh_before_ms: *refresh_before_ms };
            Answer::Lease(shard.lease(&key(name), &request).await.unwrap())
        }
        Step::Extend { key: name, token, ttl_ms } => {
            Answer::Flag(shard.extend(&key(name), token, Duration::from_millis(*ttl_ms)).await.unwrap())
        }
        Step::Fill { key: name, fill } => Answer::Fill(shard.fill(&key(name), fill).await.unwrap()),
        Step::Release { key: name, token, reason } => {
            let release = reason.as_deref().map_or(Release::Retry, Release::Failed);
            Answer::Flag(shard.release(&key(name), token, release).await.unwrap())
        }
        Step::Apply { commands, deadline_ms } => Answer::Applied(shard.apply(commands, *deadline_ms).await.unwrap()),
        Step::Get { keys } => {
            let keys: Vec<_> = keys.iter().map(|name| key(name)).collect();
            let mut values = shard.get_many(&keys).await.unwrap();
            for key in &keys {
                values.push(shard.get(key).await.unwrap());
            }
            Answer::Values(values)
        }
        Step::Names { prefix } => {
            let mut names = shard.keys(prefix).await.unwrap();
            names.sort();
            Answer::Names(names, shard.dbsize().await.unwrap())
        }
        Step::Flush { prefix } => Answer::Count(shard.flush(prefix, Duration::ZERO).await.unwrap()),
    }
}

/// Takes out of an entry when it stops being fresh, where a refresh has written that by its own clock.
fn timeless(value: &Bytes) -> Bytes {
    let mut bytes = value.to_vec();
    let now_ms = ringtide_core::clock::unix_ms();
    if bytes.len() >= HEADER_LEN {
        let soft = u64::from_be_bytes(bytes[64..72].try_into().unwrap());
        if soft.abs_diff(now_ms) < 200_000 {
            bytes[64..72].fill(0xee);
        }
    }
    bytes.into()
}

/// An answer without what the time changes.
fn settled(answer: Answer) -> (Answer, u64) {
    let timeless = |value: Option<Bytes>| value.as_ref().map(timeless);
    match answer {
        Answer::Lease(LeaseReply::Hit(entry)) => (Answer::Lease(LeaseReply::Hit(self::timeless(&entry))), 0),
        Answer::Lease(LeaseReply::Granted { floor, stale }) => {
            (Answer::Lease(LeaseReply::Granted { floor, stale: timeless(stale) }), 0)
        }
        Answer::Lease(LeaseReply::Wait { remaining, registered, holder, stale }) => {
            let left_ms = u64::try_from(remaining.as_millis()).unwrap();
            let wait = LeaseReply::Wait { remaining: Duration::ZERO, registered, holder, stale: timeless(stale) };
            (Answer::Lease(wait), left_ms)
        }
        Answer::Values(values) => (Answer::Values(values.into_iter().map(timeless).collect()), 0),
        answer => (answer, 0),
    }
}

type Contents = BTreeMap<String, (Bytes, Option<u64>)>;

async fn contents_of_server(raw: &mut MultiplexedConnection) -> Contents {
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query_async(raw).await.unwrap();
    if names.is_empty() {
        return Contents::new();
    }
    let mut ask = redis::pipe();
    for name in &names {
        ask.get(name).pttl(name);
    }
    let mut answers: Vec<redis::Value> = ask.query_async(raw).await.unwrap();
    let mut contents = Contents::new();
    for (name, answer) in names.into_iter().zip(answers.chunks_exact_mut(2)) {
        match answer {
            [redis::Value::BulkString(value), redis::Value::Int(ttl)] => {
                let value = timeless(&std::mem::take(value).into());
                contents.insert(name, (value, u64::try_from(*ttl).ok()));
            }
            other => panic!("{other:?} under {name}"),
        }
    }
    contents
}

fn contents_of_double(double: &MemoryServer) -> Contents {
    let contents = |name: String| {
        let ttl = double.remaining(&name).map(|left| u64::try_from(left.as_millis()).unwrap());
        let value = timeless(&double.value(&name)?);
        Some((name, (value, ttl)))
    };
    double.keys().into_iter().filter_map(contents).collect()
}

fn alike(server: &Contents, double: &Contents) -> bool {
    server.len() == double.len()
        && server.iter().zip(double).all(|((name, (value, ttl)), (other_name, (other_value, other_ttl)))| {
            let close = match (ttl, other_ttl) {
                (Some(one), Some(other)) => one.abs_diff(*other) < SLACK_MS,
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            name == other_name && value == other_value && close
        })
}

/// Everything that was told until now: a lease that is given back comes last.
async fn told(shard: &Shard, inbox: &mut Inbox) -> Vec<Notice> {
    let (end, holder) = (key("end"), Token::random());
    shard.lease(&end, &request(holder)).await.unwrap();
    let channel = inbox.channel().to_owned();
    shard.lease(&end, &LeaseRequest { inbox: Some(&channel), ..request(Token::random()) }).await.unwrap();
    shard.release(&end, &holder, Release::Retry).await.unwrap();
    let mut notices = Vec::new();
    loop {
        match notice(inbox).await {
            Notice::Voided { key } if key == end => return notices,
            Notice::Filled { holder, key, entry } => {
                notices.push(Notice::Filled { holder, key, entry: entry.as_ref().map(timeless) });
            }
            other => notices.push(other),
        }
    }
}

/// Bytes that fit on a screen.
fn brief(value: &impl Debug) -> String {
    let text = format!("{value:#?}");
    text.chars().take(4000).collect()
}

#[tokio::test]
async fn the_double_is_told_apart_from_a_server_by_nothing() {
    let server = Server::start();
    let (real, mut raw) = (server.shard().await, server.raw().await);
    let double = MemoryServer::new("a");
    let memory = Shard::in_memory(&double);
    let mut inboxes = Vec::new();
    for channel in INBOXES {
        inboxes.push((inbox(&real, channel).await, inbox(&memory, channel).await));
    }
    let first = number("RINGTIDE_DOUBLE_SEED").unwrap_or(fastrand::u64(..u64::MAX / 2));
    for seed in first..first + number("RINGTIDE_DOUBLE_SEQUENCES").unwrap_or(60) {
        redis::cmd("FLUSHALL").exec_async(&mut raw).await.unwrap();
        double.clear();
        let mut dice = Dice(Rng::with_seed(seed));
        let mut taken = Vec::new();
        for _ in 0..STEPS {
            let step = dice.step();
            taken.push(step.clone());
            match &step {
                Step::Put { name, value, ttl_ms } => {
                    let mut command = redis::cmd("SET");
                    command.arg(name).arg(&value[..]);
                    if let Some(ttl_ms) = ttl_ms {
                        command.arg("PX").arg(*ttl_ms);
                    }
                    command.exec_async(&mut raw).await.unwrap();
                    double.put(name, value.clone(), ttl_ms.map(Duration::from_millis));
                }
                Step::Evict { name } => {
                    let evicted: bool = redis::cmd("DEL").arg(name).query_async(&mut raw).await.unwrap();
                    assert_eq!(double.evict(name), evicted, "seed {seed}");
                }
                _ => {}
            }
            let (answer, left_ms) = settled(take(&real, &step).await);
            let (other, other_left_ms) = settled(take(&memory, &step).await);
            let last = &taken[taken.len().saturating_sub(6)..];
            assert!(
                answer == other && left_ms.abs_diff(other_left_ms) < SLACK_MS,
                "seed {seed}, after {}\nserver: {}\ndouble: {}",
                brief(&last),
                brief(&answer),
                brief(&other)
            );
            let (there, here) = (contents_of_server(&mut raw).await, contents_of_double(&double));
            assert!(
                alike(&there, &here),
                "seed {seed}, after {}\nserver: {}\ndouble: {}",
                brief(&last),
                brief(&there),
                brief(&here)
            );
        }
        for (at_server, at_double) in &mut inboxes {
            let (server_told, double_told) = (told(&real, at_server).await, told(&memory, at_double).await);
            assert_eq!(server_told, double_told, "seed {seed}, {}", brief(&taken));
        }
    }
}

#[tokio::test]
async fn an_outage_fails_every_call_and_tells_the_inboxes() {
    let double = MemoryServer::new("a");
    let shard = Shard::in_memory(&double);
    let mut mine = inbox(&shard, "mine").await;
    let token = Token::random();
    shard.lease(&key("k"), &request(token)).await.unwrap();
    double.down(true);
    assert_eq!(next(&mut mine).await, InboxEvent::Down);
    assert!(shard.ready(Duration::from_secs(1)).await.is_err());
    assert!(shard.get(&key("k")).await.unwrap_err().is_retryable());
    assert!(shard.fill(&key("k"), &fill_of(token, value("1"))).await.is_err());
    assert!(shard.apply(&[invalidate("k", &plain(), Version::NONE)], 0).await.is_err());
    assert!(shard.ping().await.is_err() && shard.flush("", Duration::ZERO).await.is_err());
    double.down(false);
    assert_eq!(next(&mut mine).await, InboxEvent::Up);
    assert_eq!(double.keys(), ["lock:{k}"]);
    assert_eq!(shard.fill(&key("k"), &fill_of(token, value("1"))).await.unwrap(), FillReply::Stored);
    assert!(shard.run_id().await.unwrap().len() == 32);
}

#[tokio::test(start_paused = true)]
async fn leases_and_entries_expire_as_time_passes() {
    let double = MemoryServer::new("a");
    let shard = Shard::in_memory(&double);
    let token = Token::random();
    shard.lease(&key("k"), &request(token)).await.unwrap();
    tokio::time::advance(Duration::from_millis(5001)).await;
    assert_eq!(shard.fill(&key("k"), &fill_of(token, value("1"))).await.unwrap(), FillReply::Void);
    shard.lease(&key("k"), &request(token)).await.unwrap();
    assert_eq!(shard.fill(&key("k"), &fill_of(token, value("1"))).await.unwrap(), FillReply::Stored);
    double.advance(Duration::from_secs(59));
    assert!(shard.get(&key("k")).await.unwrap().is_some());
    double.advance(Duration::from_secs(2));
    assert!(shard.get(&key("k")).await.unwrap().is_none());
}
