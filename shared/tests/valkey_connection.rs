//! What a shard's handle does when the server goes, comes back, stops answering or refuses.

use std::time::{Duration, Instant};

use ringtide_core::command::Image;
use ringtide_core::config;
use ringtide_core::ring::{ShardName, ShardSpec};
use ringtide_core::valkey::{
    Applied, ConnectError, InboxEvent, LeaseReply, LeaseRequest, Notice, Shard, ShardError, Token,
};
use ringtide_core::version::Version;

use crate::support::*;

const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn lookups_come_in_the_order_of_the_keys() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    set(&mut raw, "a", b"1").await;
    set(&mut raw, "c", b"\xff\x00").await;
    redis::cmd("LPUSH").arg("list").arg(1).exec_async(&mut raw).await.unwrap();
    let found = shard.get_many(&["a", "b", "list", "c"].map(key)).await.unwrap();
    assert_eq!(found, [Some("1".into()), None, None, Some(b"\xff\x00"[..].into())]);
    assert_eq!(shard.get_many(&[]).await.unwrap(), []);
    assert_eq!(shard.get(&key("a")).await.unwrap(), Some("1".into()));
    assert_eq!(shard.get(&key("b")).await.unwrap(), None);
    shard.ping().await.unwrap();
    assert_eq!(shard.run_id().await.unwrap().len(), 40);
}

#[tokio::test]
async fn scripts_that_a_server_has_lost_are_brought_along() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let space = versioned(None, false);
    for round in 0..3 {
        redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut raw).await.unwrap();
        let name = format!("k:{round}");
        let token = Token::random();
        let reply = shard.lease(&key(&name), &request(token)).await.unwrap();
        assert!(matches!(reply, LeaseReply::Granted { .. }));
        let commands: Vec<_> = (0..300)
            .map(|n| refresh(&format!("{name}:{n}"), &space, version(1), Image::Json("x".into()), true))
            .collect();
        let applied = shard.apply(&commands, 0).await.unwrap();
        assert_eq!(applied, Applied { refreshed: 300, ..Applied::default() });
        assert_eq!(shard.apply(&[invalidate(&name, &plain(), Version::NONE)], 0).await.unwrap().voided, 1);
    }
}

#[tokio::test]
async fn a_killed_server_is_noticed_at_once_and_found_again() {
    let mut server = Server::start();
    let shard = server.shard().await;
    let mut mine = inbox(&shard, "mine").await;
    shard.ping().await.unwrap();
    let run_id = shard.run_id().await.unwrap();

    server.kill();
    assert_eq!(next(&mut mine).await, InboxEvent::Down);
    let began = Instant::now();
    while shard.get(&key("k")).await.is_ok() {}
    let calls = Instant::now();
    for _ in 0..100 {
        let error = shard.get(&key("k")).await.unwrap_err();
        assert!(matches!(&error, ShardError::Unavailable { .. }) && error.is_retryable(), "{error}");
    }
    assert!(calls.elapsed() < Duration::from_millis(200), "{:?}", calls.elapsed());
    assert!(began.elapsed() < Duration::from_secs(2));
    let error = shard.ready(Duration::from_millis(300)).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");

    server.restart();
    shard.ready(LONG).await.unwrap();
    assert_eq!(shard.get(&key("k")).await.unwrap(), None);
    assert_ne!(shard.run_id().await.unwrap(), run_id);
    assert_eq!(next(&mut mine).await, InboxEvent::Up);
    let token = Token::random();
    shard.lease(&key("k"), &request(token)).await.unwrap();
    let wait = LeaseRequest { inbox: Some("mine"), ..request(Token::random()) };
    shard.lease(&key("k"), &wait).await.unwrap();
    shard.fill(&key("k"), &fill_of(token, value("1"))).await.unwrap();
    assert!(matches!(notice(&mut mine).await, Notice::Filled { .. }));
}

