//! A ring shard in this process's memory, for tests of applications: the same answers and the same bytes as a server's.
//!
//! Scripts are called as they are on a server, with the same arguments and the same replies; `memory/lease.rs` and
//! `memory/invalidate.rs` say in Rust what `scripts` say in Lua. What differs: there are strings only, nothing is
//! evicted unless [`MemoryServer::evict`] is called, and memory is never short.

mod entry;
mod invalidate;
mod lease;
mod lock;
mod store;
mod weather;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{Arg, Cmd, Value};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::apply::{Applied, BATCH, Sorted};
use super::batch::{Call, attempt_deadline};
use super::flush::is_lock_of;
use super::script::Script;
use super::tracking::HEARTBEAT;
use super::{Flushed, InboxEvent, Reach, Shard, ShardError, Token, Tracker};
use crate::command::Command;
use crate::key::CacheKey;
use crate::ring::ShardName;
use crate::valkey::meters::Meters;
use store::Store;
use weather::Weather;

/// What a refresh is given as command time-out.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);

/// A ring shard's server in memory; cheap to clone, and its clones are one server.
///
/// Its clock is Tokio's, so that a test may pause it; [`MemoryServer::advance`] lets what it holds grow older. The soft
/// expiry that an entry carries is compared with the wall clock, as it is on a server.
#[derive(Clone)]
pub struct MemoryServer {
    name: ShardName,
    run_id: Arc<str>,
    state: Arc<Mutex<State>>,
    /// In a handle that tracks.
    _heartbeat: Option<Arc<Heartbeat>>,
}

/// The task that tells a tracker that it has heard of everything.
struct Heartbeat(AbortHandle);

#[derive(Default)]
struct State {
    store: Store,
    down: bool,
    weather: Weather,
}

