//! Raw configuration → valid configuration, with every violation at once.

mod delivery;
mod probe;
mod ring;
mod routes;
mod valkey;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::Violation;
use super::raw::{RawAws, RawConfig, RawPark, RawReader, RawWorker, Unknown};
use super::{ATTEMPTS, Aws, CAPACITY, Config, FAILURES, INLINE, LOADS, ParkTarget, QUEUE, Reader, Worker};
use crate::key::KeySpace;
use crate::route::Route;

pub(super) fn validate(raw: RawConfig) -> Result<Config, Vec<Violation>> {
    let mut check = Checker::default();
    check.unknown("", &raw.unknown);
    let aws = check.aws(raw.aws);
    let valkey = check.valkey(raw.valkey);
    let (ring, earlier_rings) = check.rings(raw.ring);
    check.violations.extend(valkey.violation_of(&ring));
    let spaces: BTreeMap<String, Option<Arc<KeySpace>>> = raw
        .spaces
        .into_iter()
        .map(|(name, space)| {
            let valid = check.space(&name, space).map(Arc::new);
            (name, valid)
        })
        .collect();
    let routes: Vec<Route> =
        raw.routes.into_iter().enumerate().filter_map(|(index, route)| check.route(index, route, &spaces)).collect();
    check.one_item_spaces(&routes);
    let park = check.park(raw.park);
    let delivery = check.delivery(raw.delivery, &valkey);
    let worker = check.worker(raw.worker);
    let probe = check.probe(raw.probe, &routes);
    let reader = check.reader(raw.reader);
    if !check.violations.is_empty() {
        return Err(check.violations);
    }
    let spaces = spaces.into_iter().filter_map(|(name, space)| space.map(|space| (name, space))).collect();
    Ok(Config { aws, valkey, ring, earlier_rings, file: None, spaces, routes, park, delivery, worker, probe, reader })
}

/// Collects violations; every method returns a usable value in any case, so that the next rule can be checked too.
#[derive(Default)]
struct Checker {
    violations: Vec<Violation>,
}

impl Checker {
    fn refuse(&mut self, place: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) {
        self.violations.push(Violation::new(place, problem, remedy));
    }

    fn unknown(&mut self, section: &str, unknown: &Unknown) {
        for name in unknown.keys() {
            let place = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
            self.refuse(place, "there is no such setting", "check its spelling, or remove it");
        }
    }

    fn duration(&mut self, place: &str, raw: Option<String>, default: Duration) -> Duration {
        let Some(text) = raw else { return default };
        match parse_duration(&text) {
            Some(duration) if !duration.is_zero() => duration,
            Some(_) | None => {
                self.refuse(
                    place,
                    format!("{text:?} is not a duration"),
                    "write for example \"250ms\", \"10s\", \"5m\" or \"1h\"",
                );
                default
            }
        }
    }

    fn whole<T: TryFrom<i64>>(
        &mut self,
        place: &str,
        raw: Option<i64>,
        range: std::ops::RangeInclusive<i64>,
        default: T,
    ) -> T {
        let Some(number) = raw else { return default };
        match T::try_from(number) {
            Ok(value) if range.contains(&number) => value,
            Ok(_) | Err(_) => {
                self.violations.push(Violation::outside(place, number, &range));
                default
            }
        }
    }

