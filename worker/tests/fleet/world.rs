//! Tables, ring shards, the workers, and a proxy between each worker and everything it talks to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, StreamSpecification,
    StreamViewType,
};
use ringtide_core::config::{Aws, Config};
use ringtide_servers::{Emulator, Ministack, Proxy, ValkeyServer};
use ringtide_worker::aws::Clients;
use ringtide_worker::lease::{Checkpoint, DynamoDbLeases, Lease, LeaseStore};

use crate::LONG;
use crate::process::Process;

pub(crate) const LEASE_TIMEOUT: Duration = Duration::from_secs(3);
const APPLICATION: &str = "ringtide-fleet-test";
const RING_SHARDS: usize = 3;
pub(crate) const TABLES: usize = 6;
/// This table's route refreshes; the others' invalidate.
const REFRESHED: usize = 5;

pub(crate) struct World {
    pub(crate) tables: Client,
    pub(crate) sites: Vec<Site>,
    pub(crate) servers: Vec<ValkeyServer>,
    leases: DynamoDbLeases,
    url: String,
    folder: PathBuf,
    _emulator: Option<Emulator>,
    _ministack: Option<Ministack>,
}

/// What belongs to one worker.
pub(crate) struct Site {
    pub(crate) process: Option<Process>,
    pub(crate) dynamodb: Proxy,
    pub(crate) valkey: Vec<Proxy>,
    config: PathBuf,
    log: PathBuf,
    starts: usize,
}

pub(crate) fn table(n: usize) -> String {
    format!("table{n}")
}

impl World {
    pub(crate) async fn new(workers: usize, random: &mut fastrand::Rng) -> Self {
        let (mut emulator, mut ministack) = (None, None);
        let url = match super::text("RINGTIDE_FLEET_ENDPOINT").as_deref() {
            Some("ministack") => {
                let started = tokio::task::spawn_blocking(|| Ministack::start().unwrap()).await.unwrap();
                ministack.insert(started).url()
            }
            Some("emulator") | None => emulator.insert(Emulator::start().await.unwrap()).url().to_owned(),
            Some(other) => panic!("{other} is no endpoint of this test: emulator or ministack"),
        };
        let servers: Vec<ValkeyServer> = (0..RING_SHARDS).map(|_| ValkeyServer::start().unwrap()).collect();
        let tables = Clients::connect(&Aws { region: None, endpoint_url: Some(url.clone()) }).await.tables;
        let folder = std::env::temp_dir().join(format!("ringtide-fleet-{:016x}", random.u64(..)));
        std::fs::create_dir_all(&folder).unwrap();
        let mut sites = Vec::new();
        for worker in 0..workers {
            let dynamodb = Proxy::start(url.trim_start_matches("http://")).await.unwrap();
            let mut valkey = Vec::new();
            for server in &servers {
                valkey.push(Proxy::start(server.address()).await.unwrap());
            }
            let addresses: Vec<String> = valkey.iter().map(Proxy::address).collect();
            let config = folder.join(format!("worker{worker}.toml"));
            std::fs::write(&config, text(&format!("http://{}", dynamodb.address()), &addresses)).unwrap();
            let log = folder.join(format!("worker{worker}.log"));
            sites.push(Site { process: None, dynamodb, valkey, config, log, starts: 0 });
        }
        println!("what the workers say: {}", folder.display());
        let leases = DynamoDbLeases::new(tables.clone(), APPLICATION);
        Self { tables, sites, servers, leases, url, folder, _emulator: emulator, _ministack: ministack }
    }

    /// The readers' configuration: nothing stands between them and the servers.
    pub(crate) fn readers(&self) -> Config {
        let addresses: Vec<String> = self.servers.iter().map(ValkeyServer::address).collect();
        Config::parse(&text(&self.url, &addresses), []).unwrap()
    }

    pub(crate) async fn create_tables(&self) {
        for n in 0..TABLES {
            let key = AttributeDefinition::builder().attribute_name("pk").attribute_type(ScalarAttributeType::S);
            let view = if n == REFRESHED { StreamViewType::NewAndOldImages } else { StreamViewType::KeysOnly };
            let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(view).build().unwrap();
            self.tables
                .create_table()
                .table_name(table(n))
                .billing_mode(BillingMode::PayPerRequest)
                .attribute_definitions(key.build().unwrap())
                .key_schema(KeySchemaElement::builder().attribute_name("pk").key_type(KeyType::Hash).build().unwrap())
                .stream_specification(stream)
                .send()
                .await
                .unwrap();
        }
    }

