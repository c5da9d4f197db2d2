//! The embedded DynamoDB emulator behind its HTTP endpoint.

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::process::ServerError;

/// An in-process DynamoDB with streams, in memory; it ends with this handle.
///
/// It differs from AWS in ways that matter to a consumer: one stream shard that never closes, an ending sequence number
/// on it all the same, a record for a write that changes nothing, and no expired or trimmed iterators.
pub struct Emulator {
    url: String,
    stop: CancellationToken,
    _server: JoinHandle<()>,
}

impl Emulator {
    /// Starts an empty one on a free loopback port; must be called in a Tokio runtime.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn start() -> Result<Self, ServerError> {
        let failed = |reason: String| ServerError::NotReady { program: "the DynamoDB emulator", reason };
        let database = dynoxide::Database::memory().map_err(|error| failed(format!("{error:?}")))?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            // Its only error is a listener that fails, which its clients see.
            let _ended = dynoxide::server::serve_with_shutdown(listener, database, stopped).await;
        });
        Ok(Self { url, stop, _server: server })
    }

    /// Its endpoint.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
