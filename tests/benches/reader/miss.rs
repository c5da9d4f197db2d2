//! What a leased miss costs its caller, in round trips: the servers are behind a proxy that delays every byte.
//!
//! A round trip is what a raw client's `GET` takes through the same proxy, and the load what it takes to wait for it: a
//! delay is never exactly as long as it was asked for.

use std::time::{Duration, Instant};

use ringtide::{Cache, LocalTier, SpaceSettings};
use ringtide_servers::{Direction, Flow, Proxy, ValkeyServer};

const ROUND_TRIP: Duration = Duration::from_millis(40);
const LOAD: Duration = Duration::from_millis(20);

pub(crate) async fn run() {
    let server = ValkeyServer::start().unwrap();
    let proxy = Proxy::start(server.address()).await.unwrap();
    let cache = Cache::builder()
        .shard("a", proxy.address())
        .space(SpaceSettings::new("product", "product:{pk}").local(LocalTier::Off))
        .build()
        .await
        .unwrap();
    let products = cache.space::<u64>("product").unwrap();
    let load = || async {
        tokio::time::sleep(LOAD).await;
        Ok::<_, std::io::Error>(Some(7_u64))
    };
    products.get_or_load(0, load).await.unwrap();
    for direction in [Direction::ToServer, Direction::ToClient] {
        proxy.set(direction, Flow::Delayed(ROUND_TRIP / 2));
    }
    let client = redis::Client::open(format!("redis://{}", proxy.address())).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    let (mut trips, mut loads, mut misses) = (Vec::new(), Vec::new(), Vec::new());
    for n in 1..=15_u64 {
        trips.push(timed(redis::cmd("GET").arg("nothing").query_async::<Option<String>>(&mut raw)).await);
        loads.push(timed(load()).await);
        misses.push(timed(products.get_or_load(n, load)).await);
    }
    let (trip, load, miss) = (median(trips), median(loads), median(misses));
    let trips = (miss - load) / trip;
    println!("\na leased miss, round trips before its caller has the value, besides the load");
    println!("  {trips:.2}   goal 2: {}", if trips <= 2.1 { "met" } else { "missed" });
}

/// How long a call takes, in seconds.
async fn timed<T, E: std::fmt::Debug>(call: impl Future<Output = Result<T, E>>) -> f64 {
    let began = Instant::now();
    call.await.unwrap();
    began.elapsed().as_secs_f64()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
