//! Parked records as messages of an SQS queue, or as objects of an S3 bucket.

use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use aws_config::Region;
use aws_sdk_sqs::Client;
use tokio::sync::OnceCell;

use super::{Failure, ObjectError, Objects, Sdk, is_throttle};
use crate::park::{ParkError, ParkStore, ParkedRecord};

/// The longest message of any queue, in bytes. A queue may have a lower limit, and older ones have 256 KiB: they refuse.
const LONGEST_MESSAGE: usize = 1024 * 1024;

/// Sends each parked record as one message, whose body is its JSON object.
#[derive(Debug)]
pub(super) struct Queue {
    sdk: Sdk,
    url: Arc<str>,
    client: OnceCell<Client>,
}

impl Queue {
    pub(super) fn new(sdk: Sdk, url: &str) -> Self {
        Self { sdk, url: Arc::from(url), client: OnceCell::new() }
    }

    async fn client(&self) -> &Client {
        let build = || async {
            let config = self.sdk.config().await;
            let mut builder = aws_sdk_sqs::config::Builder::from(config);
            if let Some(region) = region_of(&self.url).filter(|_| config.endpoint_url().is_none()) {
                builder = builder.region(Region::new(region.to_owned()));
            }
            Client::from_conf(builder.build())
        };
        self.client.get_or_init(build).await
    }

    async fn send(&self, record: &ParkedRecord) -> Result<(), Failure> {
        let mut send = self.client().await.send_message().queue_url(&*self.url).message_body(body(record));
        if self.url.ends_with(".fifo") {
            // Parked records have no order among them: each is a group of its own.
            let name = record.fingerprint();
            send = send.message_group_id(&name).message_deduplication_id(name);
        }
        send.send().await.map(drop).map_err(|error| Failure::of(&error))
    }

    fn failed(&self, failure: Failure) -> ParkError {
        failed(Arc::clone(&self.url), failure)
    }
}

#[async_trait]
impl ParkStore for Queue {
    async fn park(&self, record: &ParkedRecord) -> Result<(), ParkError> {
        let refused = if body(record).len() <= LONGEST_MESSAGE {
            match self.send(record).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            }
        } else {
            Failure::Service { code: TOO_LONG.to_owned(), text: "longer than any message of a queue".to_owned() }
        };
        if !is_too_long(&refused) || record.images_omitted {
            return Err(self.failed(refused));
        }
        match self.send(&record.without_images()).await {
            Ok(()) => Ok(()),
            // Keys and position alone are short: where not even they are taken, the queue's limit is 1 KiB or so, and
            // only the position is left to be kept.
            Err(failure) if is_too_long(&failure) => {
                let position = ParkedRecord { content: None, ..record.without_images() };
                self.send(&position).await.map_err(|failure| self.failed(failure))
            }
            Err(failure) => Err(self.failed(failure)),
        }
    }
}

/// The code of SQS for a message that is longer than the queue takes, among other things.
const TOO_LONG: &str = "InvalidParameterValue";

fn is_too_long(failure: &Failure) -> bool {
    match failure {
        Failure::Service { code, .. } => {
            code.contains(TOO_LONG) || code.contains("MessageTooLong") || code.contains("InvalidMessageContents")
        }
        Failure::Unreachable(_) | Failure::Other(_) => false,
    }
}

/// The record's JSON; two characters that a message must not hold stand only in its texts, and are escaped there.
fn body(record: &ParkedRecord) -> String {
    let json = record.to_json();
    if !json.contains(['\u{fffe}', '\u{ffff}']) {
        return json;
    }
    let mut body = String::with_capacity(json.len());
    for c in json.chars() {
        if matches!(c, '\u{fffe}' | '\u{ffff}') {
            let _infallible = write!(body, "\\u{:04x}", u32::from(c));
        } else {
            body.push(c);
        }
    }
    body
}

/// The region in a queue's URL, `https://sqs.REGION.amazonaws.com/…`.
fn region_of(url: &str) -> Option<&str> {
    let (region, rest) = url.split_once("://sqs.")?.1.split_once('.')?;
    rest.starts_with("amazonaws.com").then_some(region)
}

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
        let store = || Arc::from(format!("s3://{}/{}", self.bucket, self.prefix));
        stored.map_err(|error| match error {
            ObjectError::Missing { reason, .. } => ParkError::Refused { store: store(), reason },
            ObjectError::Failed { failure, .. } => failed(store(), failure),
            ObjectError::TooLong { .. } => ParkError::Refused { store: store(), reason: error.to_string() },
        })
    }
}

fn failed(store: Arc<str>, failure: Failure) -> ParkError {
    let reason = failure.to_string();
    match failure {
        Failure::Service { code, .. } if !is_throttle(&code) && !code.contains("Internal") => {
            ParkError::Refused { store, reason }
        }
        Failure::Service { .. } | Failure::Unreachable(_) | Failure::Other(_) => {
            ParkError::Unavailable { store, reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RawRecord;

    #[test]
    fn a_queues_region_is_read_from_its_url() {
        assert_eq!(region_of("https://sqs.eu-west-1.amazonaws.com/123456789012/parked"), Some("eu-west-1"));
        assert_eq!(region_of("https://sqs.cn-north-1.amazonaws.com.cn/1/q"), Some("cn-north-1"));
        assert_eq!(region_of("http://127.0.0.1:4566/000000000000/parked"), None);
        assert_eq!(region_of("http://sqs.us-east-1.localhost.localstack.cloud:4566/0/q"), None);
    }

    #[test]
    fn characters_that_no_message_may_hold_are_escaped() {
        let content = "{\"a\":\"x\u{ffff}\u{fffe}y\u{10ffff}\"}";
        let record = ParkedRecord { content: RawRecord::parse(content.to_owned()), ..ParkedRecord::default() };
        let sent = body(&record);
        assert!(sent.contains("x\\uffff\\ufffey\u{10ffff}") && !sent.contains('\u{ffff}'), "{sent}");
        let read: serde_json::Value = serde_json::from_str(&sent).unwrap();
        assert_eq!(read["content"]["a"], "x\u{ffff}\u{fffe}y\u{10ffff}");
    }
}
