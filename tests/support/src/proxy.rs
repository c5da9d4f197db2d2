//! A TCP proxy on loopback that fails on demand.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::TaskTracker;

/// What the proxy does with one direction of its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// Passes everything on.
    #[default]
    Open,
    /// Passes everything on, each piece so much later than it came.
    Delayed(Duration),
    /// Keeps what comes, and passes it on once this changes.
    Held,
    /// Takes what comes and forgets it; the connection is cut once this changes, since its stream has a hole.
    BlackHole,
}

/// The directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From clients to the server.
    ToServer,
    /// From the server to clients.
    ToClient,
}

/// Stands between clients and one server; it ends with this handle, and so do its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    control: watch::Sender<Control>,
    server: Arc<RwLock<String>>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Control {
    to_server: Flow,
    to_client: Flow,
    /// Connections from before are cut.
    cuts: u64,
    /// Connections from before end this direction and keep the other.
    half_closed: [u64; 2],
    refuses: bool,
    ended: bool,
}

impl Control {
    fn flow(&self, direction: Direction) -> Flow {
        match direction {
            Direction::ToServer => self.to_server,
            Direction::ToClient => self.to_client,
        }
    }
}

impl Proxy {
    /// Listens on a loopback port of its own for connections to `server`, `host:port`.
    ///
    /// # Errors
    /// Where no port can be bound.
    pub async fn start(server: impl Into<String>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let control = watch::Sender::new(Control::default());
        let server = Arc::new(RwLock::new(server.into()));
        let accepting = tokio::spawn(accept(listener, server.clone(), control.subscribe()));
        Ok(Self { address, control, server, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Sends connections from now on to another server.
    pub fn redirect(&self, server: impl Into<String>) {
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = server.into();
    }

    /// Chooses what becomes of one direction, of connections that are open and of new ones.
    pub fn set(&self, direction: Direction, flow: Flow) {
        self.control.send_modify(|control| match direction {
            Direction::ToServer => control.to_server = flow,
            Direction::ToClient => control.to_client = flow,
        });
    }

    /// Passes everything on again.
    pub fn heal(&self) {
        self.control.send_modify(|control| {
            (control.to_server, control.to_client, control.refuses) = (Flow::Open, Flow::Open, false);
        });
    }

    /// Cuts every connection that is open.
    pub fn cut(&self) {
        self.control.send_modify(|control| control.cuts += 1);
    }

    /// Ends one direction of every connection that is open, as a peer does that sends no more; the other stays.
    pub fn half_close(&self, direction: Direction) {
        self.control.send_modify(|control| control.half_closed[direction as usize] += 1);
    }

    /// Chooses whether new connections are cut as soon as they are made.
    pub fn refuse(&self, refuses: bool) {
        self.control.send_modify(|control| control.refuses = refuses);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.control.send_modify(|control| control.ended = true);
    }
}

async fn accept(listener: TcpListener, server: Arc<RwLock<String>>, control: watch::Receiver<Control>) {
    // Connections end with the control, of which every one has a receiver.
    let connections = TaskTracker::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if control.borrow().refuses {
            continue;
        }
        let address = server.read().unwrap_or_else(PoisonError::into_inner).clone();
        connections.spawn(connect(client, address, control.clone()));
    }
}

/// Serves one connection until either side ends it or it is cut.
async fn connect(client: TcpStream, address: String, mut control: watch::Receiver<Control>) {
    let began = *control.borrow();
    let Ok(server) = TcpStream::connect(address).await else { return };
    if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
        return;
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = pump(from_client, to_server, Direction::ToServer, control.clone(), began);
    let down = pump(from_server, to_client, Direction::ToClient, control.clone(), began);
    tokio::select! {
        ((), ()) = async { tokio::join!(up, down) } => {}
        // Without its sender the control is as good as ended.
        _ = control.wait_for(|now| now.ended || now.cuts != began.cuts) => {}
    }
}

/// Moves one direction until its source ends, and then ends it for its target.
async fn pump(
    mut source: OwnedReadHalf,
    mut target: OwnedWriteHalf,
    direction: Direction,
    mut control: watch::Receiver<Control>,
    began: Control,
) {
    let mut piece = vec![0; 64 * 1024];
    let closed = |now: &Control| now.half_closed[direction as usize] != began.half_closed[direction as usize];
    let mut closing = control.clone();
    let moving = async {
        let mut swallowed = false;
        loop {
            let read = match source.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            };
            let came = Instant::now();
            loop {
                let flow = control.borrow_and_update().flow(direction);
                match flow {
                    // A stream with a hole is of no use to anybody.
                    Flow::Open | Flow::Delayed(_) | Flow::Held if swallowed => return,
                    Flow::Open => break,
                    Flow::BlackHole => {
                        swallowed = true;
                        break;
                    }
                    Flow::Delayed(by) => {
                        let changed = control.wait_for(|now| now.flow(direction) != flow);
                        if tokio::time::timeout_at(came + by, changed).await.is_err() {
                            break;
                        }
                    }
                    Flow::Held => {
                        if control.wait_for(|now| now.flow(direction) != flow).await.is_err() {
                            return;
                        }
                    }
                }
            }
            if !swallowed && target.write_all(&piece[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = moving => {}
        _ = closing.wait_for(closed) => {}
    }
    let _ended_already = target.shutdown().await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    async fn echo() -> (String, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serve = async move {
            let connections = TaskTracker::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    let _ended = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        };
        (address, AbortOnDropHandle::new(tokio::spawn(serve)))
    }

    async fn said(stream: &mut TcpStream, word: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(word).await?;
        heard(stream, word.len()).await
    }

    async fn heard(stream: &mut TcpStream, len: usize) -> std::io::Result<Vec<u8>> {
        let mut answer = vec![0; len];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_connection_is_passed_on_delayed_held_and_released() {
        let (server, _echo) = echo().await;
        let proxy = Proxy::start(server).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(said(&mut stream, b"one").await.unwrap(), b"one");
        proxy.set(Direction::ToServer, Flow::Delayed(Duration::from_millis(60)));
        let asked = Instant::now();
        assert_eq!(said(&mut stream, b"two").await.unwrap(), b"two");
        assert!(asked.elapsed() >= Duration::from_millis(60));
        proxy.heal();
        proxy.set(Direction::ToClient, Flow::Held);
        stream.write_all(b"six").await.unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(100), heard(&mut stream, 3)).await;
        assert!(nothing.is_err());
        proxy.heal();
        assert_eq!(heard(&mut stream, 3).await.unwrap(), b"six");
    }

    #[tokio::test]
    async fn connections_are_cut_refused_half_closed_and_swallowed() {
        let (server, _echo) = echo().await;
        let proxy = Proxy::start(server).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(said(&mut stream, b"one").await.unwrap(), b"one");
        proxy.refuse(true);
        proxy.cut();
        assert!(heard(&mut stream, 1).await.is_err());
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(said(&mut refused, b"one").await.is_err());
        proxy.heal();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(said(&mut stream, b"one").await.unwrap(), b"one");
        proxy.half_close(Direction::ToClient);
        assert!(heard(&mut stream, 1).await.is_err());
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.set(Direction::ToServer, Flow::BlackHole);
        let nothing = tokio::time::timeout(Duration::from_millis(100), said(&mut stream, b"one")).await;
        assert!(nothing.is_err());
        proxy.heal();
        assert!(said(&mut stream, b"two").await.is_err(), "a stream with a hole went on");
    }

    #[tokio::test]
    async fn its_connections_end_with_it() {
        let (server, _echo) = echo().await;
        let proxy = Proxy::start(server).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(said(&mut stream, b"one").await.unwrap(), b"one");
        drop(proxy);
        assert!(heard(&mut stream, 1).await.is_err());
    }
}