impl MemoryServer {
    /// Makes an empty server of a name, by which the ring places its keys.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let run_id = format!("{:032x}", u128::from_be_bytes(*Token::random().as_bytes()));
        Self { name: ShardName::from(name.into()), run_id: run_id.into(), state: Arc::default(), _heartbeat: None }
    }

    /// The ring shard's name.
    #[must_use]
    pub fn name(&self) -> &ShardName {
        &self.name
    }

    /// Simulates an outage, or its end: while the server is down every call fails, and no message reaches an inbox. It
    /// keeps what it holds; see [`MemoryServer::clear`].
    pub fn down(&self, down: bool) {
        let mut state = self.state();
        if state.down != down {
            state.down = down;
            state.store.tell_all(&if down { InboxEvent::Down } else { InboxEvent::Up });
            if down {
                state.store.flushed(Flushed::Disconnected);
            }
        }
    }

    /// Lets every call, every answer and every message take a random time of up to `longest` from now on, a fifth of it on average: for what happens
    /// meanwhile, and for deadlines. Calls overtake each other then, as those of different processes do.
    pub fn delay(&self, longest: Duration) {
        self.state().weather.longest = longest;
    }

    /// Loses this share of all calls from now on, 0 to 1: their callers are told after a second that there was no answer in
    /// time, and the server carries them out at any moment, or never.
    pub fn lose(&self, share: f64) {
        self.state().weather.lost = share;
    }

    /// Takes a name away without telling anybody, as a server does that is short of memory; `false` for none there.
    ///
    /// Entries lie under their keys, and their locks under [`CacheKey::lock`].
    pub fn evict(&self, name: &str) -> bool {
        self.state().store.unlink(name.as_bytes())
    }

    /// Takes everything away, as a restart without persistence does.
    pub fn clear(&self) {
        self.state().store.clear();
    }

    /// Lets time pass for everything that expires, and for what is served stale: entries are so much nearer to the end of their
    /// time, or so much longer past it. Copies in processes' memories stay as they are.
    pub fn advance(&self, by: Duration) {
        self.state().store.advance(by);
    }

    /// The names there are, entries and locks, sorted; those that are not UTF-8 are left out.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let names = self.state().store.names(|_| true);
        names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect()
    }

    /// The bytes under a name; an entry is what [`crate::entry::Entry::parse`] reads.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<Bytes> {
        self.state().store.get(name.as_bytes())
    }

    /// How long a name still lives; `None` for one that is not there, or that does not expire.
    #[must_use]
    pub fn remaining(&self, name: &str) -> Option<Duration> {
        self.state().store.remaining_ms(name.as_bytes())?.map(Duration::from_millis)
    }

    /// Writes bytes under a name past the protocol, for what somebody else might have written.
    pub fn put(&self, name: &str, value: impl Into<Bytes>, ttl: Option<Duration>) {
        self.state().store.put(name.as_bytes(), value.into(), ttl.map(super::lease::millis));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the store, unless the server is down.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Store) -> T) -> Result<T, ShardError> {
        let mut state = self.state();
        if state.down {
            let reason = "the server in memory was taken down".into();
            let error = ShardError::Unavailable { shard: self.name.clone(), reason };
            Meters::of(&self.name).failed(&error);
            return Err(error);
        }
        Ok(work(&mut state.store))
    }

    /// Carries out a script's call as a server does.
    pub(super) fn run(&self, script: &Script, call: &Cmd) -> Result<Value, ShardError> {
        let words: Vec<&[u8]> = call.args_iter().filter_map(word).collect();
        let answer = self.with(|store| {
            let (keys, arguments) = keys_and_arguments(&words)?;
            match script.name() {
                "lease" => lease::lease(store, keys, arguments),
                "extend" => lease::extend(store, keys, arguments),
                "fill" => lease::fill(store, keys, arguments),
                "release" => lease::release(store, keys, arguments),
                "invalidate_set" => invalidate::set(store, keys),
                "invalidate_loop" => invalidate::compared(store, keys, arguments),
                "refresh" => invalidate::refresh(store, keys, arguments),
                _ => None,
            }
        })?;
        answer.ok_or_else(|| ShardError::unexpected(&self.name, script.name()))
    }

    pub(super) fn ready(&self) -> Result<(), ShardError> {
        self.with(|_| ())
    }

    pub(super) fn get(&self, key: &CacheKey) -> Result<Option<Bytes>, ShardError> {
        self.with(|store| store.get(key.as_bytes()))
    }

    pub(super) fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Bytes>>, ShardError> {
        self.with(|store| keys.iter().map(|key| store.get(key.as_bytes())).collect())
    }

    pub(super) fn names(&self, prefix: &str) -> Result<Vec<Vec<u8>>, ShardError> {
        self.with(|store| store.names(|name| name.starts_with(prefix.as_bytes())))
    }

    pub(super) fn flush(&self, prefix: &str) -> Result<u64, ShardError> {
        self.with(|store| {
            let names = store.names(|name| name.starts_with(prefix.as_bytes()) || is_lock_of(name, prefix));
            names.iter().filter(|name| store.unlink(name)).count() as u64
        })
    }

    /// Unlinks what begins with `magic`.
    pub(super) fn purge(&self, magic: &[u8]) -> Result<u64, ShardError> {
        self.with(|store| {
            let names = store.names(|_| true);
            let ours: Vec<_> = names
                .into_iter()
                .filter(|name| store.get(name).is_some_and(|value| value.starts_with(magic)))
                .collect();
            ours.iter().filter(|name| store.unlink(name)).count() as u64
        })
    }

    /// Answers what is asked about the server itself, as far as anybody asks.
    pub(super) fn ask(&self, command: &Cmd) -> Result<Value, ShardError> {
        let name = command.args_iter().find_map(word).unwrap_or_default();
        let answer = self.with(|store| match name {
            b"PING" => Some(Value::SimpleString("PONG".to_owned())),
            b"DBSIZE" => Some(int(store.names(|_| true).len() as u64)),
            b"INFO" => Some(bulk(format!("# Server\r\nrun_id:{}\r\n", self.run_id).as_bytes())),
            _ => None,
        })?;
        answer.ok_or_else(|| ShardError::unexpected(&self.name, "a command"))
    }

    /// Carries out a batch of commands, in the same script calls as on a server.
    pub(super) async fn apply(&self, commands: &[Command], deadline_ms: u64) -> Result<Applied, ShardError> {
        // As of the moment of sending, whenever it arrives.
        let (commands, deadline_ms) = (commands.to_vec(), attempt_deadline(deadline_ms, COMMAND_TIMEOUT));
        self.travel(move |server| server.carry_out(&Sorted::of(&commands), deadline_ms)).await
    }

    fn carry_out(&self, sorted: &Sorted<'_>, deadline_ms: u64) -> Result<Applied, ShardError> {
        let sets = sorted.plain.chunks(BATCH).map(Call::Set);
        let compared = sorted.compared.iter().flat_map(|(&(keep_ms, tombstone_ms), alike)| {
            alike.chunks(BATCH).map(move |commands| Call::Loop { commands, keep_ms, tombstone_ms })
        });
        let refreshes =
            sorted.refreshed.iter().map(|(command, refresh)| Call::Refresh { command, refresh, deadline_ms });
        let mut applied = Applied::default();
        for call in sets.chain(compared).chain(refreshes) {
            let script = call.script();
            let answer = self.run(script, &script.call(|command| call.write(command)))?;
            applied += call.read(answer).ok_or_else(|| ShardError::unexpected(&self.name, script.name()))?;
        }
        Ok(applied)
    }

    /// Subscribes to a channel; what is sent reaches `events` for as long as the returned future is polled.
    pub(super) fn subscribe(
        &self,
        channel: &str,
        events: mpsc::Sender<InboxEvent>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (sender, mut sent) = mpsc::unbounded_channel();
        let mut state = self.state();
        if !state.down {
            // The receiver is right here.
            let _ = sender.send(InboxEvent::Up);
        }
        state.store.subscribe(channel.as_bytes(), sender);
        let server = self.clone();
        async move {
            while let Some(event) = sent.recv().await {
                let weather = server.state().weather;
                if !weather.is_calm() {
                    tokio::time::sleep(weather.one_way()).await;
                }
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Shard {
    /// A handle for a ring shard in memory.
    #[must_use]
    pub fn in_memory(server: &MemoryServer) -> Self {
        Self { reach: Arc::new(Reach::Memory(server.clone())) }
    }

    /// A handle for a ring shard in memory that tells `tracker` of every change; must be called in a Tokio runtime.
    ///
    /// It tells of all names, also of those that nobody has read.
    #[must_use]
    pub fn in_memory_tracked(server: &MemoryServer, tracker: Arc<dyn Tracker>) -> Self {
        server.state().store.track(&tracker);
        let beating = tokio::spawn(heartbeat(server.clone(), tracker)).abort_handle();
        let server = MemoryServer { _heartbeat: Some(Arc::new(Heartbeat(beating))), ..server.clone() };
        Self { reach: Arc::new(Reach::Memory(server)) }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Says that everything was told, now and then, while the server is up.
async fn heartbeat(server: MemoryServer, tracker: Arc<dyn Tracker>) {
    loop {
        let as_of = Instant::now();
        let up = {
            let mut state = server.state();
            state.store.sweep();
            !state.down
        };
        if up {
            tracker.in_step(as_of);
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

impl fmt::Debug for MemoryServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryServer").field(&self.name).finish()
    }
}

/// Names or arguments of a call.
type Words<'a, 'b> = &'a [&'b [u8]];

fn word(word: Arg<&[u8]>) -> Option<&[u8]> {
    match word {
        Arg::Simple(word) => Some(word),
        _ => None,
    }
}

/// What follows the command's name and the digest.
fn keys_and_arguments<'a, 'b>(words: Words<'a, 'b>) -> Option<(Words<'a, 'b>, Words<'a, 'b>)> {
    let count = usize::try_from(number(words.get(2)?)?).ok()?;
    words.get(3..)?.split_at_checked(count)
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn bulk(bytes: &[u8]) -> Value {
    Value::BulkString(bytes.to_vec())
}

/// What a script returns for a number.
fn int(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

/// What a script returns for a text or `false`.
fn bulk_or_nil(bytes: Option<&[u8]>) -> Value {
    bytes.map_or(Value::Nil, bulk)
}
