//! What an application does with no more permissions than the deployment gives to readers.

use std::convert::Infallible;
use std::time::Duration;

use ringtide::{
    Cache, Config, LocalTier, Membership, Mode, Placement, RingChange, ShardName, ShardSpec, SpaceSettings, config,
};

use super::support::{LONG, Server};

/// The commands of the template's user for readers.
fn commands() -> Vec<String> {
    let template = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/template.yaml")).unwrap();
    let mut lines = template.lines().skip_while(|line| *line != "    Reader:");
    assert_eq!(
        (lines.next(), lines.next()),
        (Some("    Reader:"), Some("      Allowed: >-")),
        "the template has another form"
    );
    let text: Vec<&str> = lines.map_while(|line| line.strip_prefix("        ")).collect();
    text.join(" ").split_whitespace().map(str::to_owned).collect()
}

/// Gives a server the user, with the key patterns of one key space.
async fn admit(server: &Server) {
    let rules = "on >secret resetchannels &ringtide:inbox:* ~item:* ~lock:{item:* -@all";
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("app").arg(rules.split(' ').collect::<Vec<_>>()).arg(commands());
    user.exec_async(&mut server.connection().await).await.unwrap();
}

fn ring(epoch: u64, servers: &[(&str, &Server)]) -> Membership {
    let spec = |(name, server): &(&str, &Server)| ShardSpec {
        name: ShardName::new(name),
        address: server.address(),
        weight: 1,
    };
    Membership { epoch, changed_at_ms: 0, placement: Placement::default(), shards: servers.iter().map(spec).collect() }
}

async fn cache(ring: Membership, space: SpaceSettings) -> Cache {
    let text = "ring = { shards = [{ name = \"x\", address = \"h:1\" }] }\n";
    let valkey = config::Valkey {
        username: Some("app".into()),
        password: Some(config::Secret::new("secret".into())),
        command_timeout: LONG,
        ..config::Valkey::default()
    };
    let config = Config { ring, valkey, ..Config::parse(text, []).unwrap() };
    Cache::builder().config(config).space(space).build().await.unwrap()
}

async fn read(cache: &Cache, row: u32) -> Option<u32> {
    let items = cache.space::<u32>("item").unwrap();
    let read = items.get_or_load(row, move || async move { Ok::<_, Infallible>(Some(row)) }).await.unwrap();
    cache.settled().await;
    read
}

#[tokio::test]
async fn an_application_reads_invalidates_and_tracks() {
    let server = Server::start().await;
    admit(&server).await;
    for mode in [Mode::Plain, Mode::Versioned { attribute: "version".into(), tombstone: Some(LONG) }] {
        let tier = LocalTier::Tracked(Duration::from_secs(60));
        let space = SpaceSettings::new("item", "item:{pk}").mode(mode.clone()).local(tier);
        let cache = cache(ring(1, &[("a", &server)]), space).await;
        let items = cache.space::<u32>("item").unwrap();
        for row in 0..3 {
            assert_eq!(read(&cache, row).await, Some(row), "{mode:?}");
        }
        if mode != Mode::Plain {
            let told = items.invalidate_version(0, 7).await.unwrap();
            assert!(told.is_done(), "{told:?}");
        }
        let told = items.invalidate_many([1, 2, 99]).await.unwrap();
        assert!(told.is_done() && told.applied.absent == 1, "{mode:?}: {told:?}");
        assert_eq!(items.peek(1).await.unwrap().map(|read| read.value), None, "{mode:?}");
        redis::cmd("FLUSHALL").exec_async(&mut server.connection().await).await.unwrap();
    }
}

#[tokio::test]
async fn an_entry_of_another_type_is_dropped() {
    let server = Server::start().await;
    admit(&server).await;
    let cache = cache(ring(1, &[("a", &server)]), SpaceSettings::new("item", "item:{pk}").local(LocalTier::Off)).await;
    assert_eq!(read(&cache, 1).await, Some(1));
    let texts = cache.space::<String>("item").unwrap();
    let text = async || Ok::<_, Infallible>(Some("1".to_owned()));
    for _ in 0..2 {
        assert_eq!(texts.get_or_load(1, text).await.unwrap().as_deref(), Some("1"));
        cache.settled().await;
    }
    assert_eq!(texts.peek(1).await.unwrap().and_then(|read| read.value).as_deref(), Some("1"), "stored in its place");
}

#[tokio::test]
async fn a_ring_shard_that_joins_is_flushed_among_what_others_keep() {
    let (a, b) = (Server::start().await, Server::start().await);
    for server in [&a, &b] {
        admit(server).await;
    }
    let space = || SpaceSettings::new("item", "item:{pk}").local(LocalTier::Off);
    let old = cache(ring(1, &[("b", &b)]), space()).await;
    for row in 0..20 {
        assert_eq!(read(&old, row).await, Some(row));
    }
    let theirs = redis::cmd("SET").arg("other:1").arg("theirs").to_owned();
    theirs.exec_async(&mut b.connection().await).await.unwrap();
    let cache = cache(ring(1, &[("a", &a)]), space()).await;
    let changed = tokio::time::timeout(Duration::from_secs(20), cache.change_ring(ring(2, &[("a", &a), ("b", &b)])));
    let changed = changed.await.expect("the ring shard is admitted").unwrap();
    assert_eq!(changed, RingChange::Changed { unflushed: Vec::new() });
    for row in 0..20 {
        assert!(!b.exists(&format!("item:{row}")).await);
    }
    assert!(b.exists("other:1").await);
}
