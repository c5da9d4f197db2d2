//! The connections to one ring shard: made in the background, replaced when they are lost, never waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::dial::{self, Failure, Outage};
use super::dialer::{Dialed, Dialer};
use super::error::ShardError;
use super::meters::Meters;
use super::tracking::{self, Flushed};
use crate::ring::ShardName;

/// Time-outs without an answer between them after which a connection is replaced: a stopped server never closes it.
const TIMEOUTS_IN_A_ROW: u32 = 3;

/// Among the time-outs of a connection: no command has been answered yet. The first answer proves that connecting works,
/// so that the next pause begins small again.
const UNPROVEN: u32 = 1 << 31;

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
    meters: Meters,
}

impl Links {
    pub(super) fn new(dialer: Dialer, connections: usize) -> Self {
        let dialer = Arc::new(dialer);
        let slots: Box<[Arc<Slot>]> = (0..connections.max(1)).map(|_| Arc::default()).collect();
        let mut tasks: Vec<_> =
            slots.iter().map(|slot| tokio::spawn(keep(dialer.clone(), slot.clone())).abort_handle()).collect();
        if let (Some(tracking), false) = (&dialer.tracking, dialer.is_one_of_several()) {
            let slots = slots.clone();
            let live = move || slots.iter().filter_map(|slot| slot.0.load_full()).collect();
            let agreed = || std::future::ready(true);
            let heartbeat = tracking::heartbeat(dialer.name.clone(), tracking.clone(), live, agreed);
            tasks.push(tokio::spawn(heartbeat).abort_handle());
        }
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

    /// The number of connections that were made so far.
    pub(super) fn connects(&self) -> u64 {
        self.dialer.status.borrow().made
    }

    /// Asks the same over every connection that lives, behind each of which another server may stand.
    pub(super) async fn ask_each(&self, command: &Cmd) -> Result<Vec<Value>, ShardError> {
        let mut answers = Vec::with_capacity(self.slots.len());
        for live in self.slots.iter().filter_map(|slot| slot.0.load_full()) {
            match self.send_by(&live, command).await? {
                Value::ServerError(error) => return Err(self.rejected(&error)),
                answer => answers.push(answer),
            }
        }
        if answers.is_empty() { Err(self.unavailable()) } else { Ok(answers) }
    }

    /// Whether any connection lives.
    #[cfg(feature = "cluster")]
    pub(super) fn is_up(&self) -> bool {
        self.dialer.status.borrow().is_up()
    }

    /// Every connection that lives.
    #[cfg(feature = "cluster")]
    pub(super) fn all_live(&self) -> impl Iterator<Item = Arc<Live>> {
        self.slots.iter().filter_map(|slot| slot.0.load_full())
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
        live.send(self.name(), command).await
    }

    /// Sends a pipeline; servers' errors are among the answers.
    pub(super) async fn send_all(&self, pipeline: &redis::Pipeline, len: usize) -> Result<Vec<Value>, ShardError> {
        let live = self.live()?;
        self.send_all_by(&live, pipeline, len).await
    }

    /// Sends a pipeline over a given connection.
    pub(super) async fn send_all_by(
        &self,
        live: &Live,
        pipeline: &redis::Pipeline,
        len: usize,
    ) -> Result<Vec<Value>, ShardError> {
        let mut connection = live.connection.clone();
        let answer = connection.send_packed_commands(pipeline, 0, len).await;
        live.settle(self.name(), answer)
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
        self.dialer.meters.failed(error);
    }

    fn unavailable(&self) -> ShardError {
        let error =
            ShardError::Unavailable { shard: self.name().clone(), reason: self.dialer.status.borrow().reason.clone() };
        self.count(&error);
        error
    }
}

impl Live {
    /// Sends one command; a server's error is among the answers.
    pub(super) async fn send(&self, shard: &ShardName, command: &Cmd) -> Result<Value, ShardError> {
        let mut connection = self.connection.clone();
        let answer = connection.send_packed_command(command).await;
        self.settle(shard, answer)
    }

    fn settle<T>(&self, shard: &ShardName, answer: RedisResult<T>) -> Result<T, ShardError> {
        match answer {
            Ok(value) => {
                if self.timeouts.load(Ordering::Relaxed) != 0 {
                    self.timeouts.store(0, Ordering::Relaxed);
                }
                Ok(value)
            }
            Err(error) => {
                let error = ShardError::of_call(shard, error);
                match &error {
                    ShardError::TimedOut { .. } => {
                        let before = self.timeouts.fetch_add(1, Ordering::Relaxed) & !UNPROVEN;
                        if before + 1 >= TIMEOUTS_IN_A_ROW {
                            self.lost.notify_one();
                        }
                    }
                    ShardError::Unavailable { .. } => self.lost.notify_one(),
                    ShardError::Rejected { .. } => {}
                }
                self.meters.failed(&error);
                Err(error)
            }
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        if let Some(tracking) = &self.dialer.tracking {
            tracking.flushed(Flushed::Disconnected);
        }
    }
}

/// Keeps one slot filled for as long as the task lives.
async fn keep(dialer: Arc<Dialer>, slot: Arc<Slot>) {
    let mut backoff = dial::pauses();
    let mut outage = Outage::new(dialer.name.clone(), dialer.endpoint.address(), "connection");
    loop {
        let lost = Arc::new(Notify::new());
        let noticed = lost.clone();
        let on_push = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                noticed.notify_one();
            }
        };
        match dialer.dial_tracked(on_push).await {
            Ok(Dialed { connection, renew_within }) => {
                let (connected, timeouts) = (connection.clone(), AtomicU32::new(UNPROVEN));
                let live = Arc::new(Live {
                    connection: connected,
                    timeouts,
                    lost: lost.clone(),
                    meters: dialer.meters.clone(),
                });
                // First, so that nobody sends anything over a connection that is not counted yet.
                dialer.status.send_modify(|status| status.made += 1);
                slot.0.store(Some(live.clone()));
                if let Some(tracking) = &dialer.tracking {
                    tracking.came.notify_one();
                }
                outage.over();
                dialer.meters.connects.increment(1);
                dialer.note(|status| {
                    status.up += 1;
                    status.hopeless = false;
                });

                let reason: Arc<str> = tokio::select! {
                    () = lost.notified() => "the connection was lost".into(),
                    reason = dialer.renew(connection, renew_within) => reason,
                };
                slot.0.store(None);
                // Only now: who notes a key down after this picks another connection.
                if let Some(tracking) = &dialer.tracking {
                    tracking.flushed(Flushed::Disconnected);
                }
                outage.failed(&reason);
                dialer.note(|status| {
                    status.up -= 1;
                    status.reason = reason;
                });
                if live.timeouts.load(Ordering::Relaxed) & UNPROVEN == 0 {
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
        tokio::time::sleep(backoff.next_from_zero(fastrand::f64())).await;
    }
}
