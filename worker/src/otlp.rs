//! Metrics for an OpenTelemetry collector, by OTLP over HTTP in its JSON encoding.
//!
//! What is sent is what `/metrics` shows, made from the same text: both have the same numbers, and what is recorded on hot
//! paths is recorded once. Values are cumulative, so that an export that fails loses nothing that the next one does not bring.

mod exposition;
mod message;
mod settings;

#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ringtide_core::clock::unix_ms;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub(crate) use settings::Settings;

use crate::metrics::Metrics;

/// The longest answer that is read; it holds an error's text at most.
const LONGEST_ANSWER: usize = 16 * 1024;

/// Sends metrics at an interval, and once more at the end.
pub(crate) struct Exporter {
    settings: Settings,
    metrics: Metrics,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    started_ms: u64,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// No request can be made as it is configured.
    #[error("no request can be made: {0}")]
    Request(String),
    /// The collector cannot be reached.
    #[error("the collector cannot be reached: {0}")]
    Unreachable(String),
    /// The collector did not answer in time.
    #[error("the collector did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The collector refuses.
    #[error("the collector answered {status}: {text}")]
    Refused {
        /// The answer's status.
        status: StatusCode,
        /// The beginning of its text.
        text: String,
    },
}

impl Exporter {
    /// Prepares to send; nothing is sent yet.
    ///
    /// # Errors
    /// The system's certificates cannot be read, where the endpoint is encrypted.
    pub(crate) fn new(settings: Settings, metrics: Metrics) -> Result<Self, std::io::Error> {
        let builder = HttpsConnectorBuilder::new();
        let connector = if settings.endpoint.starts_with("https://") {
            let provider = rustls::crypto::ring::default_provider();
            builder.with_provider_and_native_roots(provider)?.https_only().enable_http1().build()
        } else {
            let roots = rustls::RootCertStore::empty();
            let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
            let tls = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(std::io::Error::other)?
                .with_root_certificates(roots)
                .with_no_client_auth();
            builder.with_tls_config(tls).https_or_http().enable_http1().build()
        };
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { settings, metrics, client, started_ms: unix_ms() })
    }

    /// Sends at the interval until `stop`, and then once more.
    pub(crate) async fn run(self, stop: CancellationToken) {
        tracing::info!(endpoint = self.settings.endpoint, "metrics are sent to a collector");
        let mut turns = tokio::time::interval(self.settings.interval);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first turn is at once, when there is nothing to tell.
        turns.tick().await;
        let mut failing = false;
        loop {
            let last = tokio::select! {
                _ = turns.tick() => false,
                () = stop.cancelled() => true,
            };
            match self.export().await {
                Ok(()) if failing => {
                    tracing::info!("metrics reach the collector again");
                    failing = false;
                }
                Ok(()) => {}
                Err(error) if failing => tracing::debug!(%error, "metrics not sent"),
                Err(error) => {
                    tracing::warn!(%error, "metrics not sent, trying again at every interval");
                    failing = true;
                }
            }
            if last {
                return;
            }
        }
    }

    /// Sends everything as it stands now.
    async fn export(&self) -> Result<(), ExportError> {
        let families = exposition::read(&self.metrics.render());
        let body = message::of(&families, &self.settings.resource, self.started_ms, unix_ms()).to_string();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.settings.endpoint)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("ringtide/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|error| ExportError::Request(error.to_string()))?;
        let answer = tokio::time::timeout(self.settings.timeout, async {
            let answer = self.client.request(request).await.map_err(|error| ExportError::Unreachable(chain(&error)))?;
            let status = answer.status();
            let text = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
            if status.is_success() {
                return Ok(());
            }
            let text = text.map(|text| String::from_utf8_lossy(&text.to_bytes()).into_owned()).unwrap_or_default();
            let text = text.chars().take(200).collect();
            Err(ExportError::Refused { status, text })
        });
        answer.await.unwrap_or(Err(ExportError::TimedOut(self.settings.timeout)))
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
