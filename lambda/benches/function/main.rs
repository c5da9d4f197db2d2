//! The function as a process behind a Runtime API: `cargo bench -p ringtide-lambda`.
//!
//! - exec to the first request for an event, without and with encryption configured
//! - resident memory after 100 events of 500 records
//! - the size of the packed program
//! - 500 records, of which 10% are cached, on three loopback servers: the ratio to the obvious handler, taking turns.
//!   The obvious one decodes the whole batch with `aws_lambda_events` and sends one `UNLINK` a record; it is this very
//!   program in another role.
//!
//! `ROUNDS` is the number of events each handler is given in one run (40), `RUNS` the number of runs (3).

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod obvious;
#[path = "../../tests/function/sandbox.rs"]
#[allow(dead_code)]
mod sandbox;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ringtide_core::ring::Ring;
use ringtide_servers::{ValkeyServer, number};
use sandbox::{LONG, Sandbox, Start};
use serde_json::{Value, json};

const BOOTSTRAP: &str = env!("CARGO_BIN_EXE_bootstrap");
const RECORDS: usize = 500;
const CACHED: usize = 50;

fn main() {
    if std::env::var_os(obvious::ROLE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(obvious::run()).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure());
}

fn config(servers: &[ValkeyServer]) -> String {
    let shard = |(n, server): (usize, &ValkeyServer)| {
        format!("[[ring.shards]]\nname = \"s{n}\"\naddress = \"{}\"\n", server.address())
    };
    let shards: String = servers.iter().enumerate().map(shard).collect();
    format!(
        "{shards}[spaces.product]\nkey = \"product:{{pk}}\"\n[[routes]]\ntable = \"products\"\nspace = \"product\"\n"
    )
}

/// A batch of changes with both images, about 1 KB a record.
fn event() -> String {
    let image = |n: usize, rev: usize| {
        json!({
            "pk": { "S": n.to_string() }, "rev": { "N": rev.to_string() }, "category": { "S": "tea" },
            "name": { "S": "Green tea, first flush, loose leaves" }, "price": { "N": "12.50" },
            "tags": { "SS": ["green", "loose", "first"] }, "stock": { "M": { "berlin": { "N": "3" }, "porto": { "N": "7" } } },
            "text": { "S": "x".repeat(200) }
        })
    };
    let record = |n: usize| {
        json!({
            "eventID": format!("{n:032x}"), "eventName": "MODIFY", "eventVersion": "1.1", "eventSource": "aws:dynamodb",
            "awsRegion": "us-east-1",
            "dynamodb": {
                "ApproximateCreationDateTime": 1_767_323_100, "Keys": { "pk": { "S": n.to_string() } },
                "OldImage": image(n, 1), "NewImage": image(n, 2), "SizeBytes": 900, "StreamViewType": "NEW_AND_OLD_IMAGES",
                "SequenceNumber": format!("{}", 800_000_000_003_126_276_362_u128 + n as u128)
            },
            "eventSourceARN": "arn:aws:dynamodb:us-east-1:123456789012:table/products/stream/2026-01-02T03:04:05.678"
        })
    };
    json!({ "Records": (0..RECORDS).map(record).collect::<Vec<Value>>() }).to_string()
}

async fn start(program: &Path, config: &str, role: Option<&str>) -> Sandbox {
    let mut env = vec![("RINGTIDE_CONFIG_TEXT", config), ("RINGTIDE_LOG", "info")];
    env.extend(role.map(|role| (obvious::ROLE, role)));
    Sandbox::start(Start { program, env: &env, extensions: true }).await
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}

async fn first_next(config: &str, role: Option<&str>) -> Duration {
    let program = if role.is_some() { std::env::current_exe().unwrap() } else { PathBuf::from(BOOTSTRAP) };
    let mut taken = Vec::new();
    for _ in 0..31 {
        taken.push(start(&program, config, role).await.ready().await);
    }
    median(taken)
}

