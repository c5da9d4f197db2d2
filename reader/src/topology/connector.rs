//! Opening ring shards, at the start and when the membership changes.

use std::sync::Arc;
use std::time::Duration;

use ringtide_core::config;
use ringtide_core::ring::ShardSpec;
#[cfg(feature = "memory")]
use ringtide_core::valkey::MemoryServer;
use ringtide_core::valkey::{ConnectError, Credentials, Shard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::inbox;
use crate::local::{Local, Part};
use crate::observe::Meter;
use crate::shard::ReadShard;

/// What it takes to open a ring shard.
pub(crate) struct Connector {
    pub(crate) valkey: config::Valkey,
    pub(crate) credentials: Option<Arc<dyn Credentials>>,
    /// The channel of this process's inbox on every ring shard.
    pub(crate) channel: String,
    pub(crate) settings: config::Reader,
    /// How many key spaces there are.
    pub(crate) spaces: usize,
    pub(crate) meter: Meter,
    pub(crate) local: Arc<Local>,
    /// Ring shards that are in memory, by their names.
    #[cfg(feature = "memory")]
    pub(crate) memory: Vec<MemoryServer>,
    pub(crate) tasks: TaskTracker,
    pub(crate) ended: CancellationToken,
}

impl Connector {
    /// Begins to connect to a ring shard and to its inbox, which ends with the last handle of it.
    pub(crate) fn open(&self, spec: &ShardSpec) -> Result<Arc<ReadShard>, ConnectError> {
        self.meter.within(|| self.open_metered(spec))
    }

    fn open_metered(&self, spec: &ShardSpec) -> Result<Arc<ReadShard>, ConnectError> {
        let (shard, part) = self.connect(spec)?;
        let shard = ReadShard::new(spec, shard, part, self.channel.clone(), &self.settings, self.spaces);
        let shard = Arc::new(shard);
        let deliver = inbox::deliver(shard.shard.inbox(&self.channel), Arc::clone(&shard.waiters));
        let task = self.tasks.spawn(self.ended.clone().run_until_cancelled_owned(deliver));
        shard.end_with(AbortOnDropHandle::new(task));
        Ok(shard)
    }

    fn connect(&self, spec: &ShardSpec) -> Result<(Shard, Option<Arc<Part>>), ConnectError> {
        #[cfg(feature = "memory")]
        if let Some(server) = self.memory.iter().find(|server| server.name() == &spec.name) {
            return Ok(self.local.connect_in_memory(server));
        }
        self.local.connect(spec, &self.valkey, self.credentials.clone())
    }

    /// Waits until a ring shard is connected, or has failed to be for the connect time-out.
    pub(crate) async fn ready(&self, shard: &ReadShard) {
        if let Err(error) = shard.shard.ready(self.patience()).await {
            shard.unready(&error);
        }
    }

    /// How long anybody waits for a ring shard that is being connected.
    pub(crate) fn patience(&self) -> Duration {
        self.valkey.connect_timeout
    }
}
