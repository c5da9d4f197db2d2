//! `ringtide explain`: what records lead to, by the code that delivers them, without delivering anything.

mod input;

use std::io::Read;

use clap::Args;
use ringtide_core::clock::unix_ms;
use ringtide_core::command::{Action, Command, Image};
use ringtide_core::record::{ChangeRecord, UnreadableRecord};
use ringtide_core::ring::{RingHistory, ShardName};
use ringtide_core::route::{RouteAction, RouteExplanation, Router, WhyNot};
use serde::Serialize;

use super::output::{Format, Output};
use super::ring::history;
use super::{Common, Exit};

/// Tells what records lead to: which routes and keys, which commands for which ring shards, and why not.
///
/// Exits with 1 where a record would be parked. Nothing is delivered, and no value is shown but those in keys.
#[derive(Debug, Args)]
pub(super) struct Explain {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// A file, or - for standard input: a record in DynamoDB's JSON as a stream or an event of Lambda has it, several of
    /// them, or a parked record.
    record: String,
    /// The table of records that do not tell it, as those of `aws dynamodbstreams get-records`.
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
}

#[derive(Serialize)]
struct Explained {
    table: Option<String>,
    sequence: Option<String>,
    event: Option<&'static str>,
    /// Whether the record would be parked.
    parked: bool,
    /// Why it cannot be used, or why only its keys are.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    routes: Vec<AtRoute>,
}

#[derive(Serialize)]
struct AtRoute {
    route: String,
    space: String,
    template: String,
    action: &'static str,
    old_key: Option<String>,
    new_key: Option<String>,
    commands: Vec<Order>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

/// A command for a key.
#[derive(Serialize)]
struct Order {
    key: String,
    command: &'static str,
    /// Whether entries that are new enough are left alone.
    versioned: bool,
    /// Every ring shard that it goes to, the owner first.
    ring_shards: Vec<ShardName>,
}

impl Explain {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        let config = match self.common.open().await {
            Ok(config) => config,
            Err(exit) => return Ok(exit),
        };
        let ring = match history(&config) {
            Ok(ring) => ring,
            Err(exit) => return Ok(exit),
        };
        let text = match self.text() {
            Ok(text) => text,
            Err(error) => {
                tracing::error!("{} cannot be read: {error}", self.record);
                return Ok(Exit::Configuration);
            }
        };
        let records = match input::records(&text, self.table.as_deref()) {
            Ok(records) => records,
            Err(problem) => {
                tracing::error!("{}: {problem}", self.record);
                return Ok(Exit::Configuration);
            }
        };
        let router = Router::new(config.routes);
        let explained: Vec<Explained> = records.iter().map(|record| explained(record, &router, &ring)).collect();
        let out = Output::from(self.format);
        for one in &explained {
            one.print(out)?;
        }
        out.json(&explained)?;
        Ok(if explained.iter().any(|one| one.parked) { Exit::Failed } else { Exit::Ok })
    }

    fn text(&self) -> std::io::Result<String> {
        if self.record != "-" {
            return std::fs::read_to_string(&self.record);
        }
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        Ok(text)
    }
}

fn explained(record: &Result<ChangeRecord, UnreadableRecord>, router: &Router, ring: &RingHistory) -> Explained {
    let record = match record {
        Ok(record) => record,
        Err(unreadable) => {
            return Explained {
                table: unreadable.table.clone(),
                sequence: unreadable.sequence.map(|sequence| sequence.to_string()),
                event: None,
                parked: true,
                problem: Some(unreadable.reason.clone()),
                routes: Vec::new(),
            };
        }
    };
    let explanation = router.explain(record);
    let no_route = || format!("no route names the table {}", record.stream.table);
    let problem = match &explanation.keys_only {
        Some(error) => Some(format!("{error}: only the primary key is used")),
        None => explanation.routes.is_empty().then(no_route),
    };
    Explained {
        table: Some(record.stream.table.clone()),
        sequence: Some(record.sequence.to_string()),
        event: Some(record.event.as_str()),
        parked: explanation.routes.iter().any(|route| matches!(route.why_not, Some(WhyNot::Unreachable(_)))),
        problem,
        routes: explanation.routes.into_iter().map(|route| AtRoute::of(route, ring)).collect(),
    }
}

impl Explained {
    fn print(&self, out: Output) -> std::io::Result<()> {
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        out.line(format!("{} {} of {}", self.event.unwrap_or("record"), known(&self.sequence), known(&self.table)))?;
        if let Some(problem) = &self.problem {
            let fate = if self.parked { "parked" } else { "note" };
            out.line(format!("  {fate}: {problem}"))?;
        }
        for route in &self.routes {
            out.line(format!("  {} {} -> {} ({})", route.route, route.action, route.space, route.template))?;
            for (name, key) in [("old", &route.old_key), ("new", &route.new_key)] {
                if let Some(key) = key {
                    out.line(format!("    {name} key  {key}"))?;
                }
            }
            for order in &route.commands {
                let shards: Vec<&str> = order.ring_shards.iter().map(ShardName::as_str).collect();
                let versioned = if order.versioned { ", unless it is new enough" } else { "" };
                out.line(format!("    {} {} on {}{versioned}", order.command, order.key, shards.join(", ")))?;
            }
            if let Some(why_not) = &route.why_not {
                out.line(format!("    nothing: {why_not}"))?;
            }
            if let Some(note) = route.note {
                out.line(format!("    note: {note}"))?;
            }
        }
        Ok(())
    }
}

impl AtRoute {
    fn of(explained: RouteExplanation<'_>, ring: &RingHistory) -> Self {
        let route = explained.route;
        Self {
            route: route.place.clone(),
            space: route.space.name.to_string(),
            template: route.space.template.to_string(),
            action: match route.action {
                RouteAction::Invalidate => "invalidate",
                RouteAction::Refresh { .. } => "refresh",
            },
            old_key: explained.old_key.map(|key| key.to_string()),
            new_key: explained.new_key.map(|key| key.to_string()),
            commands: explained.commands.into_iter().map(|command| Order::of(&command, ring)).collect(),
            why_not: explained.why_not.map(|why_not| why_not.to_string()),
            note: explained
                .version_missing
                .then_some("the record has no usable version, so that the entry is dropped whatever its version is"),
        }
    }
}

impl Order {
    fn of(command: &Command, ring: &RingHistory) -> Self {
        let (name, version) = match &command.action {
            Action::Invalidate { version } if command.space.keeps_stale() => ("mark as stale", version),
            Action::Invalidate { version } => ("drop", version),
            Action::Refresh { version, image: Image::Json(_), populate: false } => ("replace if cached", version),
            Action::Refresh { version, image: Image::Json(_), populate: true } => ("store", version),
            Action::Refresh { version, image: Image::Deleted, .. } => ("store as absent", version),
        };
        let owners = ring.owners(command.key.as_bytes(), unix_ms());
        Self {
            key: command.key.to_string(),
            command: name,
            versioned: !version.is_none(),
            ring_shards: owners.iter().cloned().collect(),
        }
    }
}
