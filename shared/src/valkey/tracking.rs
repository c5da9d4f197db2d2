//! Copies of entries outside a ring shard, and how their keeper learns that they may no longer be used.
//!
//! Connections of a tracked ring shard ask the server to remember what was read over them (`CLIENT TRACKING ON`), before
//! anybody reads over them. The server then tells in the same connection, in order with the replies, which of these
//! keys have changed. What it tells reaches the [`Tracker`] before any reply that follows it reaches its caller.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use super::dial::Failure;
use super::link::Live;
use crate::ring::ShardName;

/// How often every connection is asked for a sign of life.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(400);

/// Keeps copies of what was read from one ring shard by [`super::Shard::get`] and [`super::Shard::get_many`], and is told
/// when they may no longer be used.
///
/// A reply may be read by its caller after a later change of the key was told. So note down that a key is about to be read before
/// the read is sent, and keep nothing of it if the key was named, or everything was flushed, since. With this rule no
/// copy outlives the word of its change, on however many connections and cluster members the ring shard is read.
///
/// The methods are called by the tasks of connections, which do nothing else meanwhile: they must neither block nor panic.
pub trait Tracker: Send + Sync {
    /// Hears that a key has changed, has expired or was evicted. Keys come repeatedly, and not only those of entries.
    fn invalidated(&self, key: &[u8]);

    /// Hears that nothing that was read until now may be used any more.
    fn flushed(&self, why: Flushed);

    /// Hears that every change that a server had made by then, a time in the past, has been told.
    ///
    /// It comes about two times a second while all connections that are up answer, and no more when one of them does
    /// not: a connection to a server that is stopped, or behind a network that drops everything, is not lost for a while.
    fn in_step(&self, as_of: Instant);
}

/// Why nothing that was read may be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// The server has emptied its database, or forgotten what was read.
    Server,
    /// A connection was lost or replaced, and with it what the server knew of its reads.
    Disconnected,
    /// The slots of a cluster are served by others than before.
    Moved,
    /// The server said something that cannot be read.
    Unreadable,
}

impl Flushed {
    /// The name in labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Flushed::Server => "server",
            Flushed::Disconnected => "disconnected",
            Flushed::Moved => "moved",
            Flushed::Unreadable => "unreadable",
        }
    }
}

/// The tracker of a ring shard, and what its connections tell each other.
pub(super) struct Tracking {
    tracker: Arc<dyn Tracker>,
    /// A connection has come.
    pub(super) came: Notify,
}

impl Tracking {
    pub(super) fn new(tracker: Arc<dyn Tracker>) -> Arc<Self> {
        Arc::new(Self { tracker, came: Notify::new() })
    }

    /// Asks the server to remember what is read over a connection.
    pub(super) async fn begin(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        let mut command = redis::cmd("CLIENT");
        command.arg("TRACKING").arg("ON");
        let reason = match connection.send_packed_command(&command).await {
            Ok(Value::Okay) => return Ok(()),
            Ok(Value::ServerError(error)) => {
                let details = error.details().unwrap_or_default();
                format!("CLIENT TRACKING is refused ({} {details})", error.code())
            }
            Ok(_) => "CLIENT TRACKING has an answer that cannot be read".to_owned(),
            Err(error) => return Err(Failure::of(&error)),
        };
        let reason = format!("{reason}; allow it, or keep no key space `tracked`").into();
        Err(Failure { reason, refused: false, hopeless: true })
    }

    /// Passes on what the server says of keys that were read.
    pub(super) fn hear(&self, push: &PushInfo) {
        if push.kind != PushKind::Invalidate {
            return;
        }
        match Word::read(&push.data) {
            Word::Keys(keys) => keys.into_iter().for_each(|key| self.tracker.invalidated(key)),
            Word::Everything => self.flushed(Flushed::Server),
            Word::Unreadable => {
                tracing::warn!("a server says something unreadable about keys that were read");
                self.flushed(Flushed::Unreadable);
            }
        }
    }

    pub(super) fn flushed(&self, why: Flushed) {
        self.tracker.flushed(why);
    }
}

/// What an invalidation says.
#[derive(Debug, PartialEq, Eq)]
enum Word<'a> {
    Keys(Vec<&'a [u8]>),
    Everything,
    Unreadable,
}

