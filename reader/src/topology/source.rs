//! Following the place where the ring's membership comes from.

use std::sync::Arc;

use ringtide_core::watch::Watch;

use crate::cache::Inner;

/// Looks at the source again and again, and takes what it says.
pub(crate) async fn watch(inner: Arc<Inner>, mut watch: Watch) {
    loop {
        tokio::time::sleep(inner.settings.watch).await;
        let ring = Arc::clone(inner.topology.load().ring());
        match watch.look(ring.membership()).await {
            Ok(None) => {}
            // Told by the call itself.
            Ok(Some(membership)) => {
                if let Err(error) = inner.change_ring(membership).await {
                    watch.refused(&error);
                }
            }
            Err(_) => inner.changes.unread(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::time::Duration;

    use ringtide_core::config;
    use ringtide_core::watch::{Resolver, Source};
    use ringtide_servers::ValkeyServer;

    use super::*;
    use crate::Cache;

    type Answer = Result<Vec<SocketAddr>, io::ErrorKind>;

    /// What a name resolves to, which a test may change.
    #[derive(Clone)]
    struct Dns(Arc<Mutex<(Answer, usize)>>);

    impl Dns {
        fn resolver(&self) -> Resolver {
            let dns = self.clone();
            Resolver::new(move |name| {
                assert_eq!(name, "valkey.internal:6379");
                let mut answer = dns.0.lock().unwrap();
                answer.1 += 1;
                std::future::ready(answer.0.clone().map_err(io::Error::from))
            })
        }

        /// Answers so from now on, and waits until that has been heard and taken in.
        async fn answers(&self, answer: Answer) {
            let asked = {
                let mut told = self.0.lock().unwrap();
                told.0 = answer;
                told.1
            };
            while self.0.lock().unwrap().1 < asked + 2 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }

    async fn read(cache: &Cache, keys: std::ops::Range<u64>, value: u64) -> BTreeSet<u64> {
        let mut read = BTreeSet::new();
        for key in keys {
            let load = move || async move { Ok::<_, Infallible>(Some(value)) };
            read.extend(cache.get_or_load(format!("key:{key}"), load).await.unwrap());
        }
        cache.settled().await;
        read
    }

    #[tokio::test]
    async fn addresses_that_come_and_go_change_the_ring_and_no_answer_does_not() {
        let servers = [ValkeyServer::start().unwrap(), ValkeyServer::start().unwrap()];
        let [a, b] = servers.each_ref().map(|server| server.address().parse::<SocketAddr>().unwrap());
        let reader = config::Reader { watch: Duration::from_millis(10), ..config::Reader::default() };
        let cache = Cache::builder().reader(reader).shard(a.to_string(), a.to_string()).build().await.unwrap();
        let dns = Dns(Arc::new(Mutex::new((Ok(vec![a]), 0))));
        let source = Source::Dns("valkey.internal:6379".to_owned());
        cache.inner.attend(watch(cache.inner.clone(), Watch::by(source, dns.resolver())));
        let ring = || {
            let ring = cache.ring();
            (ring.epoch, ring.shards.into_iter().map(|shard| shard.address).collect::<BTreeSet<_>>())
        };
        let epoch =
            |epoch: u64, addresses: &[SocketAddr]| (epoch, addresses.iter().map(SocketAddr::to_string).collect());

        dns.answers(Ok(vec![a])).await;
        assert_eq!(ring(), epoch(1, &[a]));
        assert_eq!(read(&cache, 0..50, 1).await, [1].into());
        dns.answers(Ok(vec![b, a, b])).await;
        assert_eq!(ring(), epoch(2, &[a, b]), "in whichever order, however often");
        assert_eq!(read(&cache, 0..50, 2).await, [1, 2].into(), "some keys have moved");
        for failure in [Err(io::ErrorKind::NotFound), Ok(Vec::new())] {
            dns.answers(failure).await;
            assert_eq!(ring(), epoch(2, &[a, b]));
        }
        assert_eq!(read(&cache, 0..50, 3).await, [1, 2].into(), "all are cached");
        dns.answers(Ok(vec![b])).await;
        assert_eq!(ring(), epoch(3, &[b]));
        assert_eq!(read(&cache, 0..50, 4).await, [2, 4].into());
        // What the first one still holds may be out of date by now.
        dns.answers(Ok(vec![a, b])).await;
        assert_eq!(ring(), epoch(4, &[a, b]));
        assert!(!read(&cache, 0..50, 5).await.contains(&1), "it is flushed before it is read from");
        cache.close().await;
    }
}
