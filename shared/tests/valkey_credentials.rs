//! Who asks: a login for every connection, renewed while it lives, and fetched again where it is refused.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ringtide_core::config::{self, Iam, Secret};
use ringtide_core::ring::{ShardName, ShardSpec};
use ringtide_core::valkey::{ConnectError, Credentials, InboxEvent, Login, NoLogin, Shard};
use ringtide_servers::Certificates;

use crate::support::*;

const LONG: Duration = Duration::from_secs(10);

/// Hands out a password that a test changes.
#[derive(Debug, Default)]
struct Changing {
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// What is handed out; nothing while it is empty.
    password: String,
    /// What is handed out after a refusal.
    next: Option<String>,
    life: Option<Duration>,
    handed_out: usize,
    refused: usize,
}

impl Changing {
    fn new(password: &str, life: Option<Duration>) -> Arc<Self> {
        let state = State { password: password.to_owned(), life, ..State::default() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }
}

#[async_trait]
impl Credentials for Changing {
    async fn login(&self) -> Result<Login, NoLogin> {
        let mut state = self.state.lock().unwrap();
        if state.password.is_empty() {
            return Err(NoLogin("the safe is closed".to_owned()));
        }
        state.handed_out += 1;
        let password = Secret::new(state.password.clone());
        Ok(Login { username: Some("app".to_owned()), password, renew_within: state.life })
    }

    fn refused(&self) {
        let mut state = self.state.lock().unwrap();
        state.refused += 1;
        if let Some(next) = state.next.take() {
            state.password = next;
        }
    }
}

async fn acl(server: &Server, rules: &[&str]) {
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("app").arg(rules).exec_async(&mut server.raw().await).await.unwrap();
}

async fn server_with(password: &str) -> Server {
    let server = Server::start();
    acl(&server, &["on", "~*", "&*", "+@all", &format!(">{password}")]).await;
    server
}

/// How often connections were authenticated by a command of their own.
async fn renewals(server: &Server) -> usize {
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut server.raw().await).await.unwrap();
    let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_auth:calls="));
    calls.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

/// The ids of the user's connections.
async fn connections(server: &Server) -> Vec<String> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut server.raw().await).await.unwrap();
    let id = |line: &str| line.split(' ').next().unwrap().to_owned();
    list.lines().filter(|line| line.contains(" user=app ")).map(id).collect()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < LONG, "{what} does not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_login_is_asked_for_every_connection() {
    let server = server_with("one").await;
    let credentials = Changing::new("one", None);
    let options = config::Valkey { connections: 2, ..options() };
    let shard = Shard::connect_as(&server.spec(), &options, credentials.clone()).unwrap();
    shard.ready(LONG).await.unwrap();
    let _mine = inbox(&shard, "mine").await;
    until("three logins", async || credentials.state().handed_out == 3).await;
    assert_eq!(connections(&server).await.len(), 3);
    assert_eq!(credentials.state().refused, 0);
}

#[tokio::test]
async fn a_connection_outlives_its_login_where_that_is_renewed() {
    let server = server_with("one").await;
    let credentials = Changing::new("one", Some(Duration::from_millis(300)));
    let shard = Shard::connect_as(&server.spec(), &options(), credentials.clone()).unwrap();
    shard.ready(LONG).await.unwrap();
    let mut mine = inbox(&shard, "mine").await;
    let before = connections(&server).await;
    // The first password is good no more for those who come now.
    acl(&server, &[">two", "<one"]).await;
    credentials.set(|state| state.password = "two".to_owned());
    until("five renewals", async || {
        shard.ping().await.unwrap();
        renewals(&server).await >= 5
    })
    .await;
    assert!(credentials.state().handed_out >= 7);
    assert_eq!(connections(&server).await, before);
    assert_eq!(credentials.state().refused, 0);
    nothing_more(&mut server.raw().await, &mut mine).await;
}

#[tokio::test]
async fn a_connection_whose_renewal_is_refused_is_replaced() {
    let server = server_with("one").await;
    let credentials = Changing::new("one", Some(Duration::from_millis(400)));
    let shard = Shard::connect_as(&server.spec(), &options(), credentials.clone()).unwrap();
    shard.ready(LONG).await.unwrap();
    let mut mine = inbox(&shard, "mine").await;
    let before = connections(&server).await;
    // Rotated behind the back of what the source keeps: only a refusal makes it look again.
    acl(&server, &[">two", "<one"]).await;
    credentials.set(|state| state.next = Some("two".to_owned()));
    until("a refusal", async || credentials.state().refused > 0).await;
    // The other one, whose turn comes later, is given the new password and stays.
    until("a connection of the new login", async || {
        let now = connections(&server).await;
        now.len() == 2 && now.iter().any(|id| !before.contains(id))
    })
    .await;
    assert_eq!(credentials.state().refused, 1);
    shard.ready(LONG).await.unwrap();
    shard.ping().await.unwrap();
    while let InboxEvent::Down | InboxEvent::Up = publish_and_take(&server, &mut mine).await {}
}

/// Publishes to an inbox; returns its next event.
async fn publish_and_take(server: &Server, mine: &mut ringtide_core::valkey::Inbox) -> InboxEvent {
    let message = b"V0123456789abcdef\0\x03end";
    redis::cmd("PUBLISH").arg("mine").arg(message).exec_async(&mut server.raw().await).await.unwrap();
    next(mine).await
}