    /// Starts a worker under a new name.
    pub(crate) fn start(&mut self, worker: usize) {
        let site = &mut self.sites[worker];
        site.starts += 1;
        let owner = format!("worker{worker}.{}", site.starts);
        site.process = Some(Process::start(&site.config, &owner, &site.log));
    }

    /// The leases that somebody is to read.
    async fn open_leases(&self) -> Vec<Lease> {
        let Ok(leases) = self.leases.list().await else { return Vec::new() };
        leases.into_iter().filter(|lease| lease.checkpoint != Checkpoint::ShardEnd).collect()
    }

    /// Waits until each running worker has its fair share, and tells how long it took.
    pub(crate) async fn until_balanced(&mut self) -> Duration {
        let began = Instant::now();
        loop {
            for site in &mut self.sites {
                if let Some(process) = &mut site.process {
                    assert!(process.runs(), "{} has ended by itself: {}", process.owner, site.log.display());
                }
            }
            let owners: BTreeSet<&str> =
                self.sites.iter().filter_map(|site| site.process.as_ref()).map(|process| &*process.owner).collect();
            let leases = self.open_leases().await;
            let mut shares: BTreeMap<&str, usize> = owners.iter().map(|owner| (*owner, 0)).collect();
            let mut settled = leases.len() == TABLES;
            for lease in &leases {
                let share = lease.owner.as_ref().and_then(|owner| shares.get_mut(owner.as_str()));
                settled &= lease.leaving.is_none() && share.is_some();
                if let Some(share) = share {
                    *share += 1;
                }
            }
            let (most, least) = (shares.values().max().unwrap(), shares.values().min().unwrap());
            if settled && most - least <= 1 {
                return began.elapsed();
            }
            assert!(began.elapsed() < LONG, "the shares do not become equal: {shares:?}, {leases:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until others have taken every lease that an owner had, and tells how long it took.
    pub(crate) async fn until_taken_over(&self, owner: &str) -> Duration {
        let began = Instant::now();
        loop {
            let leases = self.open_leases().await;
            let left = leases.iter().any(|lease| lease.holder().is_none_or(|holder| holder.as_str() == owner));
            if !left && !leases.is_empty() {
                return began.elapsed();
            }
            assert!(began.elapsed() < LONG, "nobody takes over from {owner}: {leases:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops all workers in order.
    pub(crate) async fn end(&mut self) {
        for site in &mut self.sites {
            if let Some(process) = site.process.take() {
                process.signal("TERM");
                assert_eq!(process.ended().await.code(), Some(0));
            }
        }
        assert!(self.open_leases().await.iter().all(|lease| lease.owner.is_none()), "all leases were given back");
        // What went wrong can be read up in them, so only a good end takes them away.
        let _left_behind = std::fs::remove_dir_all(&self.folder);
    }
}

fn text(endpoint: &str, addresses: &[String]) -> String {
    let mut text = format!(
        r#"
        [aws]
        endpoint_url = "{endpoint}"
        [worker]
        application = "{APPLICATION}"
        listen = ""
        idle_poll = "100ms"
        checkpoint_interval = "200ms"
        lease_timeout = "{}ms"
        "#,
        LEASE_TIMEOUT.as_millis()
    );
    for (n, address) in addresses.iter().enumerate() {
        text += &format!("[[ring.shards]]\nname = \"s{n}\"\naddress = \"{address}\"\n");
    }
    for n in 0..TABLES {
        text += &format!("[spaces.{0}]\nkey = \"{0}:{{pk}}\"\nlocal = \"off\"\n", table(n));
        if n == REFRESHED {
            text += "mode = \"versioned\"\nversion_attribute = \"rev\"\n";
        }
    }
    for n in 0..TABLES {
        text += &format!("[[routes]]\ntable = \"{0}\"\nspace = \"{0}\"\n", table(n));
        if n == REFRESHED {
            text += "action = \"refresh\"\n";
        }
    }
    text
}
