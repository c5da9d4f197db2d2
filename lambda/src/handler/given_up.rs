//! Batches that Lambda gave up: delivered from where Lambda kept them, or made good by a flush.
//!
//! A flush looks at every key of every ring shard, and has to end within one invocation: where it does not, the message
//! comes again, and in the end to the queue's own dead letters. Its time-out has to allow for that.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use metrics::counter;
use ringtide_core::aws;
use ringtide_core::metrics as names;
use tokio::time::Instant;

use super::Handler;
use crate::event::Message;
use crate::event::given_up::{GivenUp, NotGivenUp, Notice, ObjectPlace};

/// How often a message is received before an object that cannot be fetched is taken for lost.
const PATIENCE: u32 = 3;

/// What the keys of Lambda's own objects begin with.
const PREFIX: &str = "aws/lambda/";

/// Where the objects are that Lambda stores batches in: S3, or what a test stands for it.
#[async_trait]
pub trait Objects: fmt::Debug + Send + Sync {
    /// Fetches a whole object.
    ///
    /// # Errors
    /// [`ObjectError`].
    async fn fetch(&self, place: &ObjectPlace) -> Result<Bytes, ObjectError>;
}

/// Why there is no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// There is none, and there will be none.
    #[error("the object does not exist")]
    Missing,
    /// It cannot be fetched now.
    #[error("the object cannot be fetched: {0}")]
    Unavailable(String),
}

/// What becomes of a message.
enum Fate {
    /// Everything it tells of is delivered, or there was nothing to deliver.
    Done,
    /// It stays in its queue, and comes again.
    Kept,
    /// It is done when these tables are flushed.
    Flush(Vec<String>),
}

