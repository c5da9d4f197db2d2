//! Parked records as messages of an SQS queue.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, Message, QueueAttributeName};
use aws_types::region::Region;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::OnceCell;

use super::super::{Failure, Sdk};
use super::failed;
use crate::park::{Kept, ParkError, ParkReader, ParkStore, ParkedRecord};

/// The longest message of any queue, in bytes. A queue may have a lower limit, and older ones have 256 KiB: they refuse.
const LONGEST_MESSAGE: usize = 1024 * 1024;

/// Sends each parked record as one message, whose body is its JSON object.
#[derive(Debug)]
pub(super) struct Queue {
    sdk: Sdk,
    url: Arc<str>,
    client: OnceCell<Client>,
    /// What was received and not removed, to be given back.
    received: Mutex<Vec<String>>,
}

impl Queue {
    pub(super) fn new(sdk: Sdk, url: &str) -> Self {
        Self { sdk, url: Arc::from(url), client: OnceCell::new(), received: Mutex::default() }
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

/// For how long messages that are read are hidden from other receivers, in seconds, unless they are given back earlier.
const HIDDEN: i32 = 600;

/// For how long a receive waits for messages: a short one asks only some of the queue's servers.
const WAIT: i32 = 1;

/// The most messages that one receive hands out, or that one call gives back.
const MOST: usize = 10;

/// Receives in a row without a message after which the queue is taken for read to its end.
const EMPTY: usize = 2;

impl Queue {
    /// Receives some messages; none where the queue hands out no more.
    async fn receive(&self) -> Result<Vec<Kept>, ParkError> {
        for _ in 0..EMPTY {
            let request =
                self.client().await.receive_message().queue_url(&*self.url).max_number_of_messages(MOST as i32);
            let received = request.visibility_timeout(HIDDEN).wait_time_seconds(WAIT).send().await;
            let received = received.map_err(|error| self.failed(Failure::of(&error)))?.messages.unwrap_or_default();
            let kept: Vec<Kept> = received.into_iter().filter_map(kept).collect();
            if !kept.is_empty() {
                let handles = kept.iter().map(|kept| kept.handle.clone());
                self.received.lock().unwrap_or_else(PoisonError::into_inner).extend(handles);
                return Ok(kept);
            }
        }
        Ok(Vec::new())
    }
}

/// A message without a handle cannot be removed or given back, and comes again.
fn kept(message: Message) -> Option<Kept> {
    let (handle, id) = (message.receipt_handle?, message.message_id.unwrap_or_default());
    let record = ParkedRecord::from_json(message.body.unwrap_or_default().as_bytes());
    let id = record.as_ref().map_or(id, ParkedRecord::id);
    Some(Kept { id, record, handle })
}

#[async_trait]
impl ParkReader for Queue {
    fn place(&self) -> String {
        self.url.to_string()
    }

    fn list(&self) -> BoxStream<'_, Result<Kept, ParkError>> {
        let pages = stream::try_unfold((), async |()| {
            let page = self.receive().await?;
            Ok((!page.is_empty()).then(|| (stream::iter(page).map(Ok), ())))
        });
        pages.try_flatten().boxed()
    }

    async fn find(&self, id: &str) -> Result<Vec<Kept>, ParkError> {
        // A queue has no names: everything is received until nothing more comes.
        let same = |kept: &Kept| std::future::ready(kept.id == id);
        self.list().try_filter(same).try_collect().await
    }

    async fn remove(&self, kept: &Kept) -> Result<(), ParkError> {
        let delete = self.client().await.delete_message().queue_url(&*self.url).receipt_handle(&kept.handle);
        delete.send().await.map_err(|error| self.failed(Failure::of(&error)))?;
        self.received.lock().unwrap_or_else(PoisonError::into_inner).retain(|handle| *handle != kept.handle);
        Ok(())
    }

    async fn count(&self, most: u64) -> Result<u64, ParkError> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let request = self.client().await.get_queue_attributes().queue_url(&*self.url);
        let got = request.set_attribute_names(Some(names.to_vec())).send().await;
        let attributes = got.map_err(|error| self.failed(Failure::of(&error)))?.attributes.unwrap_or_default();
        let counts = names.iter().filter_map(|name| attributes.get(name)?.parse::<u64>().ok());
        Ok(counts.sum::<u64>().min(most))
    }

    async fn done(&self) -> Result<(), ParkError> {
        let received = std::mem::take(&mut *self.received.lock().unwrap_or_else(PoisonError::into_inner));
        for handles in received.chunks(MOST) {
            let mut give_back = self.client().await.change_message_visibility_batch().queue_url(&*self.url);
            for (number, handle) in handles.iter().enumerate() {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(number.to_string());
                // Built without an id or a handle it would fail; both are here.
                if let Ok(entry) = entry.receipt_handle(handle).visibility_timeout(0).build() {
                    give_back = give_back.entries(entry);
                }
            }
            give_back.send().await.map_err(|error| self.failed(Failure::of(&error)))?;
        }
        Ok(())
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
