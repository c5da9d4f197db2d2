//! Objects of S3.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_types::SdkConfig;
use bytes::{Bytes, BytesMut};
use tokio::sync::OnceCell;

use super::{Failure, Sdk};
use crate::config::Aws;

/// The longest object that is read, in bytes: a batch that Lambda gave up is at most 6 MB.
const LONGEST: usize = 32 * 1024 * 1024;

/// Reads objects; its client is built with the first one.
#[derive(Debug)]
pub struct Objects {
    sdk: Sdk,
    client: OnceCell<Client>,
}

/// Why an object was not read or stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// There is no such object or bucket.
    #[error("s3://{bucket}/{key} is not there: {reason}")]
    Missing {
        /// The bucket.
        bucket: String,
        /// The object's key.
        key: String,
        /// What S3 says.
        reason: String,
    },
    /// The call failed.
    #[error("s3://{bucket}/{key}: {failure}")]
    Failed {
        /// The bucket.
        bucket: String,
        /// The object's key.
        key: String,
        /// How it failed.
        failure: Failure,
    },
    /// The object is longer than 32 MiB.
    #[error("s3://{bucket}/{key} is longer than {LONGEST} bytes")]
    TooLong {
        /// The bucket.
        bucket: String,
        /// The object's key.
        key: String,
    },
}

impl Objects {
    /// Prepares reading; nothing is sent or built.
    #[must_use]
    pub fn new(settings: &Aws) -> Self {
        Self::with(Sdk::new(settings))
    }

    pub(super) fn with(sdk: Sdk) -> Self {
        Self { sdk, client: OnceCell::new() }
    }

    /// Reads an object whole.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn get(&self, bucket: &str, key: &str) -> Result<Bytes, ObjectError> {
        let failed = |failure| failed(bucket, key, failure);
        let got = self.client().await.get_object().bucket(bucket).key(key).send().await;
        let mut body = got.map_err(|error| failed(Failure::of(&error)))?.body;
        let mut read = BytesMut::new();
        while let Some(part) = body.next().await {
            let part = part.map_err(|error| failed(Failure::Unreachable(error.to_string())))?;
            if read.len() + part.len() > LONGEST {
                return Err(ObjectError::TooLong { bucket: bucket.to_owned(), key: key.to_owned() });
            }
            read.extend_from_slice(&part);
        }
        Ok(read.freeze())
    }

    /// Stores a JSON object, in place of what is there.
    pub(super) async fn put(&self, bucket: &str, key: &str, json: String) -> Result<(), ObjectError> {
        let put = self.client().await.put_object().bucket(bucket).key(key).content_type("application/json");
        let stored = put.body(ByteStream::from(json.into_bytes())).send().await;
        stored.map(drop).map_err(|error| failed(bucket, key, Failure::of(&error)))
    }

    /// Lists a page of the keys that begin with `prefix`, and tells where the next page begins, if there is one.
    pub(super) async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        from: Option<String>,
    ) -> Result<(Vec<String>, Option<String>), ObjectError> {
        let list = self.client().await.list_objects_v2().bucket(bucket).prefix(prefix).set_continuation_token(from);
        let listed = list.send().await.map_err(|error| failed(bucket, prefix, Failure::of(&error)))?;
        let keys = listed.contents.unwrap_or_default().into_iter().filter_map(|object| object.key).collect();
        Ok((keys, listed.next_continuation_token.filter(|_| listed.is_truncated == Some(true))))
    }

    /// Deletes an object; one that is not there is no error.
    pub(super) async fn delete(&self, bucket: &str, key: &str) -> Result<(), ObjectError> {
        let deleted = self.client().await.delete_object().bucket(bucket).key(key).send().await;
        deleted.map(drop).map_err(|error| failed(bucket, key, Failure::of(&error)))
    }

    async fn client(&self) -> &Client {
        self.client.get_or_init(|| async { client(self.sdk.config().await) }).await
    }
}

fn client(config: &SdkConfig) -> Client {
    // Servers on an endpoint of their own rarely have a name for each bucket.
    let path_style = config.endpoint_url().is_some();
    Client::from_conf(aws_sdk_s3::config::Builder::from(config).force_path_style(path_style).build())
}

fn failed(bucket: &str, key: &str, failure: Failure) -> ObjectError {
    let (bucket, key) = (bucket.to_owned(), key.to_owned());
    match failure {
        Failure::Service { code, text } if code == "NoSuchKey" || code == "NoSuchBucket" => {
            ObjectError::Missing { bucket, key, reason: text }
        }
        failure => ObjectError::Failed { bucket, key, failure },
    }
}
