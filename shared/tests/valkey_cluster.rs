//! A ring shard that is a whole cluster: what holds for one server holds for three masters.

use std::time::Duration;

use ringtide_core::command::Image;
use ringtide_core::config;
use ringtide_core::ring::ShardSpec;
use ringtide_core::valkey::{Applied, ConnectError, FillReply, Notice, Shard, Token};
use ringtide_core::version::Version;
use ringtide_servers::{Certificates, ValkeyCluster};

use crate::support::cluster::*;
use crate::support::*;

#[tokio::test]
async fn lookups_over_all_masters_come_in_the_order_of_the_keys() {
    let cluster = ValkeyCluster::start(3).unwrap();
    let shard = shard_of(&cluster, &in_cluster()).await;
    let keys: Vec<_> = (0..60).map(|n| key(&format!("p:{n}"))).collect();
    for n in (0..60).step_by(2) {
        store(&shard, &format!("p:{n}"), &n.to_string()).await;
    }
    let (tag, slot) = tag_at(&cluster, 1);
    cluster.ask(cluster.first_owner(slot), &["LPUSH", &tag, "1"]).unwrap();
    assert_eq!(shard.get(&key(&tag)).await.unwrap(), None);
    let found = shard.get_many(&keys).await.unwrap();
    for (n, found) in found.iter().enumerate() {
        let payload = found.as_ref().map(|entry| parsed(entry).payload);
        assert_eq!(payload, (n % 2 == 0).then(|| n.to_string().into()), "{n}");
        assert_eq!(shard.get(&keys[n]).await.unwrap(), *found);
    }
    assert_eq!(shard.get_many(&[]).await.unwrap(), []);
    assert_eq!(shard.dbsize().await.unwrap(), 31);
    assert_eq!(shard.run_id().await.unwrap().split(',').count(), 3);
    shard.ping().await.unwrap();
}

#[tokio::test]
async fn a_batch_over_all_slots_drops_voids_and_wakes() {
    let cluster = ValkeyCluster::start(3).unwrap();
    let (shard, other) = (shard_of(&cluster, &in_cluster()).await, shard_of(&cluster, &in_cluster()).await);
    let mut mine = inbox(&other, "mine").await;
    for n in 0..250 {
        store(&shard, &format!("p:{n}"), "old").await;
    }
    let mut held = Vec::new();
    for n in 400..430 {
        held.push((format!("p:{n}"), hold(&shard, &format!("p:{n}")).await));
    }
    let space = plain();
    let commands: Vec<_> = (0..500).map(|n| invalidate(&format!("p:{n}"), &space, Version::NONE)).collect();
    let applied = shard.apply(&commands, 0).await.unwrap();
    assert_eq!(applied, Applied { dropped: 250, absent: 250, voided: 30, ..Applied::default() });
    assert_eq!(shard.dbsize().await.unwrap(), 0);
    let mut told = Vec::new();
    for _ in &held {
        match notice(&mut mine).await {
            Notice::Voided { key } => told.push(key.as_str().to_owned()),
            other => panic!("{other:?}"),
        }
    }
    told.sort_unstable();
    assert_eq!(told, held.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    for (name, token) in held {
        assert_eq!(shard.fill(&key(&name), &fill_of(token, value("old"))).await.unwrap(), FillReply::Void);
    }
    assert_eq!(shard.apply(&commands, 0).await.unwrap(), Applied { absent: 500, ..Applied::default() });
}

#[tokio::test]
async fn versions_marks_refreshes_and_lost_scripts_are_as_on_one_server() {
    let cluster = ValkeyCluster::start(3).unwrap();
    let shard = shard_of(&cluster, &in_cluster()).await;
    let space = versioned(None, false);
    let refreshes = |at, text: &'static str| -> Vec<_> {
        let image = || Image::Json(text.into());
        (0..300).map(|n| refresh(&format!("p:{n}"), &space, version(at), image(), true)).collect()
    };
    let all = |at| -> Vec<_> { (0..300).map(|n| invalidate(&format!("p:{n}"), &space, version(at))).collect() };
    assert_eq!(shard.apply(&refreshes(5, "5"), 0).await.unwrap(), Applied { refreshed: 300, ..Applied::default() });
    for at in 0..3 {
        cluster.ask(at, &["SCRIPT", "FLUSH"]).unwrap();
    }
    assert_eq!(shard.apply(&refreshes(4, "4"), 0).await.unwrap(), Applied { older: 300, ..Applied::default() });
    assert_eq!(shard.apply(&all(5), 0).await.unwrap(), Applied { older: 300, ..Applied::default() });
    assert_eq!(parsed(&shard.get(&key("p:7")).await.unwrap().unwrap()).payload, "5");
    let keeping = versioned(None, true);
    let mark: Vec<_> = (0..10).map(|n| invalidate(&format!("p:{n}"), &keeping, version(6))).collect();
    assert_eq!(shard.apply(&mark, 0).await.unwrap(), Applied { marked: 10, ..Applied::default() });
    assert_eq!(shard.apply(&all(7), 0).await.unwrap(), Applied { dropped: 300, ..Applied::default() });
    assert_eq!(shard.apply(&refreshes(8, "8"), 1).await.unwrap(), Applied { late: 300, ..Applied::default() });
}

