//! Where metrics go: the configuration, and OpenTelemetry's own environment variables.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Uri};
use ringtide_core::config::Violation;

/// What OpenTelemetry's specification says where nothing is set.
const INTERVAL: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where and how metrics are sent. Headers may hold credentials.
pub(crate) struct Settings {
    pub(super) endpoint: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Attributes of everything that is sent.
    pub(super) resource: Vec<(String, String)>,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
}

impl Settings {
    /// Reads `OTEL_EXPORTER_OTLP_[METRICS_]ENDPOINT`, `…_HEADERS` and `…_TIMEOUT`, `OTEL_METRIC_EXPORT_INTERVAL`,
    /// `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SDK_DISABLED`; an endpoint of the configuration comes
    /// before the environment's. `None` where there is no endpoint.
    ///
    /// # Errors
    /// Everything that cannot be used, at once; no error shows a header's value.
    pub(crate) fn read(
        configured: Option<&str>,
        application: &str,
        of: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Vec<Violation>> {
        let of = |name: &str| of(name).filter(|value| !value.trim().is_empty());
        let exporter = |part: &str| {
            let special = format!("OTEL_EXPORTER_OTLP_METRICS_{part}");
            let general = format!("OTEL_EXPORTER_OTLP_{part}");
            of(&special).map(|value| (special, value)).or_else(|| of(&general).map(|value| (general, value)))
        };
        let below = |base: &str| format!("{}/v1/metrics", base.trim_end_matches('/'));
        let (place, endpoint) = match (configured, exporter("ENDPOINT")) {
            (Some(base), _) => ("worker.otlp_endpoint".to_owned(), below(base)),
            (None, Some((name, url))) if name.contains("METRICS") => (name, url),
            (None, Some((name, base))) => (name, below(&base)),
            (None, None) => return Ok(None),
        };
        if of("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let mut violations = Vec::new();
        let usable = endpoint.parse::<Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        });
        if !usable {
            violations.push(Violation::new(
                place,
                "it is no HTTP address",
                "write for example \"http://127.0.0.1:4318\"",
            ));
        }
        if let Some((place, protocol)) = exporter("PROTOCOL")
            && protocol == "grpc"
        {
            let problem = "OTLP over gRPC is not spoken";
            violations.push(Violation::new(place, problem, "use http/json, and the collector's HTTP port (4318)"));
        }
        let mut headers = Vec::new();
        if let Some((place, text)) = exporter("HEADERS") {
            for (name, value) in pairs(&text) {
                match (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
                    (Ok(header), Ok(mut value)) => {
                        value.set_sensitive(true);
                        headers.push((header, value));
                    }
                    _ => violations.push(Violation::new(
                        place.clone(),
                        format!("{name:?} or its value cannot be a header"),
                        "write name=value,name=value with values in percent-encoding",
                    )),
                }
            }
        }
        let mut time = |named: Option<(String, String)>, default: Duration| match named {
            None => default,
            Some((place, text)) => match text.trim().parse::<u64>() {
                Ok(ms) if ms > 0 => Duration::from_millis(ms),
                _ => {
                    violations.push(Violation::new(place, format!("{text:?} is no time"), "write milliseconds"));
                    default
                }
            },
        };
        let timeout = time(exporter("TIMEOUT"), TIMEOUT);
        let name = "OTEL_METRIC_EXPORT_INTERVAL";
        let interval = time(of(name).map(|value| (name.to_owned(), value)), INTERVAL);
        let mut resource = vec![
            ("service.name".to_owned(), "ringtide".to_owned()),
            ("service.namespace".to_owned(), application.to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let given = of("OTEL_RESOURCE_ATTRIBUTES").map(|text| pairs(&text)).unwrap_or_default();
        let named = of("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name));
        for (name, value) in given.into_iter().chain(named) {
            resource.retain(|(other, _)| *other != name);
            resource.push((name, value));
        }
        if violations.is_empty() {
            Ok(Some(Self { endpoint, headers, resource, interval, timeout }))
        } else {
            Err(violations)
        }
    }
}

/// Reads `a=b,c=d`, with values in percent-encoding.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), percent_decoded(value.trim())))
    };
    text.split(',').filter_map(pair).collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
