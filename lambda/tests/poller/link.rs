//! The way from the sandboxes to one ring shard, which can be cut while the shard keeps its entries and its readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A relay in front of a Valkey server.
pub(crate) struct Link {
    pub(crate) address: String,
    state: Arc<watch::Sender<State>>,
    connections: Arc<AtomicU64>,
    relay: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    mood: Mood,
    /// Connections of an earlier age are closed.
    age: u64,
    /// The number of the first connection whose bytes do not wait.
    held_before: u64,
}

/// What a link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Up,
    /// Connections are closed, new ones at once.
    Cut,
    /// Bytes wait.
    Stalled,
}

impl Link {
    pub(crate) async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(watch::Sender::new(State { mood: Mood::Up, age: 0, held_before: 0 }));
        let connections = Arc::new(AtomicU64::new(0));
        let (of_relay, counted) = (state.clone(), connections.clone());
        let relay = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if of_relay.borrow().mood != Mood::Cut {
                    let number = counted.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(connection(number, client, server.clone(), of_relay.subscribe()));
                }
            }
        });
        Self { address, state, connections, relay }
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.state.send_modify(|state| {
            state.mood = mood;
            state.age += u64::from(mood == Mood::Cut);
            state.held_before = 0;
        });
    }

    pub(crate) fn mood(&self) -> Mood {
        self.state.borrow().mood
    }

    /// Lets the bytes of the connections that there are wait; new ones are let through.
    pub(crate) fn hold_connections(&self) {
        self.state.send_modify(|state| state.held_before = self.connections.load(Ordering::SeqCst));
    }

    /// Closes every connection; new ones are let through.
    pub(crate) fn close_connections(&self) {
        self.state.send_modify(|state| state.age += 1);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.relay.abort();
        self.close_connections();
    }
}

async fn connection(number: u64, client: TcpStream, server: String, mut state: watch::Receiver<State>) {
    let age = state.borrow().age;
    let moods = (state.clone(), state.clone());
    let relayed = async {
        let Ok(server) = TcpStream::connect(server).await else { return };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            () = pass_on(number, from_client, to_server, moods.0) => {}
            () = pass_on(number, from_server, to_client, moods.1) => {}
        }
    };
    tokio::select! {
        () = relayed => {}
        _ = state.wait_for(|state| state.age != age) => {}
    }
}

async fn pass_on(number: u64, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut bytes).await else { return };
        let passes = state.wait_for(|state| state.mood != Mood::Stalled && number >= state.held_before);
        if passes.await.is_err() || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