#[tokio::test]
async fn calls_in_flight_fail_with_a_lost_connection() {
    let mut server = Server::start();
    let shard = server.shard().await;
    server.freeze();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let shard = shard.clone();
            tokio::spawn(async move { shard.ping().await })
        })
        .collect();
    tokio::task::yield_now().await;
    server.kill();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, ShardError::Unavailable { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_stops_answering_times_out_is_left_and_found_again() {
    let server = Server::start();
    let quick = config::Valkey {
        command_timeout: Duration::from_millis(100),
        connect_timeout: Duration::from_millis(200),
        ..options()
    };
    let shard = Shard::connect(&server.spec(), &quick).unwrap();
    shard.ready(LONG).await.unwrap();
    let mut mine = inbox(&shard, "mine").await;
    server.freeze();
    let mut timed_out = 0;
    loop {
        match shard.get(&key("k")).await.unwrap_err() {
            ShardError::TimedOut { .. } => timed_out += 1,
            ShardError::Unavailable { .. } => break,
            error @ ShardError::Rejected { .. } => panic!("{error}"),
        }
    }
    // The task that owns the connection may be a call behind.
    assert!((3..=4).contains(&timed_out), "{timed_out}");
    assert_eq!(next(&mut mine).await, InboxEvent::Down);
    let error = shard.ready(Duration::from_millis(600)).await.unwrap_err();
    assert!(error.to_string().contains("no answer to connecting in time"), "{error}");
    server.thaw();
    shard.ready(LONG).await.unwrap();
    assert_eq!(shard.get(&key("k")).await.unwrap(), None);
    assert_eq!(next(&mut mine).await, InboxEvent::Up);
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_repeated() {
    let server = Server::start_with(&["--requirepass", "right"]);
    for options in [options_as(None, "hunter2"), options_as(Some("nobody"), "hunter2"), options()] {
        let shard = Shard::connect(&server.spec(), &options).unwrap();
        let began = Instant::now();
        let error = shard.ready(LONG).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(error.to_string().contains("password was refused"), "{error}");
        let again = shard.get(&key("k")).await.unwrap_err();
        assert!(again.to_string().contains("password was refused"), "{again}");
        assert!(!format!("{error:?} {again:?} {shard:?}").contains("hunter2"));
    }
    let shard = Shard::connect(&server.spec(), &options_as(None, "right")).unwrap();
    shard.ready(LONG).await.unwrap();
}

#[tokio::test]
async fn an_acl_user_needs_no_more_than_its_commands() {
    let server = Server::start();
    let rules = "on >secret ~* &mine -@all +get +mget +eval +evalsha +script|load +set +pttl +pexpire +append +unlink \
                 +exists +time +publish +subscribe +getrange +setrange +strlen +ping";
    let mut set_user = redis::cmd("ACL");
    set_user.arg("SETUSER").arg("app").arg(rules.split(' ').filter(|rule| !rule.is_empty()).collect::<Vec<_>>());
    set_user.exec_async(&mut server.raw().await).await.unwrap();
    let shard = Shard::connect(&server.spec(), &options_as(Some("app"), "secret")).unwrap();
    shard.ready(LONG).await.unwrap();
    let mut mine = inbox(&shard, "mine").await;
    let token = Token::random();
    shard.lease(&key("k"), &request(token)).await.unwrap();
    for channel in ["forbidden", "mine"] {
        let wait = LeaseRequest { inbox: Some(channel), ..request(Token::random()) };
        shard.lease(&key("k"), &wait).await.unwrap();
    }
    shard.fill(&key("k"), &fill_of(token, value("1"))).await.unwrap();
    assert!(matches!(notice(&mut mine).await, Notice::Filled { .. }));
    shard.apply(&[invalidate("k", &plain(), Version::NONE)], 0).await.unwrap();
    let error = shard.dbsize().await.unwrap_err();
    assert!(error.to_string().contains("NOPERM") && !error.is_retryable(), "{error}");
}

#[tokio::test]
async fn unreadable_messages_are_left_out() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let mut mine = inbox(&shard, "mine").await;
    for message in [&b""[..], b"?", b"V\0\x02\xff\xfe", b"V\xff\xffab", b"F\0"] {
        redis::cmd("PUBLISH").arg("mine").arg(message).exec_async(&mut raw).await.unwrap();
    }
    redis::cmd("PUBLISH").arg("mine").arg(b"R0123456789abcdef\0\x01k\xff!").exec_async(&mut raw).await.unwrap();
    let expected = Notice::Released { key: key("k"), reason: "\u{fffd}!".to_owned() };
    assert_eq!(notice(&mut mine).await, expected);
    nothing_more(&mut raw, &mut mine).await;
}

#[tokio::test]
async fn notices_that_nobody_takes_in_time_are_told_to_be_lost() {
    const PUBLISHED: usize = 20_000;
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let mut mine = inbox(&shard, "mine").await;
    let mut publish = redis::cmd("EVAL");
    publish
        .arg("for i = 1, tonumber(ARGV[1]) do redis.call('PUBLISH', 'mine', 'V0123456789abcdef\\0\\1k') end")
        .arg(0)
        .arg(PUBLISHED);
    publish.exec_async(&mut raw).await.unwrap();
    let (mut taken, mut lost) = (0, false);
    while taken < PUBLISHED && !lost {
        match next(&mut mine).await {
            InboxEvent::Notice(_) => taken += 1,
            InboxEvent::Down => lost = true,
            InboxEvent::Up => panic!("up without a down"),
        }
    }
    if lost {
        assert_eq!(next(&mut mine).await, InboxEvent::Up);
    }
}

#[tokio::test]
async fn dropping_the_handles_ends_the_connections() {
    let server = Server::start();
    let mut raw = server.raw().await;
    let options = config::Valkey { connections: 3, ..options() };
    let shard = Shard::connect(&server.spec(), &options).unwrap();
    shard.ready(LONG).await.unwrap();
    let mine = inbox(&shard, "mine").await;
    drop((shard, mine));
    loop {
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut raw).await.unwrap();
        if list.lines().count() == 1 {
            break;
        }
    }
}

