//! Parked records as objects of an S3 bucket.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};

use super::super::{ObjectError, Objects, Sdk};
use super::failed;
use crate::park::{Kept, ParkError, ParkReader, ParkStore, ParkedRecord, SUFFIX, is_id};

/// Stores each parked record as one object, named by its place in the stream.
#[derive(Debug)]
pub(super) struct Bucket {
    objects: Objects,
    bucket: String,
    prefix: String,
}

impl Bucket {
    pub(super) fn new(sdk: Sdk, bucket: &str, prefix: &str) -> Self {
        Self { objects: Objects::with(sdk), bucket: bucket.to_owned(), prefix: prefix.to_owned() }
    }
}

#[async_trait]
impl ParkStore for Bucket {
    async fn park(&self, record: &ParkedRecord) -> Result<(), ParkError> {
        let key = format!("{}{}", self.prefix, record.name());
        let stored = self.objects.put(&self.bucket, &key, record.to_json()).await;
        stored.map_err(|error| self.failed(error))
    }
}

impl Bucket {
    fn failed(&self, error: ObjectError) -> ParkError {
        let store = Arc::from(self.place());
        match error {
            ObjectError::Missing { reason, .. } => ParkError::Refused { store, reason },
            ObjectError::Failed { failure, .. } => failed(store, failure),
            ObjectError::TooLong { .. } => ParkError::Refused { store, reason: error.to_string() },
        }
    }

    /// Reads one object; `None` where it is gone, as between listing and reading.
    async fn read(&self, key: String) -> Result<Option<Kept>, ParkError> {
        let name = key.strip_prefix(&self.prefix).unwrap_or(&key);
        let id = name.strip_suffix(SUFFIX).unwrap_or(name).to_owned();
        match self.objects.get(&self.bucket, &key).await {
            Ok(text) => Ok(Some(Kept::named(id, key, &text))),
            Err(ObjectError::Missing { .. }) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The keys of everything below the prefix that can be a parked record, page by page.
    fn pages(&self) -> impl stream::Stream<Item = Result<Vec<String>, ParkError>> + Send {
        stream::try_unfold(Some(None), async |from: Option<Option<String>>| {
            let Some(from) = from else { return Ok(None) };
            let listed = self.objects.list(&self.bucket, &self.prefix, from).await;
            let (keys, next) = listed.map_err(|error| self.failed(error))?;
            let keys = keys.into_iter().filter(|key| key.ends_with(SUFFIX)).collect();
            Ok(Some((keys, next.map(Some))))
        })
    }
}

#[async_trait]
impl ParkReader for Bucket {
    fn place(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }

    fn list(&self) -> BoxStream<'_, Result<Kept, ParkError>> {
        let keys = self.pages().map_ok(|keys| stream::iter(keys).map(Ok)).try_flatten();
        keys.try_filter_map(|key| self.read(key)).boxed()
    }

    async fn find(&self, id: &str) -> Result<Vec<Kept>, ParkError> {
        let found = if is_id(id) { self.read(format!("{}{id}{SUFFIX}", self.prefix)).await? } else { None };
        Ok(found.into_iter().collect())
    }

    async fn remove(&self, kept: &Kept) -> Result<(), ParkError> {
        self.objects.delete(&self.bucket, &kept.handle).await.map_err(|error| self.failed(error))
    }

    async fn count(&self, most: u64) -> Result<u64, ParkError> {
        let (mut pages, mut count) = (std::pin::pin!(self.pages()), 0);
        while let Some(keys) = pages.try_next().await? {
            count += keys.len() as u64;
            if count >= most {
                return Ok(most);
            }
        }
        Ok(count)
    }
}
