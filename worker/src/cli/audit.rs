//! `ringtide audit`: cached entries against their tables.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use ringtide_core::config::parse_duration;

use super::operator::{self, Operator, Refusal};
use super::output::{Format, Output, Progress};
use super::{Common, Exit};
use crate::audit;
use crate::audit::report::Report;
use crate::audit::wanted::{Repair, Sample, Wanted};
use crate::ceiling::Ceiling;
use crate::ring_shards::RingShards;

/// Holds cached entries against their tables by strongly consistent reads; exits with 1 where some are stale or misplaced.
///
/// What is judged are key spaces whose keys hold the whole primary key of one table: by the item's version in mode versioned,
/// by the image that a refresh route would store, else by the fields of a JSON payload that have an attribute's name.
#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// Only key spaces that this table feeds.
    #[arg(long)]
    table: Option<String>,
    /// Only this key space. May be given several times.
    #[arg(long)]
    space: Vec<String>,
    /// Looks at so many entries (1000), or at this part of them (5%), chosen at random. Names are listed all the same.
    #[arg(long, value_name = "N|P%", value_parser = sample)]
    sample: Option<Sample>,
    /// Items that are read in a second, each strongly consistent.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How long the stream may lag: an entry that seems stale is looked at again after this time.
    #[arg(long, default_value = "5s", value_parser = duration)]
    lag: Duration,
    /// The pause between two pages of names on a ring shard.
    #[arg(long, default_value = "5ms", value_parser = duration)]
    pause: Duration,
    /// A field of payloads that is not compared, since the application keeps it in a form of its own. May be given several
    /// times.
    #[arg(long, value_name = "FIELD")]
    ignore: Vec<String>,
    /// Invalidates what is stale or misplaced.
    #[arg(long)]
    repair: bool,
    /// With --repair: only counts what would be invalidated.
    #[arg(long, requires = "repair")]
    dry_run: bool,
}

fn sample(text: &str) -> Result<Sample, String> {
    let sample = match text.strip_suffix('%') {
        Some(percent) => {
            let percent = percent.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
            percent.map(|percent| Sample::Part(percent / 100.0))
        }
        None => text.parse().ok().map(Sample::Count),
    };
    sample.ok_or_else(|| "write a number of entries such as 1000, or a part of them such as 5%".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a duration such as 500ms, 5s or 1m".to_owned())
}

impl Audit {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        operator::exit(self.audit().await)
    }

    async fn audit(self) -> Result<Exit, Refusal> {
        let operator = Operator::new(&self.common).await?;
        let output = Output::from(self.format);
        if let Some(table) = &self.table {
            operator.tables(Some(table))?;
        }
        let known = &operator.config.spaces;
        let unknown: Vec<&String> = self.space.iter().filter(|space| !known.contains_key(*space)).collect();
        if !unknown.is_empty() {
            let known: Vec<&str> = known.keys().map(String::as_str).collect();
            let known = known.join(", ");
            return Err(Refusal::Configuration(format!("there is no key space {unknown:?}; there are: {known}")));
        }
        let wanted = Wanted {
            spaces: self.space.iter().cloned().collect(),
            table: self.table.clone(),
            sample: self.sample.unwrap_or(Sample::All),
            lag: self.lag,
            pause: self.pause,
            ignored: self.ignore.iter().cloned().collect::<BTreeSet<_>>(),
            repair: match (self.repair, self.dry_run) {
                (false, _) => Repair::No,
                (true, true) => Repair::DryRun,
                (true, false) => Repair::Yes,
            },
        };
        let shards = RingShards::connect(&operator.config).map_err(Refusal::violations)?;
        let ceiling = Ceiling::new(self.rate);
        let audit = audit::Audit::new(&operator.config, &shards, &operator.clients.tables, &ceiling, &wanted);
        let audit = audit.await.map_err(Refusal::failed)?;
        let mut stage = ("", Progress::begin(""));
        let report = audit
            .run(&mut |what, done, of| {
                if stage.0 != what {
                    stage = (what, Progress::begin(what));
                }
                stage.1.at(done, of);
            })
            .await
            .map_err(Refusal::failed)?;
        drop(stage);
        output.json(&report)?;
        print(output, &report)?;
        Ok(if report.is_clean() { Exit::Ok } else { Exit::Failed })
    }
}

fn print(output: Output, report: &Report) -> std::io::Result<()> {
    let row = |(name, space): (&String, &crate::audit::report::SpaceReport)| {
        let counts = [
            space.listed,
            space.looked_at,
            space.fresh,
            space.stale,
            space.absent,
            space.invalidated,
            space.misplaced,
            space.unjudged.values().sum(),
            space.foreign,
        ];
        let mut row = vec![name.clone(), space.basis.unwrap_or("-").to_owned()];
        row.extend(counts.iter().map(u64::to_string));
        row
    };
    let rows: Vec<Vec<String>> = report.spaces.iter().map(row).collect();
    let headers = [
        "key space",
        "judged by",
        "keys",
        "looked at",
        "fresh",
        "stale",
        "absent",
        "invalidated",
        "misplaced",
        "unjudged",
        "foreign",
    ];
    output.table(&headers, &rows)?;
    for (name, space) in &report.spaces {
        if let Some(reason) = &space.not_auditable {
            output.line(format!("{name} is not auditable: {reason}"))?;
        }
        for (reason, count) in &space.unjudged {
            if space.not_auditable.is_none() {
                output.line(format!("{name}: {count} not judged: {reason}"))?;
            }
        }
        for (field, count) in &space.differing {
            let others = space.fresh + space.stale - count;
            let hint = if others == 0 && *count > 1 {
                format!("; in all of them: if the application keeps it in a form of its own, use --ignore {field}")
            } else {
                String::new()
            };
            output.line(format!("{name}: {field} differs in {count}{hint}"))?;
        }
        if space.changing > 0 {
            output.line(format!("{name}: {} changed whenever they were looked at", space.changing))?;
        }
    }
    for example in &report.examples {
        output.line(format!("! {} on {}: {}", example.key, example.ring_shard, example.what))?;
    }
    for text in &report.unreachable {
        output.line(format!("! not looked at: {text}"))?;
    }
    let nines = match report.nines {
        None => "nothing could be judged".to_owned(),
        Some(nines) if report.at_least => format!("true in at least {nines:.1} nines"),
        Some(nines) => format!("true in {nines:.1} nines"),
    };
    output.line(format!(
        "{} stale of {} judged, {} misplaced: {nines} ({:.1} s)",
        report.stale, report.judged, report.misplaced, report.took_s
    ))?;
    if report.repaired > 0 {
        output.line(format!("{} invalidated", report.repaired))?;
    }
    if report.would_repair > 0 {
        output.line(format!("{} would be invalidated", report.would_repair))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_number_or_a_part() {
        assert_eq!(sample("1000"), Ok(Sample::Count(1000)));
        assert_eq!(sample("12.5%"), Ok(Sample::Part(0.125)));
        for wrong in ["", "-1", "101%", "many"] {
            assert!(sample(wrong).is_err(), "{wrong}");
        }
    }
}
