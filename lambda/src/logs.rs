//! Log lines as Lambda's JSON log format has them: one JSON object a line, with the invocation it belongs to.
//!
//! `timestamp`, `level`, `message` and `requestId` are the fields by which Lambda and CloudWatch Logs filter; `target`,
//! `xrayTraceId` and the line's own fields stand beside them. One sandbox handles one invocation at a time, so a line of
//! a background task carries the invocation during which it was written, whatever span it was written in.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// The environment variable that holds a tracing filter, such as `info,ringtide_core=debug`.
pub const FILTER: &str = "RINGTIDE_LOG";

/// The environment variable by which Lambda's advanced logging hands over the function's log level.
pub const LAMBDA_LEVEL: &str = "AWS_LAMBDA_LOG_LEVEL";

/// The invocation that log lines belong to, shared between the handler and the log.
#[derive(Clone, Debug, Default)]
pub struct Invocation(Arc<Mutex<Option<Ids>>>);

#[derive(Clone, Debug, Default, Serialize)]
struct Ids {
    #[serde(rename = "requestId")]
    request: String,
    #[serde(rename = "xrayTraceId", skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
}

/// Ends an invocation when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Begun(Invocation);

impl Invocation {
    /// Begins an invocation: until what is returned is dropped, every line carries its ids.
    pub fn begin(&self, request_id: &str, trace: Option<&str>) -> Begun {
        *self.ids() = Some(Ids { request: request_id.to_owned(), trace: trace.map(str::to_owned) });
        Begun(self.clone())
    }

    /// The request id of the invocation under way.
    #[must_use]
    pub fn request_id(&self) -> Option<String> {
        self.ids().as_ref().map(|ids| ids.request.clone())
    }

    fn ids(&self) -> MutexGuard<'_, Option<Ids>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        *self.0.ids() = None;
    }
}

/// Chooses what is logged: `RINGTIDE_LOG`, else `AWS_LAMBDA_LOG_LEVEL`, else everything from `INFO` on.
///
/// By level and by target; filters by span would bring regular expressions into the package.
#[must_use]
pub fn filter(env: impl Fn(&str) -> Option<String>) -> Targets {
    let level = || match env(LAMBDA_LEVEL)?.to_ascii_lowercase().as_str() {
        // Lambda's levels are tracing's, but for one more.
        "fatal" => Some("error".to_owned()),
        level => Some(level.to_owned()),
    };
    let parsed = env(FILTER).and_then(|filter| filter.parse::<Targets>().ok());
    parsed.or_else(|| level()?.parse().ok()).unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

/// Writes the process's log to its standard output, and panics to the log; returns what the handler tells of invocations.
///
/// A second call changes nothing.
pub fn install(filter: Targets) -> Invocation {
    let invocation = Invocation::default();
    let lines = Lines { invocation: invocation.clone(), out: Mutex::new(std::io::stdout()) };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    // The one error is that somebody installed a log before, who is to keep it.
    let _installed_before = tracing::subscriber::set_global_default(subscriber);
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(reason = panic_text(panic.payload()), place, "panicked");
    }));
    invocation
}

/// What a panic says.
#[must_use]
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

/// Writes one JSON object a line.
struct Lines<W> {
    invocation: Invocation,
    out: Mutex<W>,
}

#[derive(Serialize)]
struct Line<'a> {
    timestamp: &'a str,
    level: &'static str,
    message: Value,
    target: &'a str,
    #[serde(flatten)]
    ids: Option<&'a Ids>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl<W: Write + Send + 'static, S: Subscriber> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut timestamp = String::with_capacity(32);
        // A string takes whatever is written to it.
        let _infallible = SystemTime.format_time(&mut Writer::new(&mut timestamp));
        let mut fields = Fields::default();
        event.record(&mut fields);
        let ids = self.invocation.ids().clone();
        let line = Line {
            timestamp: &timestamp,
            level: event.metadata().level().as_str(),
            message: fields.0.remove("message").unwrap_or_default(),
            target: event.metadata().target(),
            ids: ids.as_ref(),
            fields: fields.0,
        };
        let Ok(mut text) = serde_json::to_vec(&line) else { return };
        text.push(b'\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // Where the log cannot be written there is nobody left to tell.
        let _lost = out.write_all(&text).and_then(|()| out.flush());
    }
}

/// A line's fields; names that the line itself uses are not taken from an event, but for its message.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = match field.name() {
            reserved @ ("timestamp" | "level" | "target" | "requestId" | "xrayTraceId") => format!("field_{reserved}"),
            name => name.to_owned(),
        };
        self.0.insert(name, value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(write: impl FnOnce(&Invocation)) -> Vec<Value> {
        let (kept, invocation) = (Kept::default(), Invocation::default());
        let lines = Lines { invocation: invocation.clone(), out: Mutex::new(kept.clone()) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || write(&invocation));
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_has_the_fields_that_lambda_filters_by() {
        let lines = lines_of(|invocation| {
            tracing::info!("before");
            let begun = invocation.begin("r-1", Some("Root=1-2;Sampled=1"));
            tracing::warn!(records = 3, table = "products", level = "odd", "during");
            drop(begun);
            tracing::error!("after");
        });
        assert_eq!(lines[0]["message"], "before");
        assert_eq!(lines[0].get("requestId"), None);
        assert_eq!(lines[1]["level"], "WARN");
        assert_eq!(lines[1]["requestId"], "r-1");
        assert_eq!(lines[1]["xrayTraceId"], "Root=1-2;Sampled=1");
        assert_eq!((&lines[1]["records"], &lines[1]["table"]), (&Value::from(3), &Value::from("products")));
        assert_eq!(lines[1]["field_level"], "odd");
        let timestamp = lines[1]["timestamp"].as_str().unwrap();
        assert!(timestamp.ends_with('Z') && timestamp.contains('T') && timestamp.len() >= 20, "{timestamp}");
        assert_eq!(lines[2].get("requestId"), None);
    }

    #[test]
    fn the_own_filter_wins_over_lambdas_level() {
        let shown = |env: &[(&str, &str)]| {
            let of = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            filter(of).to_string()
        };
        assert_eq!(shown(&[]), "info");
        assert_eq!(shown(&[(LAMBDA_LEVEL, "DEBUG")]), "debug");
        assert_eq!(shown(&[(LAMBDA_LEVEL, "FATAL")]), "error");
        assert_eq!(shown(&[(LAMBDA_LEVEL, "DEBUG"), (FILTER, "warn")]), "warn");
        assert_eq!(shown(&[(FILTER, "a=b=c"), (LAMBDA_LEVEL, "ERROR")]), "error");
    }
}