/// Packs the program as it is deployed, at deflate's highest level.
fn packed() -> usize {
    let gzip = Command::new("gzip").args(["-9", "-c", BOOTSTRAP]).stderr(Stdio::inherit()).output().unwrap();
    assert!(gzip.status.success());
    gzip.stdout.len()
}

async fn measure() {
    let servers: Vec<ValkeyServer> = (0..3).map(|_| ValkeyServer::start().unwrap()).collect();
    let config = config(&servers);
    let event = event();
    let program = Path::new(BOOTSTRAP);
    let size = std::fs::metadata(program).unwrap().len();
    println!("program: {:.2} MB, packed {:.2} MB", size as f64 / 1e6, packed() as f64 / 1e6);

    let plain = first_next(&config, None).await;
    let encrypted = first_next(&format!("valkey = {{ tls = true }}\n{config}"), None).await;
    let obvious = first_next(&config, Some("obvious")).await;
    println!("exec to first next: {plain:?}, with encryption {encrypted:?}, the obvious handler {obvious:?}");

    let mut sandbox = start(program, &config, None).await;
    sandbox.ready().await;
    let begun = sandbox.resident_kib();
    let mut taken = Vec::new();
    for _ in 0..100 {
        let answered = sandbox.invoke(&event, LONG).await;
        assert_eq!(answered.body, r#"{"batchItemFailures":[]}"#);
        taken.push(answered.took);
    }
    let resident = sandbox.resident_kib();
    println!(
        "resident: {begun} KiB at start, {resident} KiB after 100 events of {RECORDS} records, {:?} each",
        median(taken)
    );
    let mut small = Vec::new();
    let one = json!({ "Records": [serde_json::from_str::<Value>(&event).unwrap()["Records"][0]] }).to_string();
    for _ in 0..200 {
        small.push(sandbox.invoke(&one, LONG).await.took);
    }
    println!("one record: {:?}", median(small));
    drop(sandbox);

    for run in 1..=number("RUNS").unwrap_or(3) {
        let (ours, other) = compare(&servers, &config, &event).await;
        let ratio = ours.as_secs_f64() / other.as_secs_f64();
        println!(
            "run {run}: {RECORDS} records, {CACHED} cached: {ours:?}, the obvious handler {other:?}, ratio {ratio:.2}"
        );
    }
}

async fn compare(servers: &[ValkeyServer], config: &str, event: &str) -> (Duration, Duration) {
    let ring = Ring::new(ringtide_core::config::Config::parse(config, []).unwrap().ring).unwrap();
    let mut connections = Vec::new();
    for server in servers {
        let client = redis::Client::open(format!("redis://{}/", server.address())).unwrap();
        connections.push(client.get_multiplexed_async_connection().await.unwrap());
    }
    let own = std::env::current_exe().unwrap();
    let mut sandboxes = [start(Path::new(BOOTSTRAP), config, None).await, start(&own, config, Some("obvious")).await];
    let mut taken = [Vec::new(), Vec::new()];
    for round in 0..number("ROUNDS").unwrap_or(40) + 5 {
        for turn in 0..2 {
            let who = usize::from((round + turn) % 2 == 1);
            for n in 0..CACHED {
                let key = format!("product:{}", n * RECORDS / CACHED);
                let connection = &mut connections[ring.locate(key.as_bytes()).index()];
                redis::cmd("SET").arg(&key).arg("x".repeat(300)).exec_async(connection).await.unwrap();
            }
            let answered = sandboxes[who].invoke(event, LONG).await;
            assert!(answered.ok, "{answered:?}");
            for connection in &mut connections {
                let left: u64 = redis::cmd("DBSIZE").query_async(connection).await.unwrap();
                assert_eq!(left, 0, "every cached key is dropped");
            }
            // The first rounds warm both up.
            if round >= 5 {
                taken[who].push(answered.took);
            }
        }
    }
    let [ours, other] = taken;
    (median(ours), median(other))
}
