//! What a server pushes: notices to waiters and keys that changed, received by one connection for all schedules.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value};
use ringtide_core::key::CacheKey;
use ringtide_core::valkey::Token;

/// The inboxes of the reader processes.
pub(crate) const INBOXES: [&str; 2] = ["fuzz:inbox:0", "fuzz:inbox:1"];

/// What waiters are told.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    Filled(Token, Option<Bytes>),
    Voided,
    Failed,
}

/// What came for one key since it was last asked for.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Notices, each with the process that it is for.
    pub(crate) notices: Vec<(usize, Notice)>,
    /// Whether the server told that the key has changed.
    pub(crate) changed: bool,
}

type Table = Arc<Mutex<HashMap<String, Heard>>>;

/// The connection, cheap to clone.
#[derive(Clone)]
pub(crate) struct Wire {
    connection: MultiplexedConnection,
    heard: Table,
}

impl Wire {
    pub(crate) async fn connect(address: &str, patience: Duration) -> Self {
        let heard = Table::default();
        let table = heard.clone();
        let options = AsyncConnectionConfig::new().set_response_timeout(Some(patience)).set_push_sender(
            move |push: PushInfo| -> Result<(), redis::aio::SendError> {
                hear(&table, push);
                Ok(())
            },
        );
        let client = redis::Client::open(format!("redis://{address}?protocol=resp3")).expect("a client");
        let mut connection = client.get_multiplexed_async_connection_with_config(&options).await.expect("a connection");
        let _: () =
            redis::cmd("CLIENT").arg("TRACKING").arg("ON").query_async(&mut connection).await.expect("tracking");
        connection.subscribe(&INBOXES).await.expect("a subscription");
        Self { connection, heard }
    }

    /// Looks an entry up, and lets the server tell when it changes.
    pub(crate) async fn get_tracked(&self, key: &CacheKey) -> Option<Bytes> {
        let entry: Option<Vec<u8>> =
            redis::cmd("GET").arg(key.as_str()).query_async(&mut self.connection.clone()).await.expect("GET");
        entry.map(Bytes::from)
    }

    /// Waits until everything has arrived that the server pushed up to now: pushes and answers of one connection come
    /// in the order in which they were made.
    pub(crate) async fn catch_up(&self) {
        let _: Value = redis::cmd("PING").query_async(&mut self.connection.clone()).await.expect("PING");
    }

    /// What came for a key.
    pub(crate) fn take(&self, key: &CacheKey) -> Heard {
        self.heard.lock().unwrap().remove(key.as_str()).unwrap_or_default()
    }
}

fn hear(table: &Table, push: PushInfo) {
    let mut table = table.lock().unwrap();
    match push.kind {
        PushKind::Invalidate => {
            for value in push.data {
                let Value::Array(keys) = value else { continue };
                for key in keys {
                    let Value::BulkString(key) = key else { continue };
                    table.entry(String::from_utf8(key).expect("a key")).or_default().changed = true;
                }
            }
        }
        PushKind::Message => {
            let mut data = push.data.into_iter();
            let (Some(Value::BulkString(channel)), Some(Value::BulkString(message))) = (data.next(), data.next())
            else {
                panic!("not a message");
            };
            let process = INBOXES.iter().position(|inbox| inbox.as_bytes() == channel).expect("an inbox");
            let (key, notice) = read(&Bytes::from(message));
            table.entry(key).or_default().notices.push((process, notice));
        }
        _ => {}
    }
}

/// Reads a notice: its kind, the lease's token, the key behind its length, and the entry or the reason.
fn read(message: &Bytes) -> (String, Notice) {
    let token = Token::from_bytes(message[1..17].try_into().expect("a token"));
    let length = usize::from(u16::from_be_bytes(message[17..19].try_into().expect("a length")));
    let key = String::from_utf8(message[19..19 + length].to_vec()).expect("a key");
    let rest = message.slice(19 + length..);
    let notice = match message[0] {
        b'F' => Notice::Filled(token, (!rest.is_empty()).then_some(rest)),
        b'V' => Notice::Voided,
        b'R' => Notice::Failed,
        kind => panic!("a notice of kind {kind}"),
    };
    (key, notice)
}

/// Writes the notice of a fill.
pub(crate) fn filled(token: &Token, key: &CacheKey, entry: &[u8]) -> Vec<u8> {
    let length = u16::try_from(key.as_bytes().len()).expect("a short key").to_be_bytes();
    [b"F", &token.as_bytes()[..], &length, key.as_bytes(), entry].concat()
}
