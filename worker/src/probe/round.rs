//! One probe of one ring shard: an entry is placed, and watched until it is gone.

use std::time::Duration;

use bytes::Bytes;
use ringtide_core::command::Command;
use ringtide_core::entry::{Codec, Entry, Header};
use ringtide_core::valkey::{Fill, FillReply, LeaseReply, LeaseRequest, ShardError, Token};
use ringtide_core::version::Version;
use tokio::time::Instant;

use super::target::Target;

/// How often a placed entry is looked for: how exact a measurement is.
const LOOK: Duration = Duration::from_millis(5);

/// Why a probe measured nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The ring shard did not take the entry.
    #[error("no entry can be placed: {0}")]
    Place(String),
    /// DynamoDB did not take the write.
    #[error("the probe's item cannot be written: {0}")]
    Write(String),
    /// The ring shard could not be asked until the time was over.
    #[error("the entry cannot be looked for: {0}")]
    Look(ShardError),
    /// The entry outlived the time.
    #[error("the entry was not invalidated within {} ms", .0.as_millis())]
    Late(Duration),
}

impl Failure {
    /// The label of metrics.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Place(_) => "place",
            Self::Write(_) => "write",
            Self::Look(_) => "look",
            Self::Late(_) => "late",
        }
    }
}

impl Target {
    /// Places an entry as a reader does, by a lease and a fill, after what an earlier probe may have left.
    pub(super) async fn place(&self, timeout: Duration) -> Result<(), Failure> {
        let failed = |error: ShardError| Failure::Place(error.to_string());
        self.shard.apply(&[Command::drop_entry(self.key.clone(), self.space.clone())], 0).await.map_err(failed)?;
        // It must not expire before the probe has seen what became of it.
        let ttl = timeout * 2 + Duration::from_secs(60);
        let token = Token::random();
        let request = LeaseRequest { token, ttl, inbox: None, refresh_before_ms: 0 };
        match self.shard.lease(&self.key, &request).await.map_err(failed)? {
            LeaseReply::Granted { .. } => {}
            LeaseReply::Hit(_) | LeaseReply::Wait { .. } => {
                return Err(Failure::Place("another worker probes the same key".to_owned()));
            }
        }
        let payload = Bytes::from_static(b"probe");
        let fill = Fill {
            token,
            version: Version::NONE,
            proven: Version::NONE,
            ttl,
            entry: Entry { header: Header::value(Codec::Raw), payload }.to_bytes(),
            inline_max: 0,
        };
        match self.shard.fill(&self.key, &fill).await.map_err(failed)? {
            FillReply::Stored => Ok(()),
            reply => Err(Failure::Place(format!("the entry was not stored: {reply:?}"))),
        }
    }

    /// Waits until the entry is gone, and tells when it was found so.
    pub(super) async fn gone(&self, deadline: Instant) -> Result<Instant, Failure> {
        let began = Instant::now();
        loop {
            let found = self.shard.get(&self.key).await;
            let now = Instant::now();
            match found {
                Ok(None) => return Ok(now),
                Err(error) if now + LOOK >= deadline => return Err(Failure::Look(error)),
                Ok(Some(_)) if now + LOOK >= deadline => return Err(Failure::Late(now - began)),
                Ok(Some(_)) | Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Removes what a failed probe leaves; where that fails as well it expires.
    pub(super) async fn clear(&self) {
        let drop = [Command::drop_entry(self.key.clone(), self.space.clone())];
        if let Err(error) = self.shard.apply(&drop, 0).await {
            tracing::debug!(key = %self.key, %error, "the entry of a failed probe is left to expire");
        }
    }
}
