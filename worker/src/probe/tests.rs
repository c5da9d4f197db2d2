use std::collections::BTreeSet;

use ringtide_core::ring::{Membership, Placement, ShardSpec};
use ringtide_core::route::Router;
use ringtide_servers::{Emulator, ValkeyServer};

use super::*;
use crate::worker::{RunningWorker, Worker};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(endpoint: &str, addresses: &[String], timeout: &str) -> Config {
    let shards: String = addresses
        .iter()
        .enumerate()
        .map(|(n, address)| format!("[[ring.shards]]\nname = \"s{n}\"\naddress = \"{address}\"\n"))
        .collect();
    let text = format!(
        "aws = {{ endpoint_url = \"{endpoint}\" }}\n[worker]\napplication = \"ringtide-probes\"\nlisten = \"127.0.0.1:0\"\n\
         idle_poll = \"20ms\"\nmax_reads_per_second = 100\n[probe]\ntable = \"probes\"\ninterval = \"200ms\"\ntimeout = \"{timeout}\"\n\
         {shards}"
    );
    Config::parse(&text, []).unwrap()
}

async fn start(config: &Config) -> RunningWorker {
    Worker::connect(config).await.unwrap().start(config).await.unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn there_is_a_key_for_every_ring_shard_under_every_placement() {
    let config = config("http://127.0.0.1:1", &["127.0.0.1:1".to_owned()], "1s");
    let config = routed(&config);
    let space = &config.routes[0].space;
    for placement in [Placement::Ringtide, Placement::Skipper, Placement::GoRedis] {
        let shard =
            |n: u32| ShardSpec { name: format!("shard-{n}").as_str().into(), address: format!("h:{n}"), weight: 1 };
        let membership = Membership { epoch: 1, changed_at_ms: 0, placement, shards: (0..40).map(shard).collect() };
        let ring = Ring::new(membership).unwrap();
        let keys: BTreeSet<_> = ring
            .shards()
            .iter()
            .map(|shard| {
                let (item, key) = target::key_on(&ring, space, shard).unwrap();
                assert_eq!(ring.owner(key.as_bytes()).name, shard.name);
                assert_eq!(key.as_str(), format!("ringtide-probe:{item}"));
                item
            })
            .collect();
        assert_eq!(keys.len(), 40);
    }
}

#[test]
fn without_probes_nothing_is_routed() {
    let plain = Config { probe: None, ..config("http://127.0.0.1:1", &["127.0.0.1:1".to_owned()], "1s") };
    assert_eq!(Router::new(routed(&plain).routes.clone()).tables().count(), 0);
}

#[test]
fn the_table_of_probes_keeps_no_other_from_being_the_only_one() {
    let config = config("http://127.0.0.1:1", &["127.0.0.1:1".to_owned()], "1s");
    let mut routes = routed(&config).routes.clone();
    let only = |routes: &[Route]| {
        crate::supervisor::only_table(&Router::new(routes.to_vec()), config.probe.as_ref())
            .map(|table| table.to_string())
    };
    assert_eq!(only(&routes), None, "it is nobody's");
    routes.push(Route { table: "products".to_owned(), ..routes[0].clone() });
    assert_eq!(only(&routes).as_deref(), Some("products"));
    routes.push(Route { table: "orders".to_owned(), ..routes[0].clone() });
    assert_eq!(only(&routes), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_of_each_ring_shard_is_measured_and_one_that_is_down_is_told() {
    let dynamodb = Emulator::start().await.unwrap();
    let mut servers = [ValkeyServer::start().unwrap(), ValkeyServer::start().unwrap()];
    let addresses: Vec<String> = servers.iter().map(ValkeyServer::address).collect();
    let worker = start(&config(dynamodb.url(), &addresses, "5s")).await;
    let measured = |health: &Health| {
        let probes = health.snapshot().probes;
        probes.iter().filter(|probe| probe.lag_s.is_some() && probe.failing.is_none()).count()
    };
    until("both ring shards are measured", || measured(worker.health()) == 2).await;
    for probe in worker.health().snapshot().probes {
        let lag = probe.lag_s.unwrap();
        assert!(lag > 0.0 && lag < 5.0, "{probe:?}");
    }
    until("all is well", || worker.health().ready().ok && worker.health().ready().warnings.is_empty()).await;

    servers[1].kill();
    until("the one that is down is told", || {
        worker.health().ready().warnings.iter().any(|why| why.contains("ring shard s1"))
    })
    .await;
    assert!(worker.health().live().ok, "a restart of the worker does not mend it: {:?}", worker.health().live());
    servers[1].restart().unwrap();
    until("it is measured again", || measured(worker.health()) == 2 && worker.health().ready().warnings.is_empty())
        .await;
    worker.shutdown();
    worker.join().await.unwrap();
}

/// A pipeline that takes everything and delivers nothing, as a bug might make one.
struct Swallowing(Arc<Ring>);

#[async_trait::async_trait]
impl Deliver for Swallowing {
    async fn submit(
        &self,
        _: Vec<Result<ringtide_core::record::ChangeRecord, ringtide_core::record::UnreadableRecord>>,
        _: u64,
    ) -> crate::deliver::Delivery {
        Box::pin(std::future::ready(Ok(())))
    }

    async fn flush_table(&self, _: &str) -> crate::deliver::Delivery {
        Box::pin(std::future::ready(Ok(())))
    }

    fn unhealthy(&self) -> Vec<String> {
        Vec::new()
    }

    fn parking_fails(&self) -> bool {
        false
    }

    fn held_up(&self) -> bool {
        false
    }

    fn ring(&self) -> Option<Arc<Ring>> {
        Some(Arc::clone(&self.0))
    }

    async fn close(&self, _: Instant) -> usize {
        0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_not_invalidated_is_an_error() {
    let dynamodb = Emulator::start().await.unwrap();
    let server = ValkeyServer::start().unwrap();
    let config = config(dynamodb.url(), &[server.address()], "300ms");
    let mut worker = Worker::connect(&config).await.unwrap();
    worker.deliver = Arc::new(Swallowing(Arc::new(Ring::new(config.ring.clone()).unwrap())));
    let worker = worker.start(&config).await.unwrap();
    until("the failure is told", || {
        worker.health().ready().warnings.iter().any(|why| why.contains("s0") && why.contains("not invalidated within"))
    })
    .await;
    worker.shutdown();
    worker.join().await.unwrap();
}
