//! The binary as a process, on the embedded emulator's HTTP endpoint and a real `valkey-server`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, StreamViewType};
use aws_sdk_dynamodbstreams::types::ShardIteratorType;
use ringtide_core::config::Aws;
use ringtide_servers::{Emulator, Program, ValkeyServer, create_table, free_port};
use ringtide_worker::aws::Clients;
use ringtide_worker::lease::{Checkpoint, DynamoDbLeases, LeaseStore};

const PATIENCE: Duration = Duration::from_secs(30);

fn page(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    assert!(ringtide_servers::eventually(PATIENCE, async || holds()).await, "never came true: {what}");
}

async fn ended(program: &mut Program) -> Option<i32> {
    program.ended(PATIENCE).await.unwrap().expect("the process ends").code()
}

struct World {
    endpoint: String,
    clients: Clients,
    server: ValkeyServer,
    _dynamodb: Emulator,
    folder: tempfile::TempDir,
    pages: u16,
}

impl World {
    async fn new() -> Self {
        let dynamodb = Emulator::start().await.unwrap();
        let endpoint = dynamodb.url().to_owned();
        let clients = Clients::connect(&Aws { region: None, endpoint_url: Some(endpoint.clone()) }).await;
        let server = ValkeyServer::start().unwrap();
        let (folder, pages) = (tempfile::tempdir().unwrap(), free_port().unwrap());
        let world = Self { endpoint, clients, server, _dynamodb: dynamodb, folder, pages };
        world.configure("products");
        world
    }

    fn configure(&self, table: &str) {
        std::fs::write(self.config(), self.text(table)).unwrap();
    }

    fn text(&self, table: &str) -> String {
        let (pages, valkey) = (self.pages, self.server.port());
        format!(
            r#"
            [worker]
            application = "ringtide-process-test"
            listen = "127.0.0.1:{pages}"
            checkpoint_interval = "100ms"
            [[ring.shards]]
            name = "a"
            address = "127.0.0.1:{valkey}"
            [spaces.product]
            key = "product:{{pk}}"
            [[routes]]
            table = "{table}"
            space = "product"
            "#
        )
    }

    fn config(&self) -> std::path::PathBuf {
        Path::new(self.folder.path()).join("ringtide.toml")
    }

    async fn create_table(&self, stream: bool) {
        let view = stream.then_some(StreamViewType::KeysOnly);
        create_table(&self.clients.tables, "products", "pk", view).await.unwrap();
    }

    /// Caches a value, as far as an invalidation is concerned, then changes its item.
    async fn cache_and_change(&self, pk: &str) {
        assert_eq!(self.server.ask(&["SET", &format!("product:{pk}"), "old"]).unwrap(), "OK");
        let put = self.clients.tables.put_item().table_name("products").item("pk", AttributeValue::S(pk.to_owned()));
        put.item("at", AttributeValue::N(fastrand::u32(..).to_string())).send().await.unwrap();
    }

    async fn dropped(&self, pk: &str) {
        let key = format!("product:{pk}");
        eventually(&format!("{key} is dropped"), || self.server.ask(&["EXISTS", &key]).unwrap() == "0").await;
    }

    fn start(&self, more: &[&str]) -> Program {
        Program::of(self.spawn(more))
    }

