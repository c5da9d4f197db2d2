//! Memberships that change under invalidators first and readers last, while items are written.

use std::path::PathBuf;

use ringtide_core::pipeline::{Connected, Services, Ticket};
use ringtide_core::ring::Ring;

use super::*;

/// A pipeline that follows a file.
struct Invalidator {
    pipeline: Pipeline,
    path: PathBuf,
    _home: tempfile::TempDir,
}

const REST: &str = "[spaces.item]\nkey = \"item:{pk}\"\n[[routes]]\ntable = \"items\"\nspace = \"item\"\n\
                    [valkey]\ncommand_timeout = \"10s\"\n[delivery]\nwatch = \"10ms\"\n";

impl Invalidator {
    async fn start(ring: &str, rest: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("ringtide.toml");
        std::fs::write(&path, format!("{ring}\n{rest}")).unwrap();
        let config = Config::load(&path, []).unwrap();
        let Connected { pipeline, shards } = Pipeline::connect(&config, Services::default()).unwrap();
        for shard in &shards {
            shard.ready(LONG).await.unwrap();
        }
        Self { pipeline, path, _home: home }
    }

    /// Writes a ring into the file.
    fn offer(&self, ring: &str, rest: &str) {
        let next = self.path.with_extension("next");
        std::fs::write(&next, format!("{ring}\n{rest}")).unwrap();
        std::fs::rename(next, &self.path).unwrap();
    }

    async fn take(&self, epoch: u64, servers: &[(&str, &Server)]) {
        self.offer(&ring_text(epoch, servers), REST);
        tokio::time::timeout(LONG, self.pipeline.ring_taken(epoch)).await.expect("it is taken and flushed");
    }
}

