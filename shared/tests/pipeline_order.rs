//! Pages that are delivered twice, late, and by two processes at once, on a real server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use ringtide_core::config::Config;
use ringtide_core::entry::{Entry, State};
use ringtide_core::pipeline::{Pipeline, Services};
use ringtide_core::record::{ChangeRecord, RawRecord, UnreadableRecord, record_from_json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Server, get, set, value, value_at};

const LONG: Duration = Duration::from_secs(30);

fn record(event: &str, rev: u64) -> Result<ChangeRecord, UnreadableRecord> {
    let image = format!(r#"{{"pk":{{"S":"1"}},"rev":{{"N":"{rev}"}}}}"#);
    let text = format!(
        r#"{{"eventName":"{event}","eventSourceARN":"arn:aws:dynamodb:eu-west-1:123456789012:table/products/stream/2026-01-02T03:04:05.678",
        "dynamodb":{{"Keys":{{"pk":{{"S":"1"}}}},"OldImage":{image},"NewImage":{image},"SequenceNumber":"{}"}}}}"#,
        1000 + rev
    );
    record_from_json(RawRecord::parse(text).unwrap().as_raw())
}

/// A pipeline of its own, as each process has one.
async fn process(address: &str, route: &str) -> Pipeline {
    process_with(address, route, "").await
}

async fn process_with(address: &str, route: &str, more: &str) -> Pipeline {
    process_of(address, "", route, more).await
}

async fn process_of(address: &str, space: &str, route: &str, more: &str) -> Pipeline {
    let text = format!(
        "valkey = {{ command_timeout = \"20s\" }}\n{more}\n\
         ring = {{ shards = [{{ name = \"a\", address = \"{address}\" }}] }}\n\
         [spaces.product]\nkey = \"product:{{pk}}\"\n{space}\n\
         [[routes]]\ntable = \"products\"\nspace = \"product\"\n{route}"
    );
    let connected = Pipeline::connect(&Config::parse(&text, []).unwrap(), Services::default()).unwrap();
    connected.shards[0].ready(LONG).await.unwrap();
    connected.pipeline
}

async fn cached(raw: &mut MultiplexedConnection) -> Option<String> {
    let entry = get(raw, "product:1").await?;
    Some(String::from_utf8(Entry::parse(&entry).unwrap().payload.to_vec()).unwrap())
}

