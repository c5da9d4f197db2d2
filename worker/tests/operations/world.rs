//! A table with a stream, ring shards, a configuration, and the binary.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, StreamViewType};
use bytes::Bytes;
use ringtide_core::config::{Config, Valkey};
use ringtide_core::entry::{Codec, Entry, Header};
use ringtide_core::key::CacheKey;
use ringtide_core::ring::{Ring, ShardSpec};
use ringtide_core::valkey::{Fill, LeaseReply, LeaseRequest, Shard, Token};
use ringtide_core::version::Version;
use ringtide_servers::{Emulator, Program, ValkeyServer, create_table};
use ringtide_worker::aws::Clients;
use ringtide_worker::lease::{DynamoDbLeases, Lease, LeaseStore};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const APPLICATION: &str = "ringtide-operations-test";

/// Key spaces and routes: one for readers' values, one of images, one with versions, one that many items feed.
const SPACES: &str = r#"
[spaces.product]
key = "product:{pk}"
[spaces.page]
key = "page:{pk}"
[spaces.price]
key = "price:{pk}"
mode = "versioned"
version_attribute = "version"
[spaces.category]
key = "category:{category}:top"

[[routes]]
table = "products"
space = "product"
[[routes]]
table = "products"
space = "page"
action = "refresh"
[[routes]]
table = "products"
space = "price"
[[routes]]
table = "products"
space = "category"
"#;

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) said: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    assert!(ringtide_servers::eventually(PATIENCE, holds).await, "never came true: {what}");
}

pub(crate) struct World {
    pub(crate) endpoint: String,
    pub(crate) clients: Clients,
    pub(crate) servers: Vec<ValkeyServer>,
    _dynamodb: Emulator,
    folder: tempfile::TempDir,
}

impl World {
    /// Two ring shards, and the table `products` with both images in its stream.
    pub(crate) async fn new() -> Self {
        let dynamodb = Emulator::start().await.unwrap();
        let endpoint = dynamodb.url().to_owned();
        let aws = ringtide_core::config::Aws { region: None, endpoint_url: Some(endpoint.clone()) };
        let clients = Clients::connect(&aws).await;
        let servers = (0..2).map(|_| ValkeyServer::start().unwrap()).collect();
        let folder = tempfile::tempdir().unwrap();
        let world = Self { endpoint, clients, servers, _dynamodb: dynamodb, folder };
        std::fs::write(world.path("ringtide.toml"), world.text()).unwrap();
        create_table(&world.clients.tables, "products", "pk", Some(StreamViewType::NewAndOldImages)).await.unwrap();
        world
    }

    /// Adds key spaces and routes to the configuration.
    pub(crate) fn configure(&self, more: &str) {
        std::fs::write(self.path("ringtide.toml"), format!("{}{more}", self.text())).unwrap();
    }

    fn text(&self) -> String {
        let shard = |(n, server): (usize, &ValkeyServer)| {
            format!("[[ring.shards]]\nname = \"s{n}\"\naddress = \"{}\"\n", server.address())
        };
        let shards: String = self.servers.iter().enumerate().map(shard).collect();
        let worker = format!(
            "[worker]\napplication = \"{APPLICATION}\"\nlisten = \"\"\nidle_poll = \"50ms\"\n\
             max_reads_per_second = 100\ncheckpoint_interval = \"50ms\"\nlease_timeout = \"2s\"\n"
        );
        format!("aws = {{ endpoint_url = \"{}\" }}\n{worker}{shards}{SPACES}", self.endpoint)
    }

