//! A ring shard that is a whole cluster: every command goes to the master that serves its slot.
//!
//! Each master has [`Links`] of its own, so what holds for one server holds for each of them: connections are made in the
//! background, nothing waits for a server that is down, and a command that was sent is never sent again by itself. The
//! one exception is an answer of `MOVED` or `ASK`, which says that the command was not carried out: it is followed, with
//! whatever lease token it carries.
//!
//! Notices are published to the whole cluster, so one subscription on any master hears of all of them. Sharded channels
//! would need one subscription per master, which ends whenever a slot moves, for messages that are sent only where
//! somebody waits.

mod apply;
mod members;
mod slots;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use redis::{Cmd, Pipeline, ServerError, Value};
use tokio::task::AbortHandle;

pub(super) use members::Members;
use members::{Node, Shared};
pub(super) use slots::slot_of;
use slots::{Address, Redirect};

use super::apply::{BATCH, IN_FLIGHT};
use super::connect::Endpoint;
use super::credentials::Access;
use super::error::{NO_SCRIPT, ShardError};
use super::master::Master;
use super::meters::Meters;
use super::script::Script;
use super::tracking::{self, Tracking};
use crate::config;
use crate::ring::ShardName;

/// Redirections that one command follows.
const REDIRECTS: usize = 5;

/// The masters of a cluster.
pub(super) struct Cluster(Arc<Kept>);

/// What is known of a cluster, and the tasks that keep it up to date; connections end with it.
struct Kept {
    shared: Arc<Shared>,
    tasks: Vec<AbortHandle>,
}

impl Cluster {
    pub(super) fn new(
        name: ShardName,
        seed: Endpoint,
        access: Access,
        options: &config::Valkey,
        tracking: Option<Arc<Tracking>>,
    ) -> Self {
        let shared = Arc::new(Shared::new(name.clone(), seed, access, options, tracking.clone()));
        let mut tasks = vec![tokio::spawn(members::keep(shared.clone())).abort_handle()];
        if let Some(tracking) = tracking {
            let (connected, agreeing) = (shared.clone(), shared.clone());
            let agreed = move || {
                let agreeing = agreeing.clone();
                async move { agreeing.is_agreed().await }
            };
            let heartbeat = tracking::heartbeat(name, tracking, move || connected.all_live(), agreed);
            tasks.push(tokio::spawn(heartbeat).abort_handle());
        }
        Self(Arc::new(Kept { shared, tasks }))
    }

    /// How long a command may take.
    pub(super) fn command_timeout(&self) -> Duration {
        self.shared().options.command_timeout
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    pub(super) fn name(&self) -> &ShardName {
        &self.shared().name
    }

    pub(super) fn meters(&self) -> &Meters {
        &self.shared().meters
    }

    pub(super) fn show(&self, shown: bool) {
        self.shared().show(shown);
    }

    pub(super) fn leave(&self) {
        self.shared().leave();
    }

    pub(super) fn members(&self) -> Members {
        Members(self.0.clone())
    }

    pub(super) async fn ready(&self, within: Duration) -> Result<(), ShardError> {
        if self.shared().ready(within).await { Ok(()) } else { Err(self.unavailable()) }
    }

    /// Sends one command to the master of a slot, with the script that it calls; a server's error, other than that the
    /// slot is elsewhere, is among the answers.
    pub(super) async fn send(
        &self,
        slot: u16,
        command: &Cmd,
        script: Option<&'static Script>,
    ) -> Result<Value, ShardError> {
        let node = self.owner(slot)?;
        let answer = self.send_to(&node, command, script, false).await?;
        self.settle(&node, answer, command, script).await
    }

    /// Sends commands to the masters of their slots, in pipelines; every answer is as [`Cluster::send`]'s, in the order
    /// of the commands.
    pub(super) async fn send_all(
        &self,
        calls: Vec<(u16, Cmd)>,
        script: Option<&'static Script>,
    ) -> Vec<Result<Value, ShardError>> {
        let map = self.shared().map();
        let mut answers: Vec<Option<Result<Value, ShardError>>> = Vec::new();
        answers.resize_with(calls.len(), || None);
        let mut by_node: Vec<Vec<(usize, Cmd)>> = Vec::new();
        by_node.resize_with(map.nodes.len(), Vec::new);
        for (at, (slot, command)) in calls.into_iter().enumerate() {
            match map.index(slot).and_then(|index| by_node.get_mut(index)) {
                Some(calls) => calls.push((at, command)),
                None => answers[at] = Some(Err(self.unserved(slot))),
            }
        }
        let nodes = map.nodes.iter().zip(by_node).filter(|(_, calls)| !calls.is_empty());
        let sent = nodes.map(|(node, calls)| async move {
            let mut chunks = Vec::new();
            let mut calls = calls.into_iter().peekable();
            while calls.peek().is_some() {
                chunks.push(calls.by_ref().take(BATCH).collect::<Vec<_>>());
            }
            let sent = chunks.into_iter().map(|chunk| self.send_chunk(node, chunk, script));
            stream::iter(sent).buffer_unordered(IN_FLIGHT).collect::<Vec<_>>().await
        });
        for (at, answer) in join_all(sent).await.into_iter().flatten().flatten() {
            answers[at] = Some(answer);
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(self.unavailable()))).collect()
    }

