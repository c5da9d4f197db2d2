//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;

use crate::deliver::Deliver;
use crate::health::{Health, Verdict};

/// What the pages are made from.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) health: Health,
    pub(crate) deliver: Arc<dyn Deliver>,
    pub(crate) metrics: Option<PrometheusHandle>,
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

pub(crate) fn router(pages: Pages) -> Router {
    Router::new()
        .route("/healthz", get(async |State(pages): State<Pages>| pages.answer(pages.health.live())))
        .route("/readyz", get(async |State(pages): State<Pages>| pages.answer(pages.health.ready())))
        .route("/metrics", get(metrics))
        .with_state(pages)
}

impl Pages {
    fn answer(&self, verdict: Verdict) -> Response {
        let status = if verdict.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let (ring_shards_down, parking_fails) = (self.deliver.unhealthy(), self.deliver.parking_fails());
        (status, Json(Body { verdict, ring_shards_down, parking_fails })).into_response()
    }
}

async fn metrics(State(pages): State<Pages>) -> Response {
    match pages.metrics {
        Some(handle) => {
            handle.run_upkeep();
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render()).into_response()
        }
        None => (StatusCode::NOT_FOUND, "this process exports no metrics\n").into_response(),
    }
}
