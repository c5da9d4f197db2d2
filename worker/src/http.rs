//! What the worker serves: `/healthz`, `/readyz`, `/metrics`, `/status.json`, and a page that shows the last to people.

mod assets;
mod history;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::time::Instant;

use crate::deliver::Deliver;
use crate::health::{Health, Verdict};
use crate::metrics::Metrics;

use history::History;

/// What the pages are made from.
#[derive(Clone)]
pub(crate) struct Pages {
    health: Health,
    deliver: Arc<dyn Deliver>,
    metrics: Option<Metrics>,
    about: Arc<About>,
    history: History,
}

/// Which worker it is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct About {
    pub(crate) application: String,
    pub(crate) owner: String,
    pub(crate) version: &'static str,
    pub(crate) started_at_ms: u64,
    #[serde(skip)]
    pub(crate) since: Instant,
}

#[derive(Serialize)]
struct Body {
    #[serde(flatten)]
    verdict: Verdict,
    /// Reported, and no reason by itself: other ring shards are served while one is down.
    ring_shards_down: Vec<String>,
    /// Reported in the same way: records that cannot be used wait to be parked, and hold up their checkpoint.
    parking_fails: bool,
}

impl Pages {
    pub(crate) fn new(health: Health, deliver: Arc<dyn Deliver>, metrics: Option<Metrics>, about: About) -> Self {
        Self { health, deliver, metrics, about: Arc::new(about), history: History::default() }
    }

    /// Keeps gauges that change by themselves up to date, and remembers what the lag was; never returns.
    pub(crate) async fn watch(self) -> std::io::Result<()> {
        history::watch(&self).await
    }

    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(async |State(pages): State<Self>| pages.answer(pages.health.live())))
            .route("/readyz", get(async |State(pages): State<Self>| pages.answer(pages.health.ready())))
            .route("/metrics", get(async |State(pages): State<Self>| pages.exposition()))
            .route("/status.json", get(async |State(pages): State<Self>| pages.status()))
            .merge(assets::router())
            .with_state(self)
    }

    fn answer(&self, verdict: Verdict) -> Response {
        let status = if verdict.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let (ring_shards_down, parking_fails) = (self.deliver.unhealthy(), self.deliver.parking_fails());
        (status, Json(Body { verdict, ring_shards_down, parking_fails })).into_response()
    }

    fn status(&self) -> Response {
        ([(header::CACHE_CONTROL, "no-store")], Json(status::of(self))).into_response()
    }

    fn exposition(&self) -> Response {
        match &self.metrics {
            Some(metrics) => {
                let text = metrics.render();
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
            }
            None => (StatusCode::NOT_FOUND, "this process exports no metrics\n").into_response(),
        }
    }
}
