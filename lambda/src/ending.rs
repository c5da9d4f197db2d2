//! The end of a sandbox: what was not told yet is told before it.
//!
//! Lambda announces the end, by SIGTERM and at least 300 ms before SIGKILL, only to sandboxes that have an extension. So
//! the function registers one of its own, which subscribes to no event and costs two requests at the start.
//! Source: "Using the Lambda Extensions API to create extensions", AWS Lambda developer guide.

use std::future::Future;
use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use crate::startup::{TIMEOUT, exchange, send};

/// The extension's name, unlike that of any other in the function.
const NAME: &str = "ringtide-ending";

/// Runs `last` and ends the process when Lambda, or whoever started it, says so.
///
/// # Errors
/// Where signals cannot be listened for.
pub fn on_signal<F: Future<Output = ()> + Send>(last: impl FnOnce() -> F + Send + 'static) -> io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        last().await;
        std::process::exit(0);
    });
    Ok(())
}

/// Has Lambda announce the end of the sandbox; to be done before the first event is asked for.
///
/// # Errors
/// Where there are no extensions, as in emulators: the end then comes unannounced.
pub async fn announce(runtime_api: &str) -> io::Result<()> {
    let registered = tokio::time::timeout(TIMEOUT, register(runtime_api)).await??;
    // Lambda takes the start for done when every extension has asked for its next event; the answer never comes.
    tokio::spawn(hold(registered));
    Ok(())
}

async fn register(runtime_api: &str) -> io::Result<TcpStream> {
    let body = r#"{"events":[]}"#;
    let request = format!(
        "POST /2020-01-01/extension/register HTTP/1.1\r\nhost: {runtime_api}\r\nconnection: close\r\n\
         lambda-extension-name: {NAME}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len(),
    );
    let head = exchange(runtime_api, &request).await?;
    let id = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("lambda-extension-identifier"))
        .map(|(_, id)| id.trim().to_owned())
        .ok_or_else(|| io::Error::other("the extension was registered without an identifier"))?;
    let request = format!(
        "GET /2020-01-01/extension/event/next HTTP/1.1\r\nhost: {runtime_api}\r\n\
         lambda-extension-identifier: {id}\r\n\r\n"
    );
    send(runtime_api, &request).await
}

/// Holds the request for the next event open for as long as Lambda does.
async fn hold(mut stream: TcpStream) {
    let mut nothing = [0; 64];
    // Whatever comes, the extension has nothing to do.
    while matches!(stream.read(&mut nothing).await, Ok(read) if read > 0) {}
}