#[tokio::test]
async fn a_flush_takes_its_prefix_from_every_master_and_nothing_else() {
    let cluster = ValkeyCluster::start(3).unwrap();
    let shard = shard_of(&cluster, &in_cluster()).await;
    for n in 0..100 {
        store(&shard, &format!("product:{n}"), "1").await;
        store(&shard, &format!("order:{n}"), "1").await;
    }
    for n in 100..110 {
        hold(&shard, &format!("product:{n}")).await;
        hold(&shard, &format!("order:product:{n}")).await;
    }
    assert_eq!(shard.flush("product:", Duration::ZERO).await.unwrap(), 110);
    assert_eq!(shard.dbsize().await.unwrap(), 110);
    let mut names = shard.keys("order:").await.unwrap();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 100);
    assert_eq!(shard.keys("product:").await.unwrap(), Vec::<String>::new());
    assert_eq!(shard.flush("", Duration::ZERO).await.unwrap(), 110);
}

#[tokio::test]
async fn a_purge_takes_entries_and_leases_of_any_name_from_every_master_and_leaves_what_is_others() {
    let cluster = ValkeyCluster::start(3).unwrap();
    let shard = shard_of(&cluster, &in_cluster()).await;
    for n in 0..300 {
        store(&shard, &format!("{n}"), "1").await;
    }
    let mut held = Vec::new();
    for name in ["a", "{b}", "{c}:d"] {
        held.push((name, hold(&shard, name).await));
    }
    for at in 0..3 {
        let (tag, _) = tag_at(&cluster, at);
        cluster.ask(at, &["SET", &format!("{tag}:theirs"), "RT"]).unwrap();
        cluster.ask(at, &["RPUSH", &format!("{tag}:list"), "of theirs"]).unwrap();
    }
    assert_eq!(shard.purge(Duration::ZERO).await.unwrap(), 303);
    assert_eq!(shard.dbsize().await.unwrap(), 6);
    for (name, token) in held {
        assert_eq!(shard.fill(&key(name), &fill_of(token, value("old"))).await.unwrap(), FillReply::Void);
    }
    assert_eq!(shard.purge(Duration::ZERO).await.unwrap(), 0);
}

#[tokio::test]
async fn keys_with_a_lone_brace_are_refused_to_readers_and_hold_up_no_invalidation() {
    let cluster = ValkeyCluster::start(3).unwrap();
    let shard = shard_of(&cluster, &in_cluster()).await;
    let error = shard.lease(&key("a}b"), &request(Token::random())).await.unwrap_err();
    assert!(error.to_string().contains("CROSSSLOT"), "{error}");
    store(&shard, "c", "1").await;
    let commands = ["a}b", "a{}b", "{x}:y", "c"].map(|name| invalidate(name, &plain(), Version::NONE));
    let applied = shard.apply(&commands, 0).await.unwrap();
    assert_eq!(applied, Applied { dropped: 1, absent: 3, ..Applied::default() });
}

