//! An endpoint that spoils records: what DynamoDB would have to send for one that nobody can read.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A text of an item, and what it is replaced by: the same length, and an attribute of no known type.
const PATTERN: &[u8] = br#"{"S":"poison"}"#;
const POISON: &[u8] = br#"{"X":"poison"}"#;

/// Passes everything on to `upstream`, and spoils the answers' poisonous records; ends with its handle.
pub(crate) async fn spoil(upstream: &str) -> (String, JoinHandle<()>) {
    let upstream = upstream.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(upstream).await?;
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let (mut held, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
                loop {
                    let read = from_server.read(&mut chunk).await?;
                    held.extend_from_slice(&chunk[..read]);
                    while let Some(at) = held.windows(PATTERN.len()).position(|window| window == PATTERN) {
                        held[at..at + PATTERN.len()].copy_from_slice(POISON);
                    }
                    // What may be the beginning of the pattern waits for the rest.
                    let begun =
                        (1..PATTERN.len()).rev().find(|length| held.ends_with(&PATTERN[..*length])).unwrap_or(0);
                    let ready = if read == 0 { held.len() } else { held.len() - begun };
                    to_client.write_all(&held[..ready]).await?;
                    held.drain(..ready);
                    if read == 0 {
                        return to_client.shutdown().await;
                    }
                }
            });
        }
    });
    (url, task)
}
