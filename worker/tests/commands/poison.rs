//! An endpoint in front of the emulator whose records have attributes of a type that nobody knows.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A text that begins with `poison` comes as a `Q` of the same length.
const TEXT: &[u8] = br#"{"S":"poison"#;
const POISON: &[u8] = br#"{"Q":"poison"#;

/// Passes everything on, and answers with the replacement; ends with the handle's abortion.
pub(crate) async fn endpoint(behind: &str) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let behind = behind.trim_start_matches("http://").to_owned();
    let serving = tokio::spawn(async move {
        let mut ways = tokio::task::JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let behind = behind.clone();
            ways.spawn(async move {
                let Ok(server) = TcpStream::connect(behind).await else { return };
                let ((mut from_client, to_client), (from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                tokio::select! {
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                    _ = poisoned(from_server, to_client) => {}
                }
            });
        }
    });
    (url, serving)
}

async fn poisoned(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let mut waiting: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            to.write_all(&waiting).await?;
            return to.shutdown().await;
        }
        waiting.extend_from_slice(&buffer[..read]);
        while let Some(at) = waiting.windows(TEXT.len()).position(|window| window == TEXT) {
            waiting[at..at + TEXT.len()].copy_from_slice(POISON);
        }
        // What may be the beginning of the text waits for the rest of it.
        let kept = (1..TEXT.len()).rev().find(|len| waiting.ends_with(&TEXT[..*len])).unwrap_or_default();
        let rest = waiting.split_off(waiting.len() - kept);
        to.write_all(&waiting).await?;
        waiting = rest;
    }
}