    async fn send_chunk(
        &self,
        node: &Arc<Node>,
        calls: Vec<(usize, Cmd)>,
        script: Option<&'static Script>,
    ) -> Vec<(usize, Result<Value, ShardError>)> {
        let mut pipeline = Pipeline::with_capacity(calls.len());
        for (_, call) in &calls {
            pipeline.add_command(call.clone());
        }
        let sent = match node.links.send_all(&pipeline, calls.len()).await {
            Ok(sent) => sent,
            Err(error) => {
                self.shared().look_again(None);
                return calls.into_iter().map(|(at, _)| (at, Err(error.clone()))).collect();
            }
        };
        let sent = match script {
            Some(script) => self.with_script(node, &calls, sent, script).await,
            None => sent.into_iter().map(Ok).collect(),
        };
        let settled = calls.into_iter().zip(sent).map(|((at, call), answer)| async move {
            match answer {
                Ok(answer) => (at, self.settle(node, answer, &call, script).await),
                Err(error) => (at, Err(error)),
            }
        });
        join_all(settled).await
    }

    /// Makes the calls again that found no script, after bringing it along.
    async fn with_script(
        &self,
        node: &Arc<Node>,
        calls: &[(usize, Cmd)],
        sent: Vec<Value>,
        script: &'static Script,
    ) -> Vec<Result<Value, ShardError>> {
        let unknown = |answer: &Value| matches!(answer, Value::ServerError(error) if error.code() == NO_SCRIPT);
        let mut pipeline = Pipeline::new();
        for ((_, call), _) in calls.iter().zip(&sent).filter(|(_, answer)| unknown(answer)) {
            pipeline.add_command(call.clone());
        }
        let mut again = match pipeline.len() {
            0 => Ok(Vec::new().into_iter()),
            len => match self.bring(node, script).await {
                Ok(()) => node.links.send_all(&pipeline, len).await.map(Vec::into_iter),
                Err(error) => Err(error),
            },
        };
        let read = |answer| match (&mut again, unknown(&answer)) {
            (_, false) => Ok(answer),
            (Ok(again), true) => again.next().ok_or_else(|| ShardError::unexpected(self.name(), script.name())),
            (Err(error), true) => Err(error.clone()),
        };
        sent.into_iter().map(read).collect()
    }

    /// Passes an answer on, or follows it to where the slot is.
    async fn settle(
        &self,
        node: &Arc<Node>,
        answer: Value,
        command: &Cmd,
        script: Option<&'static Script>,
    ) -> Result<Value, ShardError> {
        let Some(redirect) = redirect(node, &answer) else { return Ok(answer) };
        let patience = self.command_timeout();
        match tokio::time::timeout(patience, Box::pin(self.follow(redirect, command, script))).await {
            Ok(answer) => answer,
            Err(_) => Err(self.count(ShardError::TimedOut { shard: self.name().clone() })),
        }
    }