    pub(crate) fn config(&self) -> Config {
        Config::parse(&self.text(), []).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes an item; its version is its price.
    pub(crate) async fn put(&self, pk: &str, price: u64) {
        let number = || AttributeValue::N(price.to_string());
        let put = self.clients.tables.put_item().table_name("products");
        put.item("pk", AttributeValue::S(pk.to_owned()))
            .item("price", number())
            .item("version", number())
            .item("category", AttributeValue::S("tea".to_owned()))
            .send()
            .await
            .unwrap();
    }

    pub(crate) async fn delete(&self, pk: &str) {
        let delete = self.clients.tables.delete_item().table_name("products");
        delete.key("pk", AttributeValue::S(pk.to_owned())).send().await.unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringtide"));
        command.args(arguments).args(["--config", self.path("ringtide.toml").to_str().unwrap()]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Answer {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        Answer {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            said: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts a command that goes on.
    pub(crate) fn start(&self, arguments: &[&str]) -> Program {
        Program::of(self.command(arguments).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    pub(crate) async fn leases(&self) -> Vec<Lease> {
        let store = DynamoDbLeases::new(self.clients.tables.clone(), APPLICATION);
        store.list().await.unwrap_or_default()
    }

    fn owner(&self, key: &str) -> usize {
        let ring = Ring::new(self.config().ring).unwrap();
        ring.locate(key.as_bytes()).index()
    }

    /// Caches something where an invalidation finds it.
    pub(crate) fn cache_anything(&self, key: &str) {
        assert_eq!(self.servers[self.owner(key)].ask(&["SET", key, "old"]).unwrap(), "OK");
    }

    pub(crate) fn is_cached(&self, key: &str) -> bool {
        self.servers[self.owner(key)].ask(&["EXISTS", key]).unwrap() == "1"
    }

    pub(crate) async fn dropped(&self, key: &str) {
        eventually(&format!("{key} is dropped"), async || !self.is_cached(key)).await;
    }

    async fn shard(&self, index: usize) -> Shard {
        let spec = ShardSpec { name: format!("s{index}").into(), address: self.servers[index].address(), weight: 1 };
        let options = Valkey { command_timeout: Duration::from_secs(10), ..Valkey::default() };
        let shard = Shard::connect(&spec, &options).unwrap();
        shard.ready(PATIENCE).await.unwrap();
        shard
    }

    /// Fills an entry as a reader does, on the ring shard that owns it.
    pub(crate) async fn fill(&self, key: &str, version: Option<u128>, payload: Option<&str>) {
        self.fill_on(self.owner(key), key, version, payload).await;
    }

    /// Fills an entry on another ring shard than its owner.
    pub(crate) async fn misplace(&self, key: &str, payload: &str) {
        self.fill_on(1 - self.owner(key), key, None, Some(payload)).await;
    }

    async fn fill_on(&self, shard: usize, key: &str, version: Option<u128>, payload: Option<&str>) {
        let shard = self.shard(shard).await;
        let key = CacheKey::new(key).unwrap();
        let token = Token::random();
        let request = LeaseRequest { token, ttl: Duration::from_secs(10), inbox: None, refresh_before_ms: u64::MAX };
        let LeaseReply::Granted { floor, .. } = shard.lease(&key, &request).await.unwrap() else {
            panic!("{key} is leased or cached");
        };
        let version = version.map_or(Version::NONE, Version::from_number);
        let header = if payload.is_some() { Header::value(Codec::Json) } else { Header::negative() };
        let payload = Bytes::from(payload.unwrap_or_default().to_owned());
        let entry = Entry { header: Header { version, ..header }, payload }.to_bytes();
        let ttl = Duration::from_secs(600);
        shard.fill(&key, &Fill { token, version, proven: floor, ttl, entry, inline_max: 0 }).await.unwrap();
    }

    /// The payload of an entry; `None` where none is cached.
    pub(crate) async fn payload(&self, key: &str) -> Option<String> {
        Some(String::from_utf8(self.entry(key).await?.payload.to_vec()).unwrap())
    }

    /// The entry under a key of ours; `None` where none is cached.
    pub(crate) async fn entry(&self, key: &str) -> Option<Entry> {
        let shard = self.shard(self.owner(key)).await;
        Some(Entry::parse(&shard.get(&CacheKey::new(key).unwrap()).await.unwrap()?).unwrap())
    }

    /// Waits until a worker delivers.
    pub(crate) async fn delivering(&self) {
        self.cache_anything("product:probe");
        self.put("probe", 1).await;
        self.dropped("product:probe").await;
    }
}
