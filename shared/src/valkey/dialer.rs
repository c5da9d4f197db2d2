//! Making connections to one server, under a login of their own, and keeping that login good.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, PushInfo, Value};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::connect::Endpoint;
use super::credentials::{Access, Login};
use super::dial::{self, Failure};
use super::meters::Meters;
use super::tracking::Tracking;
use crate::config;
use crate::ring::ShardName;

/// Commands that may queue for a connection's task before callers wait.
const QUEUE: usize = 1024;

/// The least time between two renewals of a login, whatever its source says.
const SHORTEST_LIFE: Duration = Duration::from_millis(50);

/// How connections to one server are made, and what is known about them.
pub(super) struct Dialer {
    pub(super) name: ShardName,
    pub(super) endpoint: Endpoint,
    pub(super) access: Access,
    pub(super) meters: Meters,
    pub(super) command_timeout: Duration,
    connect_timeout: Duration,
    pub(super) status: watch::Sender<Status>,
    /// The last login was refused.
    refused: AtomicBool,
    /// Woken when connections come and go, where this server is one of several.
    several: Option<Arc<Notify>>,
    /// Who is told of changes of what was read, where anybody is.
    pub(super) tracking: Option<Arc<Tracking>>,
}

/// How many connections are up, or why none is.
#[derive(Clone, Debug)]
pub(super) struct Status {
    pub(super) up: usize,
    /// Connections that were made so far.
    pub(super) made: u64,
    pub(super) reason: Arc<str>,
    pub(super) hopeless: bool,
}

impl Status {
    pub(super) fn is_up(&self) -> bool {
        self.up > 0
    }
}

/// A connection, and how long its login is good for.
pub(super) struct Dialed {
    pub(super) connection: MultiplexedConnection,
    pub(super) renew_within: Option<Duration>,
}

impl Dialer {
    pub(super) fn new(
        name: ShardName,
        endpoint: Endpoint,
        access: Access,
        options: &config::Valkey,
        several: Option<Arc<Notify>>,
    ) -> Self {
        Self {
            meters: Meters::of(&name),
            name,
            endpoint,
            access,
            command_timeout: options.command_timeout,
            connect_timeout: options.connect_timeout,
            status: watch::Sender::new(Status { up: 0, made: 0, reason: "not connected yet".into(), hopeless: false }),
            refused: AtomicBool::new(false),
            several,
            tracking: None,
        }
    }

    /// Has the server tell `tracking` of changes of what is read over [`Dialer::dial_tracked`]'s connections.
    pub(super) fn tracked(self, tracking: Option<Arc<Tracking>>) -> Self {
        Self { tracking, ..self }
    }

    /// Whether this server is one of several that make up a ring shard.
    pub(super) fn is_one_of_several(&self) -> bool {
        self.several.is_some()
    }

    /// Makes one connection whose reads the server remembers, where anybody is to be told of changes.
    pub(super) async fn dial_tracked(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<Dialed, Failure> {
        let Some(tracking) = &self.tracking else { return self.dial(on_push).await };
        let heard = tracking.clone();
        let on_push = move |push: PushInfo| {
            heard.hear(&push);
            on_push(push);
        };
        let mut dialed = self.dial(on_push).await?;
        tracking.begin(&mut dialed.connection).await?;
        Ok(dialed)
    }

    /// Counts what becomes of connections with these, in place of new ones.
    #[cfg(feature = "cluster")]
    pub(super) fn metered(self, meters: Meters) -> Self {
        Self { meters, ..self }
    }

    /// Makes one connection; `on_push` hears of its loss and of what is published to it.
    pub(super) async fn dial(&self, on_push: impl Fn(PushInfo) + Send + Sync + 'static) -> Result<Dialed, Failure> {
        let login = self.access.login().await.map_err(|no| Failure::without_login(&no))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.command_timeout))
            .set_pipeline_buffer_size(QUEUE)
            .set_push_sender(move |push| {
                on_push(push);
                Ok::<(), redis::aio::SendError>(())
            });
        let dialed = match self.endpoint.client(login.as_ref()) {
            Ok(client) => client.get_multiplexed_async_connection_with_config(&config).await,
            Err(error) => Err(error),
        };
        match dialed {
            Ok(connection) => {
                self.refused.store(false, Ordering::Relaxed);
                Ok(Dialed { connection, renew_within: login.and_then(|login| login.renew_within) })
            }
            Err(error) => {
                let mut failure = Failure::of(&error);
                if failure.refused {
                    // What was kept of a login may have been old: only a second refusal in a row is meant.
                    let again = self.refused.swap(true, Ordering::Relaxed);
                    failure.hopeless = !self.access.refused() || again;
                }
                Err(failure)
            }
        }
    }

    /// Authenticates a connection again before its login's time is over, for as long as that succeeds; resolves with
    /// the reason why the connection has to be given up.
    pub(super) async fn renew(&self, mut connection: MultiplexedConnection, within: Option<Duration>) -> Arc<str> {
        let mut within = within;
        loop {
            // Early enough for a few more attempts, and not all connections of a fleet at once.
            let Some(life) = within.map(|within| within.max(SHORTEST_LIFE)) else {
                return std::future::pending().await;
            };
            let end = Instant::now() + life;
            tokio::time::sleep(life.mul_f64(0.6 + 0.2 * fastrand::f64())).await;
            let Ok(Some(login)) = tokio::time::timeout_at(end, self.another_login()).await else {
                return "the login's time is over, and there is no new one".into();
            };
            match connection.send_packed_command(&auth(&login)).await {
                Ok(Value::ServerError(error)) => {
                    self.access.refused();
                    return format!("the renewed login was refused ({})", error.code()).into();
                }
                Ok(_) => tracing::debug!(shard = %self.name, address = self.endpoint.address(), "login renewed"),
                Err(_) => return "the connection was lost while its login was renewed".into(),
            }
            within = login.renew_within;
        }
    }

    /// Asks until there is one.
    async fn another_login(&self) -> Option<Login> {
        let mut backoff = dial::pauses();
        let mut told = false;
        loop {
            match self.access.login().await {
                Ok(login) => return login,
                Err(no) if !told => {
                    told = true;
                    tracing::warn!(shard = %self.name, error = %no, "login cannot be renewed yet");
                }
                Err(_) => {}
            }
            tokio::time::sleep(backoff.next_from_zero(fastrand::f64())).await;
        }
    }

    /// Notes what became of a connection.
    pub(super) fn note(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
        match &self.several {
            Some(several) => several.notify_one(),
            None => self.meters.up(|| self.status.borrow().is_up()),
        }
    }

    /// Takes the gauge of the ring shard's name, or leaves it to another handle.
    pub(super) fn show(&self, shown: bool) {
        self.meters.show(shown, || self.status.borrow().is_up());
    }

    /// Leaves that gauge without a value.
    pub(super) fn leave(&self) {
        self.meters.leave();
    }

    /// Waits for a live connection, for at most `within`, and less where the server refuses this client for good.
    pub(super) async fn ready(&self, within: Duration) -> bool {
        let mut status = self.status.subscribe();
        let known = tokio::time::timeout(within, status.wait_for(|status| status.is_up() || status.hopeless)).await;
        matches!(known, Ok(Ok(status)) if status.is_up())
    }
}

fn auth(login: &Login) -> Cmd {
    let mut command = redis::cmd("AUTH");
    if let Some(username) = &login.username {
        command.arg(username);
    }
    command.arg(login.password.reveal());
    command
}
