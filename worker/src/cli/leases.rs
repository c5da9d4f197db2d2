//! `ringtide leases`: looking at stream leases, giving them back, setting them to the beginning.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::operator::{self, Operator, Refusal};
use super::output::{Format, Output};
use super::{Common, Exit};
use crate::lease::{Checkpoint, Lease, OwnerId};
use crate::pausing;
use crate::replay::{self, rewind};
use crate::stream::ShardId;
use crate::supervisor::Found;

/// The owner of a lease for the moment in which it is given back. It renews nothing, so that a crash costs a time-out.
const OPERATOR: &str = "ringtide:operator";

/// Looks at stream leases and changes them.
#[derive(Debug, Args)]
pub(super) struct Leases {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists every lease of the lease table, of all tables.
    List(List),
    /// Takes leases from their owners, so that any worker takes them next. What an owner has delivered since its last
    /// checkpoint is delivered again.
    Release(Release),
    /// Sets checkpoints to the oldest record that is kept, for stream shards and all that continues them.
    Reset(Reset),
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// Only leases of this table.
    #[arg(long)]
    table: Option<String>,
}

#[derive(Debug, Args)]
struct Release {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// Stream shards, or whole lease keys.
    #[arg(required = true, value_name = "SHARD")]
    shards: Vec<String>,
    /// Only shows what would be written.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct Reset {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// Stream shards.
    #[arg(required_unless_present = "table", value_name = "SHARD")]
    shards: Vec<String>,
    /// Every stream shard of this table; with SHARD, the table that they are looked for in.
    #[arg(long)]
    table: Option<String>,
    /// Only shows what would be written.
    #[arg(long)]
    dry_run: bool,
}

/// A lease for people and programs.
#[derive(Debug, Serialize)]
struct LeaseLine {
    lease: String,
    table: String,
    shard: String,
    owner: Option<String>,
    leaving: Option<String>,
    paused: bool,
    checkpoint: String,
    counter: u64,
    parents: Vec<String>,
    children: Vec<String>,
}

/// A lease that is, or would be, written.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    table: String,
    shard: String,
    was: Option<String>,
    now: String,
}

#[derive(Debug, Serialize)]
struct Released {
    dry_run: bool,
    released: Vec<String>,
    changed_meanwhile: Vec<String>,
}

impl Leases {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        operator::exit(match self.command {
            Command::List(list) => list.run().await,
            Command::Release(release) => release.run().await,
            Command::Reset(reset) => reset.run().await,
        })
    }
}

impl List {
    async fn run(self) -> Result<Exit, Refusal> {
        let operator = Operator::new(&self.common).await?;
        let output = Output::from(self.format);
        let mut leases = operator.known_leases().await?;
        leases.sort_by(|a, b| a.key.cmp(&b.key));
        let wanted = leases.iter().filter(|lease| self.table.as_ref().is_none_or(|t| *t == lease.key.stream.table()));
        let lines: Vec<LeaseLine> = wanted.map(line).collect();
        output.json(&lines)?;
        let row = |line: &LeaseLine| {
            vec![
                line.table.clone(),
                line.shard.clone(),
                line.owner.clone().unwrap_or_else(|| "-".to_owned()),
                line.checkpoint.clone(),
                line.counter.to_string(),
                line.parents.join(" "),
            ]
        };
        let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
        output.table(&["table", "stream shard", "owner", "checkpoint", "counter", "parent"], &rows)?;
        output.line(operator::leases(lines.len()))?;
        Ok(Exit::Ok)
    }
}

fn line(lease: &Lease) -> LeaseLine {
    LeaseLine {
        lease: lease.key.to_string(),
        table: lease.key.stream.table().to_owned(),
        shard: lease.key.shard.to_string(),
        owner: lease.owner.as_ref().map(ToString::to_string),
        leaving: lease.leaving.as_ref().map(ToString::to_string),
        paused: lease.is_paused(),
        checkpoint: lease.checkpoint.to_string(),
        counter: lease.counter,
        parents: lease.parents.iter().map(ToString::to_string).collect(),
        children: lease.children.iter().map(ToString::to_string).collect(),
    }
}