#[tokio::test]
async fn a_login_that_cannot_be_renewed_ends_its_connection() {
    let server = server_with("one").await;
    let credentials = Changing::new("one", Some(Duration::from_millis(300)));
    let shard = Shard::connect_as(&server.spec(), &options(), credentials.clone()).unwrap();
    shard.ready(LONG).await.unwrap();
    credentials.set(|state| state.password.clear());
    until("the end of the connection", async || shard.ping().await.is_err()).await;
    assert_eq!(connections(&server).await.len(), 0);
    let error = shard.ready(Duration::from_millis(200)).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("the safe is closed"), "{error}");
    credentials.set(|state| state.password = "one".to_owned());
    shard.ready(LONG).await.unwrap();
    shard.ping().await.unwrap();
}

#[tokio::test]
async fn a_password_that_was_rotated_is_fetched_again() {
    let mut server = server_with("one").await;
    let credentials = Changing::new("one", None);
    let shard = Shard::connect_as(&server.spec(), &options(), credentials.clone()).unwrap();
    shard.ready(LONG).await.unwrap();
    server.restart();
    acl(&server, &["on", "~*", "&*", "+@all", ">two"]).await;
    credentials.set(|state| state.next = Some("two".to_owned()));
    until("a call", async || shard.ping().await.is_ok()).await;
    assert!(credentials.state().refused >= 1);
}

#[tokio::test]
async fn a_login_that_is_refused_twice_is_told() {
    let server = server_with("one").await;
    let credentials = Changing::new("hunter2", None);
    let shard = Shard::connect_as(&server.spec(), &options(), credentials.clone()).unwrap();
    let error = shard.ready(LONG).await.unwrap_err();
    assert!(error.to_string().contains("password was refused (WRONGPASS)"), "{error}");
    assert!(credentials.state().refused >= 2);
    assert!(!format!("{error:?} {shard:?}").contains("hunter2"));
}

#[tokio::test]
async fn configured_sources_that_nobody_opened_are_told() {
    let server = Server::start();
    let iam = Iam { cache: "c".to_owned(), serverless: false };
    for options in [
        config::Valkey { password_secret: Some("s".to_owned()), ..options() },
        config::Valkey { iam: Some(iam), tls: true, username: Some("u".to_owned()), ..options() },
    ] {
        let error = Shard::connect(&server.spec(), &options).unwrap_err();
        assert!(matches!(error, ConnectError::Credentials { .. }), "{error}");
        Shard::connect_as(&server.spec(), &options, Changing::new("one", None)).unwrap();
    }
    let error = Shard::connect(&server.spec(), &config::Valkey { cluster: true, ..options() });
    assert_eq!(error.is_err(), !cfg!(feature = "cluster"));
}

#[tokio::test]
async fn another_hosts_certificate_and_another_ca_are_refused() {
    let certificates = Certificates::for_names("DNS:localhost").unwrap();
    let port = ringtide_servers::free_port().unwrap().to_string();
    let mut arguments = certificates.arguments();
    arguments.extend(["--tls-port".to_owned(), port.clone()]);
    let _server = Server::start_with(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let other = Certificates::for_names("DNS:localhost").unwrap();
    let connect = |host: &str, ca: &str| {
        let options = config::Valkey { ca_file: Some(ca.into()), ..options() };
        let address = format!("rediss://{host}:{port}");
        Shard::connect(&ShardSpec { name: ShardName::new("a"), address, weight: 1 }, &options).unwrap()
    };
    let right = connect("localhost", &certificates.path("ca.pem"));
    right.ready(LONG).await.unwrap();
    right.ping().await.unwrap();
    for wrong in [connect("127.0.0.1", &certificates.path("ca.pem")), connect("localhost", &other.path("ca.pem"))] {
        let error = wrong.ready(LONG).await.unwrap_err();
        assert!(error.to_string().contains("TLS: invalid peer certificate"), "{error}");
    }
}

#[cfg(feature = "cluster")]
#[tokio::test]
async fn every_connection_to_a_cluster_renews_its_login() {
    let cluster = ringtide_servers::ValkeyCluster::start(3).unwrap();
    let everywhere = |rules: &[&str]| {
        for at in 0..3 {
            cluster.ask(at, &[&["ACL", "SETUSER", "app"], rules].concat()).unwrap();
        }
    };
    let ids = || -> Vec<String> {
        let lists = (0..3).map(|at| cluster.ask(at, &["CLIENT", "LIST"]).unwrap());
        let of = |list: String| -> Vec<String> {
            let mine = list
                .lines()
                .filter(|line| line.contains(" user=app "))
                .map(|line| line.split(' ').next().unwrap().to_owned());
            mine.collect()
        };
        lists.flat_map(of).collect()
    };
    everywhere(&["on", "~*", "&*", "+@all", ">one"]);
    let credentials = Changing::new("one", Some(Duration::from_millis(300)));
    let options = config::Valkey { cluster: true, ..options() };
    let spec = ShardSpec { name: ShardName::new("a"), address: cluster.address(), weight: 1 };
    let shard = Shard::connect_as(&spec, &options, credentials.clone()).unwrap();
    shard.ready(LONG).await.unwrap();
    let _mine = inbox(&shard, "mine").await;
    until("the seed is left", async || ids().len() == 4).await;
    let before = ids();
    everywhere(&[">two", "<one"]);
    credentials.set(|state| state.password = "two".to_owned());
    let handed_out = credentials.state().handed_out;
    until("three renewals each", async || {
        shard.ping().await.unwrap();
        credentials.state().handed_out >= handed_out + 12
    })
    .await;
    assert_eq!(ids(), before);
    assert!((0..3).all(|at| cluster.ask(at, &["INFO", "commandstats"]).unwrap().contains("cmdstat_auth:")));
    assert_eq!(credentials.state().refused, 0);
}
