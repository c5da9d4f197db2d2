//! Connecting again: how long to pause, why it failed, and what of it is logged.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError};
use tokio::time::Instant;

use super::credentials::NoLogin;
use crate::backoff::Backoff;
use crate::ring::ShardName;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How often an outage that goes on is logged.
const PROGRESS: Duration = Duration::from_secs(10);

/// The pauses between two tries to connect.
pub(super) fn pauses() -> Backoff {
    Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)
}

/// Logs when a connection goes and comes back, and now and then while it is away.
pub(super) struct Outage {
    shard: ShardName,
    address: String,
    what: &'static str,
    since: Option<Since>,
}

struct Since {
    began: Instant,
    logged: Instant,
    attempts: u64,
}

impl Outage {
    pub(super) fn new(shard: ShardName, address: String, what: &'static str) -> Self {
        Self { shard, address, what, since: None }
    }

    pub(super) fn failed(&mut self, reason: &str) {
        let now = Instant::now();
        match &mut self.since {
            None => {
                let address = &*self.address;
                tracing::warn!(shard = %self.shard, address, what = self.what, reason, "ring shard cannot be reached");
                self.since = Some(Since { began: now, logged: now, attempts: 1 });
            }
            Some(since) => {
                since.attempts += 1;
                if now - since.logged >= PROGRESS {
                    since.logged = now;
                    let (attempts, seconds) = (since.attempts, (now - since.began).as_secs());
                    let address = &*self.address;
                    tracing::warn!(
                        shard = %self.shard, address, what = self.what, reason, attempts, seconds,
                        "ring shard still cannot be reached"
                    );
                }
            }
        }
    }

    pub(super) fn over(&mut self) {
        let address = &*self.address;
        match self.since.take() {
            None => tracing::info!(shard = %self.shard, address, what = self.what, "ring shard connected"),
            Some(since) => {
                let ms = u64::try_from(since.began.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(
                    shard = %self.shard, address, what = self.what, attempts = since.attempts, ms,
                    "ring shard connected again"
                );
            }
        }
    }
}

/// Why a connection could not be made.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: Arc<str>,
    /// The login was refused.
    pub(super) refused: bool,
    /// Trying again is unlikely to help.
    pub(super) hopeless: bool,
}

impl Failure {
    pub(super) fn of(error: &RedisError) -> Self {
        // What redis gives as the source is the pointer that it keeps its error in.
        let tls = error
            .source()
            .and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>())
            .and_then(|source| source.downcast_ref::<io::Error>())
            .is_some_and(|source| source.kind() == io::ErrorKind::InvalidData);
        let refused = error.kind() == ErrorKind::AuthenticationFailed
            || matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM"));
        let (reason, hopeless) = if error.is_timeout() {
            ("no answer to connecting in time".into(), false)
        } else if refused {
            let code = error.code().unwrap_or("AUTH");
            (format!("the user name or the password was refused ({code})").into(), true)
        } else if tls {
            (format!("TLS: {error}").into(), true)
        } else {
            (error.to_string().into(), error.kind() == ErrorKind::RESP3NotSupported)
        };
        Self { reason, refused: refused && !error.is_timeout(), hopeless }
    }

    #[cfg(feature = "cluster")]
    pub(super) fn without_server() -> Self {
        Self { reason: "no master of the cluster can be reached".into(), refused: false, hopeless: false }
    }

    pub(super) fn without_login(no: &NoLogin) -> Self {
        Self { reason: no.to_string().into(), refused: false, hopeless: false }
    }
}