#[tokio::test]
async fn several_connections_take_turns() {
    let server = Server::start();
    let mut raw = server.raw().await;
    let options = config::Valkey { connections: 2, ..options() };
    let shard = Shard::connect(&server.spec(), &options).unwrap();
    let used = |list: String| list.lines().filter(|line| line.contains("cmd=get ")).count();
    loop {
        shard.ready(LONG).await.unwrap();
        shard.get(&key("k")).await.unwrap();
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut raw).await.unwrap();
        if used(list) == 2 {
            break;
        }
    }
}

#[tokio::test]
async fn tls_settings_are_checked_before_connecting() {
    let server = Server::start();
    let encrypted = config::Valkey { tls: true, connect_timeout: Duration::from_secs(1), ..options() };
    let missing = config::Valkey { ca_file: Some("/nonexistent/ca.pem".into()), ..encrypted.clone() };
    let error = Shard::connect(&server.spec(), &missing).unwrap_err();
    assert!(matches!(error, ConnectError::CaFile { .. }), "{error}");
    let empty = tempfile::NamedTempFile::new().unwrap();
    let empty = config::Valkey { ca_file: Some(empty.path().to_owned()), ..encrypted.clone() };
    let error = Shard::connect(&server.spec(), &empty).unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
    // A server that does not speak TLS.
    let shard = Shard::connect(&server.spec(), &encrypted).unwrap();
    assert!(shard.ready(Duration::from_secs(2)).await.is_err());
    let spec = ShardSpec { name: ShardName::new("a"), address: "nonsense".to_owned(), weight: 1 };
    assert!(matches!(Shard::connect(&spec, &options()).unwrap_err(), ConnectError::Address { .. }));
}

/// Makes a CA and a server's certificate signed by it in `dir`.
pub(crate) fn make_certificates(dir: &std::path::Path) {
    std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
    for arguments in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -subj /CN=ca",
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout own.key -out own.csr -subj /CN=localhost",
        "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out own.pem",
    ] {
        let made = std::process::Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output();
        assert!(made.expect("openssl is installed").status.success());
    }
}

#[tokio::test]
async fn an_encrypted_server_is_believed_only_by_its_ca() {
    let dir = tempfile::tempdir().unwrap();
    make_certificates(dir.path());
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _server = Server::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("own.pem"),
        "--tls-key-file",
        &file("own.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-auth-clients",
        "no",
    ]);
    let spec = |address| ShardSpec { name: ShardName::new("a"), address, weight: 1 };
    let signed = config::Valkey { ca_file: Some(file("ca.pem").into()), ..options() };
    for address in [format!("rediss://127.0.0.1:{port}"), format!("valkeys://localhost:{port}/")] {
        let shard = Shard::connect(&spec(address), &signed).unwrap();
        shard.ready(LONG).await.unwrap();
        assert_eq!(shard.get(&key("k")).await.unwrap(), None);
        let _up = inbox(&shard, "mine").await;
    }
    // Signed by none of the well-known ones.
    let unsigned = config::Valkey { tls: true, ..options() };
    let shard = Shard::connect(&spec(format!("127.0.0.1:{port}")), &unsigned).unwrap();
    let error = shard.ready(LONG).await.unwrap_err();
    assert!(error.to_string().contains("TLS: invalid peer certificate"), "{error}");
}
