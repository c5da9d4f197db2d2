//! `ringtide status`: tables, stream shards, leases and owners, as the lease table and the streams show them.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::operator::{self, Operator, Refusal};
use super::output::{Format, Output, Progress};
use super::{Common, Exit, health};
use crate::lease::{Lease, LeaseStore};
use crate::overview::{self, OwnerLine, StreamLine, Watched};

/// Readings of the leases' counters while they are watched, at least, and the longest pause between two: each is a Scan.
const READINGS: u32 = 8;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Shows tables, stream shards, leases and owners; exits with 1 where a stream shard has no reader that lives.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// Only this table.
    #[arg(long)]
    table: Option<String>,
    /// For how many seconds the leases' counters are watched, so that dead owners show; less where all of them move before.
    /// 0 for one reading. Without it worker.lease_timeout, after which a lease that was not renewed has expired.
    #[arg(long, value_name = "SECONDS")]
    watch: Option<f64>,
    /// Asks this worker, too: http://host:9464. May be given several times.
    #[arg(long, value_name = "URL")]
    worker: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Shown {
    application: String,
    lease_table: bool,
    streams: Vec<StreamLine>,
    owners: Vec<OwnerLine>,
    workers: Vec<WorkerLine>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct WorkerLine {
    url: String,
    answered: Option<u16>,
    status: Option<serde_json::Value>,
    error: Option<String>,
}

impl Status {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        operator::exit(self.show().await)
    }

    async fn show(self) -> Result<Exit, Refusal> {
        let operator = Operator::new(&self.common).await?;
        let output = Output::from(self.format);
        let watch = match self.watch.map(Duration::try_from_secs_f64) {
            None => operator.config.worker.lease_timeout,
            Some(Ok(watch)) => watch,
            Some(Err(_)) => return Err(Refusal::Configuration("--watch has to be a number of seconds".to_owned())),
        };
        let mut shown = Shown {
            application: operator.config.worker.application.clone(),
            lease_table: false,
            streams: Vec::new(),
            owners: Vec::new(),
            workers: Vec::new(),
            problems: Vec::new(),
        };
        let mut watched = Watched::default();
        let leases = match operator.leases().await? {
            Some(first) => {
                shown.lease_table = true;
                watch_leases(&operator, first, watch, &mut watched).await?
            }
            None => {
                shown.problems.push(format!("there is no lease table {:?} yet", shown.application));
                Vec::new()
            }
        };
        for table in operator.tables(self.table.as_deref())? {
            let found = match operator.stream(&table).await {
                Ok(found) => found,
                // The other tables are shown all the same.
                Err(Refusal::Configuration(problem) | Refusal::Failed(problem)) => {
                    shown.problems.push(problem);
                    continue;
                }
                Err(error @ Refusal::Output(_)) => return Err(error),
            };
            let of_stream = leases.iter().filter(|lease| lease.key.stream == found.name);
            let of_stream = of_stream.map(|lease| (lease.key.shard.clone(), lease.clone())).collect();
            let listing = operator.listing(&found.stream).await?;
            let line = overview::stream(&table, &found.stream.arn, &listing, &of_stream, &watched);
            shown.problems.extend(overview::problems(&line));
            shown.streams.push(line);
        }
        shown.owners = overview::owners(&leases, &watched);
        for url in &self.worker {
            let line = ask(url).await;
            if line.answered != Some(200) {
                shown.problems.push(format!("the worker at {url} is not well"));
            }
            shown.workers.push(line);
        }
        print(output, &shown)?;
        Ok(if shown.problems.is_empty() { Exit::Ok } else { Exit::Failed })
    }
}

/// Reads the leases a few times, until all of them that have an owner were renewed or the time is over; returns them as
/// they were read last.
async fn watch_leases(
    operator: &Operator,
    first: Vec<Lease>,
    watch: Duration,
    watched: &mut Watched,
) -> Result<Vec<Lease>, Refusal> {
    let began = Instant::now();
    let mut leases = first;
    watched.saw(&leases, Duration::ZERO);
    let mut progress = Progress::begin("watching the leases");
    while !watched.all_moved(&leases) && began.elapsed() < watch {
        tokio::time::sleep((watch / READINGS).min(LONGEST_PAUSE)).await;
        leases = operator.leases.list().await.map_err(Refusal::failed)?;
        watched.saw(&leases, began.elapsed());
        let done = began.elapsed().min(watch);
        progress.at(done.as_secs(), Some(watch.as_secs()));
    }
    Ok(leases)
}

async fn ask(url: &str) -> WorkerLine {
    let base = url.trim_end_matches('/');
    let whole = base.strip_prefix("http://").is_some_and(|rest| rest.contains('/'));
    let pages =
        if whole { vec![base.to_owned()] } else { vec![format!("{base}/status.json"), format!("{base}/healthz")] };
    let mut line = WorkerLine { url: url.to_owned(), answered: None, status: None, error: None };
    for page in pages {
        let asked = tokio::time::timeout(Duration::from_secs(5), health::ask(&page)).await;
        match asked.unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"))) {
            // A worker without that page has the next one.
            Ok((404, _)) => {}
            Ok((status, body)) => {
                line.answered = Some(status);
                line.status = serde_json::from_str(&body).ok();
                return line;
            }
            Err(error) => line.error = Some(error.to_string()),
        }
    }
    line
}

fn print(output: Output, shown: &Shown) -> Result<(), Refusal> {
    output.json(shown)?;
    for stream in &shown.streams {
        let paused = if stream.paused { ", paused" } else { "" };
        output.line(format!("{} ({}{paused})  {}", stream.table, stream.status, stream.stream))?;
        let rows: Vec<Vec<String>> = stream.shards.iter().map(row).collect();
        output.table(&["stream shard", "stage", "open", "owner", "checkpoint", "unchanged", "parent"], &rows)?;
        output.line("")?;
    }
    let rows: Vec<Vec<String>> = shown
        .owners
        .iter()
        .map(|owner| {
            let alive = owner.alive.map_or("?", |alive| if alive { "yes" } else { "no" });
            vec![owner.owner.clone(), owner.leases.to_string(), format!("{:.0}%", owner.percent), alive.to_owned()]
        })
        .collect();
    output.table(&["owner", "leases", "share", "renews"], &rows)?;
    for worker in &shown.workers {
        let answer = match (worker.answered, &worker.error) {
            (Some(status), _) => format!("answered {status}"),
            (None, Some(error)) => format!("cannot be asked: {error}"),
            (None, None) => "has no such page".to_owned(),
        };
        output.line(format!("worker {} {answer}", worker.url))?;
    }
    for problem in &shown.problems {
        output.line(format!("! {problem}"))?;
    }
    if shown.problems.is_empty() {
        output.line("nothing is wrong")?;
    }
    Ok(())
}

fn row(shard: &overview::ShardLine) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let open = match (shard.listed, shard.continued) {
        (false, _) => "gone",
        (true, true) => "closed",
        (true, false) => "open",
    };
    vec![
        shard.shard.clone(),
        shard.stage.name().to_owned(),
        open.to_owned(),
        match &shard.leaving {
            Some(leaving) => format!("{leaving} (hands over to {})", or_dash(&shard.owner)),
            None => or_dash(&shard.owner),
        },
        or_dash(&shard.checkpoint),
        shard.unchanged_s.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s")),
        or_dash(&shard.parent),
    ]
}
