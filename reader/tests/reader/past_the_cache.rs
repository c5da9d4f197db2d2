//! Keys that change in each of their loads: what their readers are answered with in the end.
#![cfg(feature = "memory")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use ringtide::{Cache, Error, Loaded, MemoryServer, Mode, Space, SpaceSettings};

use super::support::{Counters, LONG, Origin, until};

/// The attempts that a read has by default, each a load whose fill turns out void here.
const ATTEMPTS: usize = 4;

/// A key space whose versions are compared, and a row that is invalidated in each of its loads.
struct Stage {
    cache: Cache,
    items: Space<u64>,
    counters: Counters,
    row: Arc<AtomicU64>,
}

impl Stage {
    async fn new() -> Self {
        let mode = Mode::Versioned { attribute: "v".into(), tombstone: None };
        let settings = SpaceSettings::new("item", "item:{pk}").mode(mode);
        let counters = Counters::default();
        let cache = counters.build(Cache::builder().memory_shard(&MemoryServer::new("a")).space(settings)).await;
        Self { items: cache.space("item").unwrap(), cache, counters, row: Arc::new(AtomicU64::new(1)) }
    }

    /// Reads by loads that return what the row was when they began.
    async fn read(&self, origin: &Origin) -> Result<Option<u64>, Error> {
        let (items, origin, row) = (self.items.clone(), origin.clone(), self.row.clone());
        let load = move || {
            let (items, origin, row) = (items.clone(), origin.clone(), row.clone());
            async move {
                let version = row.load(Ordering::SeqCst);
                origin.load().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(items.invalidate(1).await.unwrap().is_done());
                Ok::<_, Infallible>(Loaded::new(Some(version)).version_number(version.into()))
            }
        };
        tokio::time::timeout(LONG, self.items.get_or_load(1, load)).await.expect("nobody hangs")
    }

    /// How many reads have come to their last attempt.
    fn last(&self) -> u64 {
        self.counters.sum("ringtide_reader_uncached_total", "")
    }
}

#[tokio::test]
async fn readers_of_a_key_that_changes_in_each_load_share_the_load_past_the_cache_too() {
    let (stage, origin) = (Stage::new().await, Origin::open());
    for answer in join_all((0..100).map(|_| stage.read(&origin))).await {
        assert_eq!(answer.unwrap(), Some(1));
    }
    assert_eq!(stage.last(), 100, "each was answered past the cache");
    assert!(origin.loads() <= 10, "{} loads", origin.loads());
}

#[tokio::test]
async fn a_load_past_the_cache_answers_no_read_that_began_after_it() {
    let stage = Stage::new().await;
    let (held, open) = (Origin::held(), Origin::open());
    held.allow(ATTEMPTS);
    let early = async {
        assert_eq!(stage.read(&held).await.unwrap(), Some(1), "its load began before the change");
    };
    let late = async {
        for _ in 0..=ATTEMPTS {
            held.begun().await;
        }
        stage.row.store(2, Ordering::SeqCst);
        assert!(stage.items.invalidate(1).await.unwrap().is_done());
        assert_eq!(stage.read(&open).await.unwrap(), Some(2), "it began after the change");
    };
    let release = async {
        until("the other's last attempt", async || stage.last() == 2).await;
        held.allow(2);
    };
    tokio::join!(early, late, release);
    assert_eq!(
        (held.loads(), open.loads()),
        (ATTEMPTS + 2, ATTEMPTS),
        "the last load was shared by the loader at hand"
    );
}

#[tokio::test]
async fn a_read_of_another_type_than_the_one_loaded_loads_for_itself_in_the_end() {
    let (stage, origin) = (Stage::new().await, Origin::open());
    let names = stage.cache.space::<String>("item").unwrap();
    let load = {
        let names = names.clone();
        move || {
            let names = names.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(names.invalidate(1).await.unwrap().is_done());
                Ok::<_, Infallible>(Some("tea".to_owned()))
            }
        }
    };
    let named = tokio::time::timeout(LONG, names.get_or_load(1, load));
    let (number, name) = tokio::join!(stage.read(&origin), named);
    assert_eq!(number.unwrap(), Some(1));
    assert_eq!(name.expect("nobody hangs").unwrap().as_deref(), Some("tea"));
    assert_eq!(stage.last(), 2);
}