    fn aws(&mut self, raw: RawAws) -> Aws {
        self.unknown("aws", &raw.unknown);
        if let Some(url) = &raw.endpoint_url
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            self.refuse(
                "aws.endpoint_url",
                format!("{url:?} is not an HTTP address"),
                "write for example \"http://127.0.0.1:4566\"",
            );
        }
        Aws { region: raw.region, endpoint_url: raw.endpoint_url }
    }

    fn park(&mut self, raw: RawPark) -> Option<ParkTarget> {
        self.unknown("park", &raw.unknown);
        let text = raw.to.filter(|text| !text.is_empty())?;
        let target = park_target(&text);
        if target.is_none() {
            self.refuse(
                "park.to",
                format!("{text:?} is no place for records"),
                "write an SQS queue's URL, \"s3://bucket/prefix\", \"dynamodb://table\" or \"file:///directory\"",
            );
        }
        target
    }

    fn worker(&mut self, raw: RawWorker) -> Worker {
        self.unknown("worker", &raw.unknown);
        let default = Worker::default();
        let application = raw.application.unwrap_or(default.application);
        if !is_table_name(&application) {
            let problem = format!("{application:?} cannot be the name of a DynamoDB table");
            self.refuse("worker.application", problem, "use 3 to 255 letters, digits, \"_\", \".\" and \"-\"");
        }
        let listen = match raw.listen.as_deref() {
            None => default.listen,
            Some("") => None,
            Some(text) => text.parse::<SocketAddr>().map(Some).unwrap_or_else(|_| {
                let remedy = "write for example \"0.0.0.0:9464\", or \"\" for none";
                self.refuse("worker.listen", format!("{text:?} is not an address"), remedy);
                None
            }),
        };
        let max_reads =
            self.whole("worker.max_reads_per_second", raw.max_reads_per_second, 1..=1000, default.max_reads_per_second);
        let capacity = self.whole("worker.log_capacity", raw.log_capacity, 1_000..=10_000_000, default.log_capacity);
        let pages = self.whole("worker.pages_in_flight", raw.pages_in_flight, 1..=1_000, default.pages_in_flight);
        let mut time = |field: &str, raw, default| self.duration(&format!("worker.{field}"), raw, default);
        Worker {
            application,
            listen,
            otlp_endpoint: raw.otlp_endpoint.filter(|endpoint| !endpoint.is_empty()),
            idle_poll: time("idle_poll", raw.idle_poll, default.idle_poll),
            max_reads_per_second: max_reads,
            discovery_interval: time("discovery_interval", raw.discovery_interval, default.discovery_interval),
            checkpoint_interval: time("checkpoint_interval", raw.checkpoint_interval, default.checkpoint_interval),
            lease_timeout: time("lease_timeout", raw.lease_timeout, default.lease_timeout),
            drain_timeout: time("drain_timeout", raw.drain_timeout, default.drain_timeout),
            unhealthy_after: time("unhealthy_after", raw.unhealthy_after, default.unhealthy_after),
            log_capacity: capacity,
            pages_in_flight: pages,
        }
    }

    fn reader(&mut self, raw: RawReader) -> Reader {
        self.unknown("reader", &raw.unknown);
        let default = Reader::default();
        let reader = Reader {
            lease_ttl: self.duration("reader.lease_ttl", raw.lease_ttl, default.lease_ttl),
            load_timeout: self.duration("reader.load_timeout", raw.load_timeout, default.load_timeout),
            max_attempts: self.whole("reader.max_attempts", raw.max_attempts, ATTEMPTS, default.max_attempts),
            max_fallback_loads: self.whole(
                "reader.max_fallback_loads",
                raw.max_fallback_loads,
                LOADS,
                default.max_fallback_loads,
            ),
            inline_max: self.whole("reader.inline_max", raw.inline_max, INLINE, default.inline_max),
            max_loads: self.whole("reader.max_loads", raw.max_loads, LOADS, default.max_loads),
            timeout: raw.timeout.map(|text| self.duration("reader.timeout", Some(text), Duration::MAX)),
            soft_timeout: raw.soft_timeout.map(|text| self.duration("reader.soft_timeout", Some(text), Duration::MAX)),
            local_capacity: self.whole("reader.local_capacity", raw.local_capacity, CAPACITY, default.local_capacity),
            breaker_failures: self.whole(
                "reader.breaker_failures",
                raw.breaker_failures,
                FAILURES,
                default.breaker_failures,
            ),
            breaker_pause: self.duration("reader.breaker_pause", raw.breaker_pause, default.breaker_pause),
            retry_budget: raw.retry_budget.unwrap_or(default.retry_budget),
            retry_queue: self.whole("reader.retry_queue", raw.retry_queue, QUEUE, default.retry_queue),
            watch: self.duration("reader.watch", raw.watch, default.watch),
        };
        self.violations.extend(reader.violations());
        reader
    }
}

/// Whether DynamoDB takes it as the name of a table.
fn is_table_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    (3..=255).contains(&text.len()) && text.bytes().all(allowed)
}

fn park_target(text: &str) -> Option<ParkTarget> {
    let (scheme, rest) = text.split_once("://")?;
    match scheme {
        "http" | "https" if rest.contains('/') => Some(ParkTarget::Sqs { queue_url: text.to_owned() }),
        "s3" => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let prefix =
                if prefix.is_empty() || prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") };
            (!bucket.is_empty()).then(|| ParkTarget::S3 { bucket: bucket.to_owned(), prefix })
        }
        "dynamodb" if is_table_name(rest) => Some(ParkTarget::Table(rest.to_owned())),
        "file" if rest.starts_with('/') => Some(ParkTarget::Directory(PathBuf::from(rest))),
        _ => None,
    }
}

/// Reads a duration as the configuration has it: `250ms`, `10s`, `5m`, `1h`, `7d`; `None` for any other text.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(ms).map(Duration::from_millis)
}