impl Handler {
    /// Makes good what messages tell of until `until`; returns those that have to come again.
    pub(super) async fn messages<'m>(&self, messages: &'m [Message], until: Instant) -> Vec<&'m Message> {
        let mut kept = Vec::new();
        let mut flushed: Vec<(&Message, Vec<String>)> = Vec::new();
        for message in messages {
            match self.message(message, until).await {
                Fate::Done => {}
                Fate::Kept => kept.push(message),
                Fate::Flush(tables) => flushed.push((message, tables)),
            }
        }
        // One flush of a table stands for every batch that was given up before it began.
        let mut tables: BTreeMap<&str, bool> = BTreeMap::new();
        let mut flushes = Vec::new();
        for table in flushed.iter().flat_map(|(_, tables)| tables) {
            if tables.insert(table, false).is_none() {
                flushes.push((table, self.pipeline.flush_table(table).await));
            }
        }
        for (table, flush) in flushes {
            tables.insert(table, matches!(tokio::time::timeout_at(until, flush).await, Ok(Ok(()))));
        }
        for (message, of_message) in &flushed {
            if !of_message.iter().all(|table| tables.get(table.as_str()) == Some(&true)) {
                kept.push(message);
                continue;
            }
            for table in of_message {
                counter!(names::GAPS, names::TABLE => table.clone(), names::REASON => "given_up").increment(1);
                count(table, "flushed");
            }
        }
        kept
    }

    async fn message(&self, message: &Message, until: Instant) -> Fate {
        let id = message.id.as_deref().unwrap_or_default();
        if Instant::now() >= until {
            return Fate::Kept;
        }
        let Some(body) = &message.body else {
            tracing::error!(id, "a message without a body stays in its queue");
            return Fate::Kept;
        };
        match Notice::read(body) {
            Ok(Notice::Nothing) => Fate::Done,
            Ok(Notice::Batch(batch)) => self.given_up(&batch, until).await,
            Ok(Notice::Objects(places)) => {
                let mut fate = Fate::Done;
                for place in &places {
                    fate = fate.and(self.object(place, message.receives, until).await);
                }
                fate
            }
            Err(error) => {
                tracing::error!(id, %error, "a message that tells of no batch stays in its queue");
                Fate::Kept
            }
        }
    }

    async fn object(&self, place: &ObjectPlace, receives: u32, until: Instant) -> Fate {
        let ObjectPlace { bucket, key } = place;
        let everything = || Fate::Flush(self.pipeline.router().tables().map(str::to_owned).collect());
        let fetched = tokio::time::timeout_at(until, self.objects.fetch(place)).await;
        let text = match fetched.unwrap_or_else(|_| Err(ObjectError::Unavailable("no answer in time".to_owned()))) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error @ ObjectError::Unavailable(_)) if receives < PATIENCE => {
                tracing::warn!(bucket, key, %error, "a batch that was given up is fetched again later");
                return Fate::Kept;
            }
            Err(error) if key.starts_with(PREFIX) => {
                tracing::error!(bucket, key, %error, "a batch that was given up is lost, every key space is flushed");
                return everything();
            }
            Err(error) => {
                tracing::error!(bucket, key, %error, "an object cannot be fetched, its message stays in its queue");
                return Fate::Kept;
            }
        };
        match GivenUp::read(&text) {
            Ok(batch) => self.given_up(&batch, until).await,
            Err(error @ NotGivenUp::Malformed(_)) if key.starts_with(PREFIX) => {
                tracing::error!(bucket, key, %error, "a batch that was given up is lost, every key space is flushed");
                everything()
            }
            Err(error) => {
                tracing::error!(bucket, key, %error, "an object tells of no batch, its message stays in its queue");
                Fate::Kept
            }
        }
    }

    async fn given_up(&self, batch: &GivenUp, until: Instant) -> Fate {
        let GivenUp { stream, shard, range: (first, last), condition, payload } = batch;
        let table = &stream.table;
        let page = payload.as_ref().map(crate::event::Event::read).unwrap_or_default();
        if !page.is_empty() {
            let delivered = self.overtaken(&page, until).await;
            let records = page.len();
            tracing::warn!(
                table,
                shard,
                first,
                last,
                condition,
                records,
                first_undelivered = delivered.first_undelivered,
                "delivered a batch that was given up"
            );
            if delivered.first_undelivered.is_some() {
                return Fate::Kept;
            }
            count(table, "delivered");
            return Fate::Done;
        }
        if !self.has_routes(table) {
            // Its regular records are passed over. That a batch of them is lost is told nevertheless: routes that are
            // missing by mistake would leave its keys stale, so the message stays for when they are there.
            tracing::error!(
                table,
                shard,
                first,
                last,
                condition,
                "a batch of a table without routes was given up, its message stays in its queue"
            );
            count(table, "kept");
            return Fate::Kept;
        }
        tracing::error!(
            table,
            shard,
            first,
            last,
            condition,
            "a batch was given up and its records are not at hand, the table's key spaces are flushed"
        );
        Fate::Flush(vec![table.clone()])
    }
}

impl Fate {
    /// What becomes of a message that tells of both.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Kept, _) | (_, Self::Kept) => Self::Kept,
            (Self::Flush(mut tables), Self::Flush(more)) => {
                tables.extend(more);
                tables.sort();
                tables.dedup();
                Self::Flush(tables)
            }
            (flush @ Self::Flush(_), Self::Done) | (Self::Done, flush @ Self::Flush(_)) => flush,
            (Self::Done, Self::Done) => Self::Done,
        }
    }
}

fn count(table: &str, outcome: &'static str) {
    counter!(names::LAMBDA_GIVEN_UP, names::TABLE => table.to_owned(), names::OUTCOME => outcome).increment(1);
}

#[async_trait]
impl Objects for aws::Objects {
    async fn fetch(&self, place: &ObjectPlace) -> Result<Bytes, ObjectError> {
        self.get(&place.bucket, &place.key).await.map_err(|error| match error {
            aws::ObjectError::Missing { .. } => ObjectError::Missing,
            // S3 also denies what is not there, to those who may not list: the message's number of receives decides.
            failed @ (aws::ObjectError::Failed { .. } | aws::ObjectError::TooLong { .. }) => {
                ObjectError::Unavailable(failed.to_string())
            }
        })
    }
}