impl Release {
    async fn run(self) -> Result<Exit, Refusal> {
        let operator = Operator::new(&self.common).await?;
        let output = Output::from(self.format);
        let leases = operator.known_leases().await?;
        let found = |wanted: &String| {
            let of =
                leases.iter().filter(|lease| lease.key.to_string() == *wanted || lease.key.shard.as_str() == wanted);
            of.collect::<Vec<_>>()
        };
        let unknown: Vec<&String> = self.shards.iter().filter(|wanted| found(wanted).is_empty()).collect();
        if !unknown.is_empty() {
            return Err(Refusal::Configuration(format!(
                "there is no lease of {unknown:?}; `ringtide leases list` names them"
            )));
        }
        let mut outcome = Released { dry_run: self.dry_run, released: Vec::new(), changed_meanwhile: Vec::new() };
        for lease in self.shards.iter().flat_map(found) {
            if lease.is_paused() {
                return Err(Refusal::Configuration(format!(
                    "{} is paused; `ringtide resume --table {}` gives it back",
                    lease.key,
                    lease.key.stream.table()
                )));
            }
            let Some(owner) = &lease.owner else { continue };
            let freed = self.dry_run
                || pausing::give_back(&operator.leases, lease, &OwnerId::named(OPERATOR))
                    .await
                    .map_err(Refusal::failed)?;
            let list = if freed { &mut outcome.released } else { &mut outcome.changed_meanwhile };
            list.push(lease.key.to_string());
            let done = match (self.dry_run, freed) {
                (true, _) => "would be taken",
                (false, true) => "taken",
                (false, false) => "has changed meanwhile and was not taken; try again",
            };
            output.line(format!("{}: {done} from {owner}", lease.key))?;
        }
        output.json(&outcome)?;
        Ok(if outcome.changed_meanwhile.is_empty() { Exit::Ok } else { Exit::Failed })
    }
}

impl Reset {
    async fn run(self) -> Result<Exit, Refusal> {
        let operator = Operator::new(&self.common).await?;
        let output = Output::from(self.format);
        let mut unknown: Vec<&str> = self.shards.iter().map(String::as_str).collect();
        let mut wanted_of_streams = Vec::new();
        operator.known_leases().await?;
        for table in operator.tables(self.table.as_deref())? {
            let found = operator.stream(&table).await?;
            let listing = operator.listing(&found.stream).await?;
            let wanted = |shard: &ShardId| self.shards.is_empty() || self.shards.iter().any(|s| s == shard.as_str());
            let targets: BTreeMap<ShardId, Checkpoint> = listing
                .shards
                .iter()
                .filter(|shard| wanted(&shard.id))
                .map(|shard| (shard.id.clone(), Checkpoint::TrimHorizon))
                .collect();
            unknown.retain(|name| !targets.keys().any(|shard| shard.as_str() == *name));
            wanted_of_streams.push((found, targets));
        }
        if !unknown.is_empty() {
            return Err(Refusal::Configuration(format!("no stream lists {unknown:?}; `ringtide status` names them")));
        }
        let mut written = Vec::new();
        for (found, targets) in wanted_of_streams.iter().filter(|(_, targets)| !targets.is_empty()) {
            written.extend(set_back(&operator, found, targets, self.dry_run).await?);
        }
        print(output, &written, self.dry_run)?;
        Ok(Exit::Ok)
    }
}

/// Sets the checkpoints of one stream back, or tells what that would write.
pub(super) async fn set_back(
    operator: &Operator,
    found: &Found,
    targets: &BTreeMap<ShardId, Checkpoint>,
    dry_run: bool,
) -> Result<Vec<Written>, Refusal> {
    let listing = operator.listing(&found.stream).await?;
    let writes = if dry_run {
        let leases = pausing::leases_of(&operator.leases, &found.name).await.map_err(Refusal::failed)?;
        rewind::rewind(&listing, &leases, targets)
    } else {
        let stuck = |error| {
            Refusal::Failed(format!(
                "{error}; the table may be left paused: `ringtide resume --table {}` lets its workers go on, and the same command tries again",
                found.table
            ))
        };
        let patience = operator.config.worker.lease_timeout;
        replay::write(&operator.leases, &found.name, &listing, targets, patience).await.map_err(stuck)?
    };
    let written = |write: rewind::Write| Written {
        table: found.table.to_string(),
        shard: write.shard.to_string(),
        was: write.was.map(|was| was.to_string()),
        now: write.to.to_string(),
    };
    Ok(writes.into_iter().map(written).collect())
}

/// Shows what was, or would be, written.
pub(super) fn print(output: Output, written: &[Written], dry_run: bool) -> std::io::Result<()> {
    #[derive(Serialize)]
    struct Shown<'w> {
        dry_run: bool,
        written: &'w [Written],
    }
    output.json(&Shown { dry_run, written })?;
    let row = |line: &Written| {
        let was = line.was.clone().unwrap_or_else(|| "no lease".to_owned());
        vec![line.table.clone(), line.shard.clone(), was, line.now.clone()]
    };
    let rows: Vec<Vec<String>> = written.iter().map(row).collect();
    output.table(&["table", "stream shard", "was", if dry_run { "would be" } else { "now" }], &rows)?;
    output.line(match (written.len(), dry_run) {
        (0, _) => "no checkpoint stands after the place asked for: nothing to set back".to_owned(),
        (count, true) => format!("{} would be written", operator::leases(count)),
        (count, false) => format!("{} written; workers go on from there", operator::leases(count)),
    })
}