/// The entries of a server, by row.
async fn entries(server: &Server) -> Vec<u64> {
    let names = server.shard().await.keys("item:").await.unwrap();
    names.iter().map(|name| name.trim_start_matches("item:").parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_that_join_leave_move_and_return_under_writes_leave_nothing_stale() {
    let servers = [Server::start().await, Server::start().await, Server::start().await, Server::start().await];
    let [a, b, c, d] = &servers;
    let rings: [&[(&str, &Server)]; 6] = [
        &[("a", a), ("b", b)],
        &[("a", a), ("b", b), ("c", c)],
        &[("b", b), ("c", c)],
        &[("a", a), ("b", b), ("c", c)],
        // At another address.
        &[("a", d), ("b", b), ("c", c)],
        &[("a", a), ("b", b)],
    ];
    let (table, delivered) = (Table::new(), Table::new());
    // What was left on a server by those who used it long ago.
    let long_ago = on(&ring(1, &[("c", c)])).build().await.unwrap();
    table.read_all(&long_ago).await;
    long_ago.close().await;
    (0..KEYS).for_each(|row| table.write(row, 1));

    let invalidator = Invalidator::start(&ring_text(1, rings[0]), REST).await;
    let caches = [on(&ring(1, rings[0])).build().await.unwrap(), on(&ring(1, rings[0])).build().await.unwrap()];
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (pipeline, table, delivered, stop) =
            (invalidator.pipeline.clone(), table.clone(), delivered.clone(), stop.clone());
        async move {
            let mut value = 1;
            while !stop.load(Ordering::SeqCst) {
                let mut page = Vec::new();
                for _ in 0..5 {
                    value += 1;
                    let row = fastrand::u64(..KEYS);
                    table.write(row, value);
                    page.push((row, value));
                }
                let ticket: Ticket = pipeline.submit(page.iter().map(|(row, _)| record(*row)).collect(), 0).await;
                tokio::time::timeout(LONG, ticket).await.expect("no ticket hangs").expect("no ticket is lost");
                page.into_iter().for_each(|(row, value)| delivered.write(row, value));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            value
        }
    });
    let readers: Vec<_> = (0..8)
        .map(|seed| {
            let (cache, table) = (caches[seed as usize % 2].clone(), table.clone());
            let (delivered, stop) = (delivered.clone(), stop.clone());
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut reads = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    let row = random.u64(..KEYS);
                    let at_least = delivered.now(row);
                    let read = table.read(&cache, row).await;
                    assert!(read >= at_least, "{row}: {read} was read after {at_least} was delivered");
                    reads += 1;
                    tokio::task::yield_now().await;
                }
                reads
            })
        })
        .collect();
    for (epoch, members) in (1_u64..).zip(rings).skip(1) {
        invalidator.take(epoch, members).await;
        if epoch == 2 {
            // Nobody reads from it yet, so the invalidator has flushed it.
            assert_eq!(entries(c).await, Vec::<u64>::new());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Readers follow one after another.
        for cache in &caches {
            change(cache, ring(epoch, members)).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    let writes = writer.await.unwrap();
    let mut reads = 0;
    for reader in readers {
        reads += reader.await.unwrap();
    }
    for cache in &caches {
        cache.settled().await;
        let now: Vec<u64> = (0..KEYS).map(|row| table.now(row)).collect();
        assert_eq!(table.read_all(cache).await, now, "0 stale");
    }
    println!("{writes} writes, {reads} reads, {} loads", table.loads());
    assert_eq!(invalidator.pipeline.shutdown(Instant::now() + LONG).await, 0);
}

#[tokio::test]
async fn a_bad_membership_is_refused_and_the_old_one_goes_on() {
    let (a, b) = (Server::start().await, Server::start().await);
    let invalidator = Invalidator::start(&ring_text(5, &[("a", &a)]), REST).await;
    let pipeline = &invalidator.pipeline;
    let first = pipeline.ring();
    assert!(matches!(pipeline.change_ring(first.clone()).await, Ok(ringtide_core::pipeline::RingChange::Unchanged)));
    let bad = [
        ring(4, &[("b", &b)]),
        ring(5, &[("b", &b)]),
        ring(6, &[]),
        ring(6, &[("a", &a), ("a", &b)]),
        Membership {
            shards: vec![ShardSpec { address: "redis://host/0/what".to_owned(), ..spec("b", &b) }],
            ..ring(6, &[])
        },
    ];
    for membership in bad {
        let refused = pipeline.change_ring(membership.clone()).await;
        assert!(refused.is_err(), "{membership:?} was taken");
    }
    // A file that is no configuration, then none, then one that is.
    invalidator.offer("[ring]\nepoch = \"six\"", REST);
    tokio::time::sleep(Duration::from_millis(50)).await;
    std::fs::remove_file(&invalidator.path).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(pipeline.ring(), first);
    assert_eq!(pipeline.deliver(&[record(1)], Instant::now() + LONG).await.first_undelivered, None);
    invalidator.take(7, &[("a", &a), ("b", &b)]).await;
}

#[tokio::test]
async fn a_dead_shard_that_has_left_holds_tickets_for_the_window_and_no_longer() {
    let (a, mut b) = (Server::start().await, Server::start().await);
    let rest = "[spaces.item]\nkey = \"item:{pk}\"\nttl = \"1s\"\nnegative_ttl = \"1s\"\n\
                [[routes]]\ntable = \"items\"\nspace = \"item\"\n\
                [delivery]\nwatch = \"10ms\"\n\
                [reader]\nload_timeout = \"250ms\"\nlease_ttl = \"100ms\"\nwatch = \"100ms\"\n";
    let invalidator = Invalidator::start(&ring_text(1, &[("a", &a), ("b", &b)]), rest).await;
    let pipeline = &invalidator.pipeline;
    b.kill();
    invalidator.offer(&ring_text(2, &[("a", &a)]), rest);
    tokio::time::timeout(LONG, pipeline.ring_taken(2)).await.unwrap();
    let ticket = pipeline.submit((0..KEYS).map(record).collect(), 0).await;
    let started = Instant::now();
    tokio::time::timeout(LONG, ticket).await.expect("the window ends").expect("no ticket is lost");
    let window = Duration::from_millis(Config::load(&invalidator.path, []).unwrap().ring_window_ms());
    assert!(window < Duration::from_secs(4), "{window:?}");
    assert!(started.elapsed() + Duration::from_millis(500) > window / 2, "{:?} of {window:?}", started.elapsed());
    until("that nobody waits for it", async || pipeline.unhealthy().is_empty() && pipeline.pending() == 0).await;
    // It comes back with what it has, and is flushed.
    b.restart().await;
    let before = on(&ring(1, &[("b", &b)])).build().await.unwrap();
    Table::new().read_all(&before).await;
    assert_eq!(entries(&b).await.len() as u64, KEYS);
    invalidator.offer(&ring_text(3, &[("a", &a), ("b", &b)]), rest);
    tokio::time::timeout(LONG, pipeline.ring_taken(3)).await.unwrap();
    assert_eq!(entries(&b).await, Vec::<u64>::new());
}

#[tokio::test]
async fn an_invalidator_that_starts_anew_tells_the_earlier_owners_that_its_file_lists() {
    let (a, b) = (Server::start().await, Server::start().await);
    let (first, second) = (ring(1, &[("a", &a)]), ring(2, &[("b", &b)]));
    let (old, new) = (on(&first).build().await.unwrap(), on(&second).build().await.unwrap());
    let table = Table::new();
    table.read_all(&old).await;
    table.read_all(&new).await;
    let earlier = format!(
        "{}\n[[ring.earlier]]\nepoch = 1\nshards = [{{ name = \"a\", address = \"{}\" }}]\n",
        ring_text(2, &[("b", &b)]),
        a.address()
    );
    let invalidator = Invalidator::start(&earlier, REST).await;
    assert!(Ring::new(invalidator.pipeline.ring()).is_ok());
    (0..KEYS).for_each(|row| table.write(row, 1));
    let page: Vec<_> = (0..KEYS).map(record).collect();
    assert_eq!(invalidator.pipeline.deliver(&page, Instant::now() + LONG).await.first_undelivered, None);
    for cache in [&old, &new] {
        assert_eq!(table.read_all(cache).await, vec![1; KEYS as usize]);
    }
    // Listed in another order it is refused, with the place.
    let unordered = earlier.replace("[ring]\nepoch = 2", "[ring]\nepoch = 1");
    let error = Config::parse(&format!("{unordered}\n{REST}"), []).unwrap_err().to_string();
    assert!(error.contains("ring.earlier[0].epoch"), "{error}");
}

#[tokio::test]
async fn an_invalidator_that_starts_anew_tells_a_shard_that_has_moved_at_its_former_address_too() {
    let (a, b) = (Server::start().await, Server::start().await);
    let old = on(&ring(1, &[("a", &a)])).build().await.unwrap();
    let table = Table::new();
    table.read_all(&old).await;
    let moved = format!(
        "{}\n[[ring.earlier]]\nepoch = 1\nshards = [{{ name = \"a\", address = \"{}\" }}]\n",
        ring_text(2, &[("a", &b)]),
        a.address()
    );
    let invalidator = Invalidator::start(&moved, REST).await;
    let new = on(&ring(2, &[("a", &b)])).build().await.unwrap();
    table.read_all(&new).await;
    (0..KEYS).for_each(|row| table.write(row, 1));
    let page: Vec<_> = (0..KEYS).map(record).collect();
    assert_eq!(invalidator.pipeline.deliver(&page, Instant::now() + LONG).await.first_undelivered, None);
    for cache in [&old, &new] {
        assert_eq!(table.read_all(cache).await, vec![1; KEYS as usize]);
    }
}
