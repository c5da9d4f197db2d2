//! The inbox: one push connection of a process to a ring shard, by which its waiters are woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::AbortHandle;
use tokio::time::Instant;

#[cfg(feature = "cluster")]
use super::cluster::Members;
use super::dial::{self, Failure, Outage};
use super::dialer::{Dialed, Dialer};
use super::meters::Meters;
use super::notice::Notice;
use super::{Reach, Shard};
use crate::ring::ShardName;

/// Messages and events that may wait for whoever reads them.
const QUEUE: usize = 4096;

/// How often a quiet connection is asked for a sign of life: a stopped server never closes it.
const CHECK: Duration = Duration::from_secs(2);

/// What an [`Inbox`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboxEvent {
    /// The subscription is confirmed; what was published before is lost.
    Up,
    /// Notices are lost until the next [`InboxEvent::Up`]: the connection is gone, or events were not taken in time.
    Down,
    /// A notice.
    Notice(Notice),
}

/// A subscription that reconnects by itself and ends when it is dropped.
#[derive(Debug)]
pub struct Inbox {
    channel: Arc<str>,
    events: mpsc::Receiver<InboxEvent>,
    task: AbortHandle,
}

impl Inbox {
    /// The channel's name, to be given in [`super::LeaseRequest::inbox`].
    #[must_use]
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Waits for the next event; cancelling loses none. `None` comes only while the runtime shuts down.
    pub async fn next(&mut self) -> Option<InboxEvent> {
        self.events.recv().await
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shard {
    /// Subscribes to a channel over a connection of its own, in the background and for as long as the inbox lives.
    #[must_use]
    pub fn inbox(&self, channel: &str) -> Inbox {
        let channel: Arc<str> = channel.into();
        let (sender, events) = mpsc::channel(QUEUE);
        let server = match &*self.reach {
            Reach::One(links) => Server::One(links.dialer().clone()),
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => Server::Any(cluster.members()),
            #[cfg(feature = "memory")]
            Reach::Memory(server) => {
                let task = tokio::spawn(server.subscribe(&channel, sender)).abort_handle();
                return Inbox { channel, events, task };
            }
        };
        let subscription = Subscription {
            shard: self.name().clone(),
            meters: Meters::of(self.name()),
            server,
            channel: channel.clone(),
            events: sender,
        };
        let task = tokio::spawn(subscription.run()).abort_handle();
        Inbox { channel, events, task }
    }
}

struct Subscription {
    shard: ShardName,
    meters: Meters,
    server: Server,
    channel: Arc<str>,
    events: mpsc::Sender<InboxEvent>,
}

/// Where to subscribe.
enum Server {
    One(Arc<Dialer>),
    /// What is published on one member of a cluster reaches all of them.
    #[cfg(feature = "cluster")]
    Any(Members),
}

/// One connection of a subscription.
struct Session {
    dialer: Arc<Dialer>,
    connection: MultiplexedConnection,
    renew_within: Option<Duration>,
    pushes: mpsc::Receiver<PushInfo>,
    overflown: Arc<AtomicBool>,
}

/// Nobody reads the events any more.
struct Unread;

impl Server {
    /// Whether what is published still reaches a subscription to that server.
    fn has(&self, dialer: &Arc<Dialer>) -> bool {
        match self {
            Server::One(one) => Arc::ptr_eq(one, dialer),
            #[cfg(feature = "cluster")]
            Server::Any(members) => members.has(dialer),
        }
    }

    /// Where it is, for logs.
    fn address(&self) -> String {
        match self {
            Server::One(one) => one.endpoint.address(),
            #[cfg(feature = "cluster")]
            Server::Any(_) => "any master of the cluster".to_owned(),
        }
    }
}

impl Subscription {
    async fn run(self) {
        let mut backoff = dial::pauses();
        let mut outage = Outage::new(self.shard.clone(), self.server.address(), "inbox");
        loop {
            match self.subscribe().await {
                Ok(session) => {
                    outage.over();
                    let since = Instant::now();
                    if self.events.send(InboxEvent::Up).await.is_err() {
                        return;
                    }
                    let ended = self.read(session).await;
                    if ended.is_err() || self.events.send(InboxEvent::Down).await.is_err() {
                        return;
                    }
                    outage.failed("the subscription was lost");
                    if since.elapsed() >= Duration::from_secs(1) {
                        backoff.reset();
                    }
                }
                Err(failure) => outage.failed(&failure.reason),
            }
            tokio::time::sleep(backoff.next_from_zero(fastrand::f64())).await;
        }
    }

    async fn subscribe(&self) -> Result<Session, Failure> {
        let dialer = match &self.server {
            Server::One(dialer) => dialer.clone(),
            #[cfg(feature = "cluster")]
            Server::Any(members) => members.any_dialer().ok_or_else(Failure::without_server)?,
        };
        let (sender, pushes) = mpsc::channel(QUEUE);
        let overflown = Arc::new(AtomicBool::new(false));
        let full = overflown.clone();
        // The connection's task must not wait: where the reader is too slow, what is lost is told later.
        let on_push = move |push| {
            if let Err(TrySendError::Full(_)) = sender.try_send(push) {
                full.store(true, Ordering::Release);
            }
        };
        let Dialed { mut connection, renew_within } = dialer.dial(on_push).await?;
        connection.subscribe(&*self.channel).await.map_err(|error| Failure::of(&error))?;
        Ok(Session { dialer, connection, renew_within, pushes, overflown })
    }

    /// Passes on what is published until the connection is lost.
    async fn read(&self, mut session: Session) -> Result<(), Unread> {
        let renewal = session.dialer.renew(session.connection.clone(), session.renew_within);
        tokio::pin!(renewal);
        loop {
            let next = tokio::select! {
                next = tokio::time::timeout(CHECK, session.pushes.recv()) => next,
                reason = &mut renewal => {
                    tracing::warn!(shard = %self.shard, channel = &*self.channel, %reason, "inbox subscribes again");
                    return Ok(());
                }
            };
            let push = match next {
                Ok(Some(push)) => push,
                Ok(None) => return Ok(()),
                Err(_) => {
                    if !self.server.has(&session.dialer) {
                        return Ok(());
                    }
                    if session.connection.send_packed_command(&redis::cmd("PING")).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
            };
            match push.kind {
                PushKind::Disconnection => return Ok(()),
                PushKind::Message => {
                    if let Some(notice) = self.notice(push) {
                        self.events.send(InboxEvent::Notice(notice)).await.map_err(|_| Unread)?;
                    }
                }
                _ => {}
            }
            if session.overflown.swap(false, Ordering::AcqRel) {
                self.events.send(InboxEvent::Down).await.map_err(|_| Unread)?;
                self.events.send(InboxEvent::Up).await.map_err(|_| Unread)?;
            }
        }
    }

    fn notice(&self, push: PushInfo) -> Option<Notice> {
        let payload = match push.data.into_iter().nth(1) {
            Some(Value::BulkString(bytes)) => bytes.into(),
            _ => bytes::Bytes::new(),
        };
        let notice = Notice::parse(&payload);
        if notice.is_none() {
            let shard = &self.shard;
            self.meters.unreadable.increment(1);
            tracing::warn!(%shard, channel = &*self.channel, length = payload.len(), "unreadable message in an inbox");
        }
        notice
    }
}