#[tokio::test]
async fn what_is_no_cluster_is_told() {
    let server = Server::start();
    let shard = Shard::connect(&server.spec(), &in_cluster()).unwrap();
    let error = shard.ready(LONG).await.unwrap_err();
    assert!(error.to_string().contains("cluster support disabled"), "{error}");
    assert!(shard.get(&key("k")).await.unwrap_err().to_string().contains("cluster support disabled"));
}

#[tokio::test]
async fn an_encrypted_cluster_is_believed_by_its_host_names() {
    let certificates = Certificates::for_names("DNS:localhost").unwrap();
    let mut arguments = certificates.arguments();
    let more = ["--tls-cluster", "yes", "--cluster-announce-hostname", "localhost"];
    arguments.extend(more.map(str::to_owned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let cluster = ValkeyCluster::start_with(3, 0, &arguments).unwrap();
    let by_name = ShardSpec { address: cluster.address().replace("127.0.0.1", "rediss://localhost"), ..spec(&cluster) };
    let signed = config::Valkey { ca_file: Some(certificates.path("ca.pem").into()), ..in_cluster() };
    let shard = Shard::connect(&by_name, &signed).unwrap();
    shard.ready(LONG).await.unwrap();
    for n in 0..20 {
        store(&shard, &format!("p:{n}"), "1").await;
    }
    assert_eq!(shard.dbsize().await.unwrap(), 20);
    // Redirections name servers by their addresses, which the certificate does not hold.
    let (tag, slot) = tag_at(&cluster, 0);
    cluster.begin_move(slot, 0, 1).unwrap();
    assert_eq!(shard.get(&key(&tag)).await.unwrap(), None);
    cluster.end_move(slot, 1).unwrap();
    store(&shard, &tag, "1").await;
    let _mine = inbox(&shard, "mine").await;
    let unsigned = config::Valkey { ca_file: None, ..signed };
    let error = Shard::connect(&by_name, &unsigned).unwrap().ready(LONG).await.unwrap_err();
    assert!(error.to_string().contains("TLS: invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn an_acl_user_of_a_cluster_needs_no_more_than_its_commands() {
    let cluster = ValkeyCluster::start(3).unwrap();
    let rules = "on >secret ~* &mine -@all +get +eval +evalsha +script|load +set +pttl +pexpire +append +unlink \
                 +exists +mget +time +publish +subscribe +getrange +setrange +strlen +ping +cluster|slots +asking";
    for at in 0..3 {
        let mut command = vec!["ACL", "SETUSER", "app"];
        command.extend(rules.split_whitespace());
        cluster.ask(at, &command).unwrap();
    }
    let options = config::Valkey { cluster: true, ..options_as(Some("app"), "secret") };
    let shard = shard_of(&cluster, &options).await;
    let mut mine = inbox(&shard, "mine").await;
    let (tag, slot) = tag_at(&cluster, 0);
    cluster.begin_move(slot, 0, 1).unwrap();
    let space = plain();
    let commands = ["b", "c", "d", &tag].map(|name| invalidate(name, &space, Version::NONE));
    shard.apply(&commands, 0).await.unwrap();
    cluster.end_move(slot, 1).unwrap();
    let token = hold(&shard, &tag).await;
    shard.fill(&key(&tag), &fill_of(token, value("1"))).await.unwrap();
    assert!(matches!(notice(&mut mine).await, Notice::Filled { .. }));
    let error = shard.flush("", Duration::ZERO).await.unwrap_err();
    assert!(error.to_string().contains("NOPERM"), "{error}");
    for at in 0..3 {
        cluster.ask(at, &["ACL", "SETUSER", "app", "+scan", "+cluster|nodes"]).unwrap();
    }
    assert_eq!(shard.flush("", Duration::ZERO).await.unwrap(), 1);
}

#[tokio::test]
async fn a_source_of_credentials_that_nobody_opened_is_told() {
    let cluster = ValkeyCluster::start(1).unwrap();
    let secret = config::Valkey { password_secret: Some("s".to_owned()), ..in_cluster() };
    let error = Shard::connect(&spec(&cluster), &secret).unwrap_err();
    assert!(matches!(error, ConnectError::Credentials { .. }), "{error}");
}