/// A way to a server that can be stopped: what is sent meanwhile arrives when it goes on, as from a process that was
/// stopped itself.
struct Way {
    address: String,
    open: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Way {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (open, is_open) = watch::channel(true);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut copies = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                copies.spawn(copy(from_client, to_server, is_open.clone()));
                copies.spawn(copy(from_server, to_client, is_open.clone()));
            }
        });
        Self { address, open, _tasks: tasks }
    }

    fn stop(&self) {
        self.open.send_replace(false);
    }

    fn go_on(&self) {
        self.open.send_replace(true);
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// A process that was stopped while it stored revision 1; meanwhile another one has delivered the same page again and
/// then revision 2, and the entry was evicted, so that no version tells old from new. Returns what is cached when
/// the stopped one has gone on.
async fn late_image(deadline: bool) -> Option<String> {
    let server = Server::start();
    let mut raw = server.raw().await;
    let route = "action = \"refresh\"\npopulate = true\n";
    let way = Way::to(server.address()).await;
    let (first, second) = (process(&way.address, route).await, process(&server.address(), route).await);
    // Both know the server's scripts now, so that one message carries a refresh.
    for pipeline in [&first, &second] {
        assert_eq!(pipeline.deliver(&[record("MODIFY", 0)], Instant::now() + LONG).await.first_undelivered, None);
    }
    way.stop();
    let ticket = if deadline {
        let delivered = first.deliver(&[record("MODIFY", 1)], Instant::now() + Duration::from_millis(300)).await;
        assert_eq!(delivered.first_undelivered, Some(0));
        None
    } else {
        let ticket = first.submit(vec![record("MODIFY", 1)], 0).await;
        // Sent, as far as the process can tell.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Some(ticket)
    };
    for rev in [1, 2] {
        let delivered = second.deliver(&[record("MODIFY", rev)], Instant::now() + LONG).await;
        assert_eq!(delivered.first_undelivered, None);
    }
    assert_eq!(cached(&mut raw).await.as_deref(), Some(r#"{"pk":"1","rev":2}"#));
    redis::cmd("UNLINK").arg("product:1").exec_async(&mut raw).await.unwrap();
    way.go_on();
    // The same connection carries this after the late refresh, and refreshes go alone.
    let other = ChangeRecord { keys: keys("2"), old: None, new: None, ..record("REMOVE", 9).unwrap() };
    assert_eq!(first.deliver(&[Ok(other)], Instant::now() + LONG).await.first_undelivered, None);
    drop(ticket);
    cached(&mut raw).await
}

fn keys(pk: &str) -> Box<dyn ringtide_core::record::Attributes> {
    let pk = ringtide_core::record::Attribute::S(pk.to_owned());
    Box::new(std::collections::BTreeMap::from([("pk".to_owned(), pk)]))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_image_that_comes_after_a_newer_one_and_an_eviction_is_stopped_by_its_deadline() {
    assert_eq!(late_image(true).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_deadline_that_old_image_is_stored() {
    // What the test above is worth: the same schedule is harmful where nothing but the version decides.
    assert_eq!(late_image(false).await.as_deref(), Some(r#"{"pk":"1","rev":1}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_deliver_old_and_new_pages_in_turns_keep_the_newest_image() {
    let server = Server::start();
    let mut raw = server.raw().await;
    set(&mut raw, "product:1", &value("{}")).await;
    let route = "action = \"refresh\"\n";
    let (first, second) = (process(&server.address(), route).await, process(&server.address(), route).await);
    let deadline = || Instant::now() + LONG;
    for rev in 1..20 {
        let (older, newer) = ([record("MODIFY", rev)], [record("MODIFY", rev + 1)]);
        let (a, b) = tokio::join!(first.deliver(&newer, deadline()), second.deliver(&older, deadline()));
        assert_eq!((a.first_undelivered, b.first_undelivered), (None, None));
        let newest = format!(r#"{{"pk":"1","rev":{}}}"#, rev + 1);
        assert_eq!(cached(&mut raw).await, Some(newest.clone()));
        // The older one once more, as a retry of its batch brings it.
        second.deliver(&older, deadline()).await;
        assert_eq!(cached(&mut raw).await, Some(newest));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_comes_twice_changes_nothing_the_second_time() {
    let server = Server::start();
    let mut raw = server.raw().await;
    let deadline = || Instant::now() + LONG;
    for (route, expected) in [("", None), ("action = \"refresh\"\npopulate = true\n", Some(r#"{"pk":"1","rev":3}"#))] {
        let pipeline = process(&server.address(), route).await;
        let page: Arc<[_]> = [record("INSERT", 1), record("MODIFY", 2), record("MODIFY", 3)].into();
        let mut seen = Vec::new();
        for _ in 0..3 {
            assert_eq!(pipeline.deliver(&page, deadline()).await.first_undelivered, None);
            // The whole entry: version, floor and payload.
            seen.push(get(&mut raw, "product:1").await);
        }
        assert_eq!(cached(&mut raw).await.as_deref(), expected);
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    }
    // A refresh that comes again does not bring back what was dropped since.
    let pipeline = process(&server.address(), "action = \"refresh\"\n").await;
    redis::cmd("UNLINK").arg("product:1").exec_async(&mut raw).await.unwrap();
    pipeline.deliver(&[record("MODIFY", 3)], deadline()).await;
    assert_eq!(cached(&mut raw).await, None);
}

/// Parked records are kept in no order, and newer ones were delivered meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn parked_records_leave_the_same_behind_in_whatever_order_they_are_delivered_again() {
    const ORDERS: [[u64; 3]; 6] = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    const VERSIONED: &str = "mode = \"versioned\"\nversion_attribute = \"rev\"";
    let server = Server::start();
    let mut raw = server.raw().await;
    let refreshing = "action = \"refresh\"\npopulate = true";
    for (space, route, newer_stays) in [
        ("", "", false),
        (VERSIONED, "", true),
        (VERSIONED, refreshing, true),
        (&format!("{VERSIONED}\nconsistent_loads = false\ntombstone = \"60s\""), "", true),
        (&format!("{VERSIONED}\nstale_if_error = \"60s\""), "", true),
    ] {
        let pipeline = process_of(&server.address(), space, route, "").await;
        for cached in [None, Some(0), Some(2), Some(3), Some(7)] {
            let mut left = Vec::new();
            for (order, pages) in ORDERS.iter().flat_map(|order| [(order, 1), (order, 3)]) {
                redis::cmd("UNLINK").arg("product:1").exec_async(&mut raw).await.unwrap();
                if let Some(rev) = cached {
                    set(&mut raw, "product:1", &value_at(rev, "{}")).await;
                }
                let records: Vec<_> = order.iter().map(|rev| record("MODIFY", *rev)).collect();
                for page in records.chunks(3 / pages) {
                    let delivered = pipeline.deliver_overtaken(page, Instant::now() + LONG).await;
                    assert_eq!(delivered.first_undelivered, None);
                }
                left.push(get(&mut raw, "product:1").await);
            }
            assert!(left.windows(2).all(|pair| pair[0] == pair[1]), "{space} {route} {cached:?}: {left:?}");
            let is_value = |entry: &Bytes| Entry::parse(entry).unwrap().header.state == State::Value;
            let served = left[0].as_ref().is_some_and(is_value);
            assert_eq!(served, newer_stays && cached >= Some(3), "{space} {route} {cached:?}: {left:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_parked_is_named_and_the_others_are_delivered() {
    let server = Server::start();
    let mut raw = server.raw().await;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("parked");
    std::fs::write(&place, "in the way").unwrap();
    let park = format!("park = {{ to = \"file://{}\" }}", place.display());
    let pipeline = process_with(&server.address(), "", &park).await;
    let unreadable =
        record_from_json(RawRecord::parse(r#"{"dynamodb":{"SequenceNumber":"7"}}"#.into()).unwrap().as_raw());
    let page = [record("REMOVE", 0), unreadable, record("MODIFY", 1)];
    set(&mut raw, "product:1", &value("{}")).await;
    let delivered = pipeline.deliver(&page, Instant::now() + Duration::from_secs(1)).await;
    assert_eq!((delivered.first_undelivered, delivered.parked), (Some(1), 1));
    assert_eq!(get(&mut raw, "product:1").await, None);
    assert!(pipeline.parking_fails() && pipeline.held_up());

    std::fs::remove_file(&place).unwrap();
    let delivered = pipeline.deliver(&page, Instant::now() + LONG).await;
    assert_eq!((delivered.first_undelivered, delivered.parked), (None, 1));
    let file = place.join("unknown");
    assert!(file.is_dir(), "the record is kept under a name for what is not known");
}

#[tokio::test]
async fn a_place_that_needs_aws_is_not_left_out_silently() {
    let text = "park = { to = \"s3://bucket\" }\nring = { shards = [{ name = \"a\", address = \"h:1\" }] }";
    let Err(violations) = Pipeline::connect(&Config::parse(text, []).unwrap(), Services::default()) else {
        panic!("records would be parked nowhere");
    };
    assert!(violations[0].to_string().starts_with("park.to"), "{violations:?}");
}