impl<'a> Word<'a> {
    /// Reads a push's data: an array of keys, or null. A single key that cannot be read makes all of it unreadable.
    fn read(data: &'a [Value]) -> Self {
        match data {
            [Value::Nil] => Word::Everything,
            [Value::Array(keys)] => {
                let read = |key: &'a Value| match key {
                    Value::BulkString(key) => Some(key.as_slice()),
                    Value::SimpleString(key) => Some(key.as_bytes()),
                    _ => None,
                };
                keys.iter().map(read).collect::<Option<_>>().map_or(Word::Unreadable, Word::Keys)
            }
            _ => Word::Unreadable,
        }
    }
}

/// Asks all connections of a ring shard for a sign of life, now and then, for as long as the task lives; and finds out
/// meanwhile whether it is `agreed` that these are the right ones to hear of changes.
pub(super) async fn heartbeat<A: Future<Output = bool>>(
    name: ShardName,
    tracking: Arc<Tracking>,
    live: impl Fn() -> Vec<Arc<Live>>,
    agreed: impl Fn() -> A,
) {
    let ping = redis::cmd("PING");
    loop {
        // A connection that comes afterwards has nothing to tell of the time before.
        let as_of = Instant::now();
        let live = live();
        let answers = join_all(live.iter().map(|live| live.send(&name, &ping)));
        let (answers, agreed) = join(answers, agreed()).await;
        if agreed && !answers.is_empty() && answers.iter().all(Result::is_ok) {
            tracking.tracker.in_step(as_of);
        }
        let rest = HEARTBEAT.saturating_sub(as_of.elapsed());
        let _ = tokio::time::timeout(rest, tracking.came.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..20);
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Okay),
            any::<i64>().prop_map(Value::Int),
            any::<bool>().prop_map(Value::Boolean),
            any::<f64>().prop_map(Value::Double),
            any::<String>().prop_map(Value::SimpleString),
            bytes.prop_map(Value::BulkString),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            let many = proptest::collection::vec(inner.clone(), 0..6);
            let pairs = proptest::collection::vec((inner.clone(), inner), 0..4);
            prop_oneof![
                many.clone().prop_map(Value::Array),
                many.clone().prop_map(Value::Set),
                many.prop_map(|data| Value::Push { kind: PushKind::Invalidate, data }),
                pairs.prop_map(Value::Map),
            ]
        })
    }

    #[derive(Default)]
    struct Heard(std::sync::Mutex<Vec<String>>);

    impl Tracker for Heard {
        fn invalidated(&self, key: &[u8]) {
            self.0.lock().unwrap().push(String::from_utf8_lossy(key).into_owned());
        }

        fn flushed(&self, why: Flushed) {
            self.0.lock().unwrap().push(format!("flushed: {}", why.label()));
        }

        fn in_step(&self, _: Instant) {}
    }

    #[test]
    fn every_key_of_a_push_is_told_and_all_is_flushed_by_what_names_none() {
        let heard = Arc::new(Heard::default());
        let tracking = Tracking::new(heard.clone());
        let key = |key: &str| Value::BulkString(key.into());
        let hear = |kind, data| tracking.hear(&PushInfo { kind, data });
        hear(PushKind::Invalidate, vec![Value::Array(vec![key("a"), key("b"), key("c")])]);
        hear(PushKind::Message, vec![key("channel"), key("d")]);
        hear(PushKind::Invalidate, vec![Value::Nil]);
        hear(PushKind::Invalidate, vec![Value::Array(vec![key("e"), Value::Int(1)])]);
        let heard = heard.0.lock().unwrap();
        assert_eq!(*heard, ["a", "b", "c", "flushed: server", "flushed: unreadable"]);
    }

    proptest! {
        #[test]
        fn every_key_of_a_push_is_found(keys in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..200)) {
            let data = [Value::Array(keys.iter().cloned().map(Value::BulkString).collect())];
            prop_assert_eq!(Word::read(&data), Word::Keys(keys.iter().map(Vec::as_slice).collect()));
        }

        #[test]
        fn whatever_else_a_push_holds_is_never_taken_for_fewer_keys(data in proptest::collection::vec(any_value(), 0..4)) {
            match (Word::read(&data), &data[..]) {
                (Word::Everything, [Value::Nil]) => {}
                (Word::Keys(keys), [Value::Array(all)]) => prop_assert_eq!(keys.len(), all.len()),
                (Word::Unreadable, data) => prop_assert!(
                    !matches!(data, [Value::Nil])
                        && !matches!(data, [Value::Array(keys)] if keys.iter().all(|key| matches!(key, Value::BulkString(_))))
                ),
                (word, data) => prop_assert!(false, "{data:?} is read as {word:?}"),
            }
        }
    }
}