    async fn follow(
        &self,
        first: Redirect,
        command: &Cmd,
        script: Option<&'static Script>,
    ) -> Result<Value, ShardError> {
        let mut redirect = first;
        let mut last = None;
        for _ in 0..REDIRECTS {
            let (address, asking) = match &redirect {
                Redirect::Moved(address) => {
                    self.shared().look_again(Some(address.clone()));
                    (address, false)
                }
                Redirect::Ask(address) => (address, true),
            };
            let node = self.shared().node(address);
            // A master that was unknown until now is not connected yet; nothing has been carried out so far.
            node.links.ready(self.command_timeout()).await?;
            let answer = self.send_to(&node, command, script, asking).await?;
            match self::redirect(&node, &answer) {
                Some(next) => {
                    redirect = next;
                    last = Some(answer);
                }
                None => return Ok(answer),
            }
        }
        match last {
            Some(Value::ServerError(error)) => Err(self.rejected(&error)),
            _ => Err(self.unavailable()),
        }
    }

    /// Sends a command to one server, and brings its script along where the server does not know it.
    async fn send_to(
        &self,
        node: &Arc<Node>,
        command: &Cmd,
        script: Option<&'static Script>,
        asking: bool,
    ) -> Result<Value, ShardError> {
        let answer = self.send_once(node, command, asking).await?;
        match (&answer, script) {
            (Value::ServerError(error), Some(script)) if error.code() == NO_SCRIPT => {
                self.bring(node, script).await?;
                self.send_once(node, command, asking).await
            }
            _ => Ok(answer),
        }
    }

    async fn send_once(&self, node: &Arc<Node>, command: &Cmd, asking: bool) -> Result<Value, ShardError> {
        let answer = if asking {
            let mut pipeline = Pipeline::with_capacity(2);
            pipeline.add_command(redis::cmd("ASKING")).add_command(command.clone());
            let answers = node.links.send_all(&pipeline, 2).await;
            answers.and_then(|mut answers| answers.pop().ok_or_else(|| ShardError::unexpected(self.name(), "ASKING")))
        } else {
            node.links.send(command).await
        };
        answer.inspect_err(|_| self.shared().look_again(None))
    }

    async fn bring(&self, node: &Arc<Node>, script: &Script) -> Result<(), ShardError> {
        node.links.ask(&script.load()).await.map(drop)
    }

    /// Asks every master the same; the answers come in no order.
    pub(super) async fn ask_all(&self, command: &Cmd) -> Result<Vec<Value>, ShardError> {
        let map = self.shared().map();
        if map.missing > 0 {
            return Err(self.unavailable());
        }
        let answers = map.nodes.iter().map(|node| async move { node.links.ask(command).await });
        let answers: Result<Vec<_>, _> = join_all(answers).await.into_iter().collect();
        answers.inspect_err(|_| self.shared().look_again(None))
    }

    /// The master that serves a slot.
    pub(super) fn master_of(&self, slot: u16) -> Option<Master> {
        let map = self.shared().map();
        map.index(slot).map(|at| Master { all: map.addresses.clone(), at })
    }

    fn owner(&self, slot: u16) -> Result<Arc<Node>, ShardError> {
        let map = self.shared().map();
        map.index(slot).and_then(|index| map.nodes.get(index)).cloned().ok_or_else(|| self.unserved(slot))
    }

    /// Makes an error of a server's answer, and counts it.
    pub(super) fn rejected(&self, error: &ServerError) -> ShardError {
        if matches!(error.code(), "MOVED" | "CLUSTERDOWN" | "READONLY" | "MASTERDOWN") {
            self.shared().look_again(None);
        }
        self.count(ShardError::answered(self.name(), error))
    }

    fn unserved(&self, slot: u16) -> ShardError {
        self.shared().look_again(None);
        let unknown = self.shared().map().nodes.is_empty();
        let reason = if unknown {
            self.shared().state().reason
        } else {
            format!("no master is known to serve slot {slot}").into()
        };
        self.count(ShardError::Unavailable { shard: self.name().clone(), reason })
    }

    fn unavailable(&self) -> ShardError {
        let reason = self.shared().state().reason;
        self.count(ShardError::Unavailable { shard: self.name().clone(), reason })
    }

    fn count(&self, error: ShardError) -> ShardError {
        self.shared().meters.failed(&error);
        error
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

fn redirect(node: &Node, answer: &Value) -> Option<Redirect> {
    match answer {
        Value::ServerError(error) => Redirect::of(error, &node.address.host),
        _ => None,
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}