    fn spawn(&self, more: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_ringtide"))
            .args(["run", "--config", self.config().to_str().unwrap(), "--endpoint-url", &self.endpoint])
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Asks for the worker's health as a container does, and returns the exit code.
    fn asked(&self) -> Option<i32> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringtide"));
        let url = format!("http://127.0.0.1:{}/healthz", self.pages);
        command.args(["health", "--url", &url]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().code()
    }

    /// Runs a worker that cannot start, and returns its exit code and what it said.
    async fn refused(&self) -> (Option<i32>, String) {
        let mut child = self.spawn(&["--log-format", "json"]);
        let mut words = child.stderr.take().unwrap();
        let code = ended(&mut Program::of(child)).await;
        let mut said = String::new();
        words.read_to_string(&mut said).unwrap();
        (code, said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_resumes_without_loss_and_a_stopped_one_frees_its_leases() {
    let world = World::new().await;
    world.create_table(true).await;
    let first = world.start(&["--owner", "one"]);
    world.cache_and_change("1").await;
    world.dropped("1").await;
    eventually("the worker is ready", || page(world.pages, "/readyz").is_some_and(|p| p.contains("200 OK"))).await;
    let healthz = page(world.pages, "/healthz").unwrap();
    assert!(healthz.contains("\"ok\":true") && healthz.contains("\"parking_fails\":false"), "{healthz}");
    assert_eq!(world.asked(), Some(0));
    let metrics = page(world.pages, "/metrics").unwrap();
    assert!(metrics.contains("ringtide_stream_records_total{table=\"products\"}"), "{metrics}");

    first.signal("KILL").unwrap();
    drop(first);
    assert_eq!(world.asked(), Some(1));
    for pk in ["2", "3", "4"] {
        world.cache_and_change(pk).await;
    }
    let mut second = world.start(&["--owner", "one"]);
    for pk in ["2", "3", "4"] {
        world.dropped(pk).await;
    }
    second.signal("TERM").unwrap();
    assert_eq!(ended(&mut second).await, Some(0));

    let leases = DynamoDbLeases::new(world.clients.tables.clone(), "ringtide-process-test");
    let leases = leases.list().await.unwrap();
    assert!(!leases.is_empty());
    for lease in leases {
        assert_eq!(lease.owner, None, "a successor can start at once");
        assert!(matches!(lease.checkpoint, Checkpoint::At(_)), "{lease:?}");
    }

    // A successor of another name goes on at once, after the checkpoint.
    let _third = world.start(&[]);
    world.cache_and_change("5").await;
    world.dropped("5").await;
}

/// Without the signal the file would be looked at in an hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_hung_up_on_lives_and_takes_the_rings_membership_at_once() {
    let world = World::new().await;
    world.create_table(true).await;
    let joining = ValkeyServer::start().unwrap();
    let seldom = "[delivery]\nwatch = \"1h\"\n";
    std::fs::write(world.config(), format!("{seldom}{}", world.text("products"))).unwrap();
    let mut worker = world.start(&[]);
    eventually("the worker is ready", || page(world.pages, "/readyz").is_some_and(|p| p.contains("200 OK"))).await;
    let shows = |metric: &str| page(world.pages, "/metrics").is_some_and(|page| page.contains(metric));

    std::fs::write(world.config(), "[ring").unwrap();
    worker.signal("HUP").unwrap();
    eventually("the bad file is counted", || shows("ringtide_delivery_ring_changes_total{outcome=\"unread\"} 1")).await;

    let joined = format!("[[ring.shards]]\nname = \"b\"\naddress = \"127.0.0.1:{}\"\n", joining.port());
    let text = format!("{seldom}[ring]\nepoch = 2\n{}{joined}", world.text("products"));
    std::fs::write(world.config(), text).unwrap();
    worker.signal("HUP").unwrap();
    eventually("the membership is taken", || shows("ringtide_delivery_ring_epoch 2")).await;

    worker.signal("TERM").unwrap();
    assert_eq!(ended(&mut worker).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_missing_or_without_stream_is_refused_with_the_remedy() {
    let world = World::new().await;
    let (code, said) = world.refused().await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("products") && said.contains("no such table"), "{said}");
    world.create_table(false).await;
    let (code, said) = world.refused().await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("update-table --table-name products"), "{said}");
}

/// What the Kinesis Client Library's adapter leaves behind when it followed this one stream.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_a_single_streams_application_is_taken_over_where_it_stands() {
    const LEASES: &str = "ringtide-process-test";
    let world = World::new().await;
    world.create_table(true).await;
    for pk in ["1", "2", "3"] {
        world.cache_and_change(pk).await;
    }
    let (tables, streams) = (&world.clients.tables, &world.clients.streams);
    let described = tables.describe_table().table_name("products").send().await.unwrap().table.unwrap();
    let arn = described.latest_stream_arn.unwrap();
    let stream = streams.describe_stream().stream_arn(&arn).send().await.unwrap().stream_description.unwrap();
    let shard = stream.shards.unwrap()[0].shard_id.clone().unwrap();
    let iterator = streams.get_shard_iterator().stream_arn(&arn).shard_id(&shard);
    let iterator = iterator.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
    let page = streams.get_records().set_shard_iterator(iterator.shard_iterator).send().await.unwrap();
    let second = page.records.unwrap()[1].dynamodb.clone().unwrap().sequence_number.unwrap();

    let application = DynamoDbLeases::new(tables.clone(), LEASES);
    application.prepare().await.unwrap();
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let number = |number: &str| AttributeValue::N(number.to_owned());
    let row = tables.put_item().table_name(LEASES).item("leaseKey", text(&shard)).item("checkpoint", text(&second));
    let row = row.item("checkpointSubSequenceNumber", number("0")).item("leaseCounter", number("41"));
    let row = row.item("ownerSwitchesSinceCheckpoint", number("0")).item("throughputKBps", number("3.5"));
    row.send().await.unwrap();
    let metrics = tables.put_item().table_name(LEASES).item("leaseKey", text("host:1")).item("x", text("y"));
    metrics.item("entityType", text("WORKER_METRICS")).send().await.unwrap();

    let mut worker = world.start(&[]);
    world.dropped("3").await;
    assert_eq!(world.server.ask(&["EXISTS", "product:2"]).unwrap(), "1", "it goes on after the checkpoint");
    world.cache_and_change("4").await;
    world.dropped("4").await;
    worker.signal("TERM").unwrap();
    assert_eq!(ended(&mut worker).await, Some(0));
    let rows = tables.scan().table_name(LEASES).send().await.unwrap().items.unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    let lease = rows.iter().find(|row| row["leaseKey"] == text(&shard)).expect("the row is still there");
    assert_eq!(lease["throughputKBps"], number("3.5"));
    assert_ne!(lease["checkpoint"], text(&second), "the way back goes on from here");
    assert!(!lease.contains_key("leaseOwner") && !lease.contains_key("streamName"), "{lease:?}");
}
