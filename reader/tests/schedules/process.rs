//! A process: a cache of its own, and what is checked of each of its reads.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use ringtide::{Cache, Codec, Error, Loaded, MemoryServer, ReadOptions, Space};
use ringtide_core::entry::{Entry, HEADER_LEN, Header};

use super::truth::{KEYS, Truth, a_while};
use super::world::{Done, Setting, cache_key};

/// Longer than anything may take.
pub(crate) const LONG: Duration = Duration::from_secs(300);

#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) cache: Cache,
    pub(crate) items: Space<u64>,
    pub(crate) truth: Truth,
    pub(crate) setting: Setting,
    /// Whether it invalidates by itself.
    pub(crate) writes: bool,
    /// The ring shard of each key.
    pub(crate) servers: Vec<MemoryServer>,
}

impl Process {
    /// What a read of a key that begins now has to know.
    fn known(&self, key: u64) -> u64 {
        let key = self.truth.of(key);
        if self.writes { key.delivered.max(key.own) } else { key.delivered }
    }

    fn loaded(&self, value: u64) -> Loaded<u64> {
        let loaded = Loaded::new(Some(value));
        if self.setting.versioned { loaded.version_number(value.into()) } else { loaded }
    }

    fn loader(
        &self,
        key: u64,
    ) -> impl Fn() -> futures_util::future::BoxFuture<'static, Result<Loaded<u64>, Infallible>> + use<> {
        let process = self.clone();
        move || {
            let process = process.clone();
            Box::pin(async move { Ok(process.loaded(process.truth.load(key).await)) })
        }
    }

    /// Reads at random, one after the other.
    pub(crate) async fn read_on(self, reads: usize) -> Result<Done, String> {
        let (mut done, mut last) = (Done::default(), [0; KEYS as usize]);
        for _ in 0..reads {
            a_while(6).await;
            let key = fastrand::u64(..KEYS);
            let began = (0..KEYS).map(|key| (self.known(key), self.truth.of(key).now)).collect::<Vec<_>>();
            let (how, read) = match fastrand::u8(..10) {
                _ if self.setting.naive => ("naive", Ok(vec![(key, Ok(Some(self.read_naively(key).await)))])),
                0 => ("fresh", self.read(key, ReadOptions::new().fresh()).await),
                1 => (
                    "hurried",
                    self.read(key, ReadOptions::new().timeout(Duration::from_millis(fastrand::u64(1..20)))).await,
                ),
                2 => ("left", self.leave(key).await),
                3 | 4 => ("many", self.read_many().await),
                5 => ("peek", self.peek(key).await),
                _ => ("read", self.read(key, ReadOptions::new()).await),
            };
            for (key, answer) in read? {
                let at = key as usize;
                match answer {
                    Ok(Some(value)) => {
                        let (known, now) = began[at];
                        let least = if how == "fresh" { now } else { known };
                        if value < least {
                            return Err(format!("{how}: key {key} is {value}, and {least} was known"));
                        }
                        if self.setting.versioned && !self.setting.stormy && value < last[at] {
                            return Err(format!("{how}: key {key} is {value}, and was {} before", last[at]));
                        }
                        last[at] = value;
                        done.answered += 1;
                    }
                    Ok(None) => done.unanswered += 1,
                    Err(Error::DeadlineExceeded { .. } | Error::Unavailable { .. }) => done.failed += 1,
                    Err(error) => return Err(format!("{how}: key {key}: {error}")),
                }
            }
        }
        Ok(done)
    }

    async fn read(&self, key: u64, options: ReadOptions) -> Answers {
        if options == ReadOptions::new().fresh() {
            self.truth.change(key, |key| key.taken += 1);
        }
        let read = self.items.with(options);
        let read = read.get_or_load(key, self.loader(key));
        Ok(vec![(key, within(read).await?)])
    }

    /// Reads as those do who know nothing of leases.
    async fn read_naively(&self, key: u64) -> u64 {
        let (server, name) = (&self.servers[key as usize], cache_key(key));
        a_while(2).await;
        if let Some(entry) = server.value(name.as_str()) {
            return serde_json::from_slice(&entry[HEADER_LEN..]).unwrap();
        }
        let value = self.truth.load(key).await;
        a_while(2).await;
        let payload = serde_json::to_vec(&value).unwrap().into();
        server.put(name.as_str(), Entry { header: Header::value(Codec::Json), payload }.to_bytes(), Some(LONG));
        value
    }

    /// Begins a read and leaves.
    async fn leave(&self, key: u64) -> Answers {
        let read = self.items.get_or_load(key, self.loader(key));
        let patience = Duration::from_micros(fastrand::u64(..8000));
        Ok(tokio::time::timeout(patience, read).await.map_or(Vec::new(), |answer| vec![(key, answer)]))
    }

    async fn peek(&self, key: u64) -> Answers {
        let peeked = within(self.items.peek(key)).await?;
        Ok(vec![(key, peeked.map(|read| read.and_then(|read| read.value)))])
    }

    async fn read_many(&self) -> Answers {
        let mut keys: Vec<u64> = (0..KEYS).collect();
        fastrand::shuffle(&mut keys);
        keys.truncate(fastrand::usize(1..=KEYS as usize));
        let process = self.clone();
        let load = move |keys: Vec<u64>| {
            let process = process.clone();
            async move {
                let mut found = HashMap::new();
                for key in keys {
                    found.insert(key, process.loaded(process.truth.load(key).await));
                }
                Ok::<_, Infallible>(found)
            }
        };
        Ok(within(self.items.get_many(keys, load)).await?.into_iter().collect())
    }

    /// Writes keys and invalidates them by the cache alone.
    pub(crate) async fn write_on(self, writes: usize) -> Result<Done, String> {
        for _ in 0..writes {
            a_while(12).await;
            let key = fastrand::u64(..KEYS);
            let value = self.truth.write(key);
            self.truth.change(key, |key| key.taken += 1);
            let invalidated = within(self.items.invalidate(key)).await?.map_err(|error| error.to_string())?;
            self.truth.change(key, |key| {
                key.took(&invalidated.applied);
                key.own = key.own.max(value);
                if invalidated.is_done() {
                    key.delivered = key.delivered.max(value);
                }
            });
        }
        Ok(Done::default())
    }
}

type Answers = Result<Vec<(u64, Result<Option<u64>, Error>)>, String>;

async fn within<T>(read: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(LONG, read).await.map_err(|_| "it hangs".to_owned())
}
