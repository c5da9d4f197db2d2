//! The connections to one ring shard: made in the background, replaced when they are lost, never waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::dial::{Backoff, Failure, Outage};
use super::dialer::{Dialed, Dialer};
use super::error::ShardError;
use crate::metrics::{REASON, RING_SHARD, SHARD_CONNECTS, SHARD_ERRORS};
use crate::ring::ShardName;

/// Time-outs without an answer between them after which a connection is replaced: a stopped server never closes it.
const TIMEOUTS_IN_A_ROW: u32 = 3;

/// A connection that lived this long has proved that connecting works, so that the next pause begins small again.
const PROVEN: Duration = Duration::from_secs(1);

/// All connections to one ring shard.
pub(super) struct Links {
    dialer: Arc<Dialer>,
    slots: Box<[Arc<Slot>]>,
    turn: AtomicUsize,
    tasks: Vec<AbortHandle>,
}

/// Where a connection is while it lives.
#[derive(Default)]
struct Slot(ArcSwapOption<Live>);

/// A connection that is thought to work.
pub(super) struct Live {
    connection: MultiplexedConnection,
    timeouts: AtomicU32,
    lost: Arc<Notify>,
}

impl Links {
    pub(super) fn new(dialer: Dialer, connections: usize) -> Self {
        let dialer = Arc::new(dialer);
        let slots: Box<[Arc<Slot>]> = (0..connections.max(1)).map(|_| Arc::default()).collect();
        let tasks = slots.iter().map(|slot| tokio::spawn(keep(dialer.clone(), slot.clone())).abort_handle()).collect();
        Self { dialer, slots, turn: AtomicUsize::new(0), tasks }
    }

    pub(super) fn dialer(&self) -> &Arc<Dialer> {
        &self.dialer
    }

    pub(super) fn name(&self) -> &ShardName {
        &self.dialer.name
    }

    pub(super) async fn ready(&self, within: Duration) -> Result<(), ShardError> {
        if self.dialer.ready(within).await { Ok(()) } else { Err(self.unavailable()) }
    }

    /// Whether any connection lives.
    #[cfg(feature = "cluster")]
    pub(super) fn is_up(&self) -> bool {
        self.dialer.status.borrow().is_up()
    }

    /// Picks a connection, in turns where there are several.
    pub(super) fn live(&self) -> Result<Arc<Live>, ShardError> {
        let slots = &self.slots;
        let first = match slots.len() {
            1 => 0,
            _ => self.turn.fetch_add(1, Ordering::Relaxed),
        };
        (0..slots.len())
            .find_map(|step| slots.get(first.wrapping_add(step) % slots.len())?.0.load_full())
            .ok_or_else(|| self.unavailable())
    }

    /// Sends one command; a server's error is among the answers.
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, ShardError> {
        let live = self.live()?;
        self.send_by(&live, command).await
    }

    /// Sends one command over a given connection.
    pub(super) async fn send_by(&self, live: &Live, command: &Cmd) -> Result<Value, ShardError> {
        let mut connection = live.connection.clone();
        let answer = connection.send_packed_command(command).await;
        self.settle(live, answer)
    }

    /// Sends a pipeline; servers' errors are among the answers.
    pub(super) async fn send_all(&self, pipeline: &redis::Pipeline, len: usize) -> Result<Vec<Value>, ShardError> {
        let live = self.live()?;
        let mut connection = live.connection.clone();
        let answer = connection.send_packed_commands(pipeline, 0, len).await;
        self.settle(&live, answer)
    }

    fn settle<T>(&self, live: &Live, answer: RedisResult<T>) -> Result<T, ShardError> {
        match answer {
            Ok(value) => {
                if live.timeouts.load(Ordering::Relaxed) != 0 {
                    live.timeouts.store(0, Ordering::Relaxed);
                }
                Ok(value)
            }
            Err(error) => {
                let error = ShardError::of_call(self.name(), error);
                match &error {
                    ShardError::TimedOut { .. } => {
                        if live.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_IN_A_ROW {
                            live.lost.notify_one();
                        }
                    }
                    ShardError::Unavailable { .. } => live.lost.notify_one(),
                    ShardError::Rejected { .. } => {}
                }
                self.count(&error);
                Err(error)
            }
        }
    }

    /// Makes an error of a server's answer. Behind a name that moves to the new primary, a read-only server is the
    /// old one, so its connection is made anew; and so is one whose login has come to its end.
    pub(super) fn rejected(&self, error: &redis::ServerError) -> ShardError {
        let error = ShardError::answered(self.name(), error);
        if matches!(&error, ShardError::Rejected { code, .. } if matches!(&**code, "READONLY" | "NOAUTH")) {
            for live in self.slots.iter().filter_map(|slot| slot.0.load_full()) {
                live.lost.notify_one();
            }
        }
        self.count(&error);
        error
    }

    fn count(&self, error: &ShardError) {
        metrics::counter!(SHARD_ERRORS, RING_SHARD => self.name().to_string(), REASON => error.label()).increment(1);
    }

    fn unavailable(&self) -> ShardError {
        let error =
            ShardError::Unavailable { shard: self.name().clone(), reason: self.dialer.status.borrow().reason.clone() };
        self.count(&error);
        error
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Keeps one slot filled for as long as the task lives.
async fn keep(dialer: Arc<Dialer>, slot: Arc<Slot>) {
    let mut backoff = Backoff::default();
    let mut outage = Outage::new(dialer.name.clone(), dialer.endpoint.address(), "connection");
    loop {
        let lost = Arc::new(Notify::new());
        let noticed = lost.clone();
        let on_push = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                noticed.notify_one();
            }
        };
        match dialer.dial(on_push).await {
            Ok(Dialed { connection, renew_within }) => {
                let since = Instant::now();
                let live = Live { connection: connection.clone(), timeouts: AtomicU32::new(0), lost: lost.clone() };
                slot.0.store(Some(Arc::new(live)));
                outage.over();
                metrics::counter!(SHARD_CONNECTS, RING_SHARD => dialer.name.to_string()).increment(1);
                dialer.note(|status| {
                    status.up += 1;
                    status.hopeless = false;
                });

                let reason: Arc<str> = tokio::select! {
                    () = lost.notified() => "the connection was lost".into(),
                    reason = dialer.renew(connection, renew_within) => reason,
                };
                slot.0.store(None);
                outage.failed(&reason);
                dialer.note(|status| {
                    status.up -= 1;
                    status.reason = reason;
                });
                if since.elapsed() >= PROVEN {
                    backoff.reset();
                }
            }
            Err(Failure { reason, hopeless, .. }) => {
                outage.failed(&reason);
                dialer.note(|status| {
                    status.reason = reason;
                    status.hopeless = hopeless;
                });
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}
