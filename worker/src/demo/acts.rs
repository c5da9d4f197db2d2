//! The acts: steady load, a herd, a dead ring shard, a dead worker, the audit.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use ringtide_core::metrics as names;

use super::DemoError;
use super::audit::Audit;
use super::catalog::Item;
use super::herd::stampede;
use super::lag::Spread;
use super::pages::{fetch, sum};
use super::report::Report;
use super::screen::{Screen, ms};
use super::stage::Stage;
use super::world::{World, Write};

/// Readers of the herd, and the processes they are spread over.
const HERD: usize = 10_000;
const PROCESSES: usize = 4;
const HERD_PK: &str = "herd";
/// An invalidation that takes longer than this, with every server up, is a broken promise.
const LAG_LIMIT: Duration = Duration::from_secs(3);
/// How long anything may take to be in step again after an outage.
const RECOVERY_LIMIT: Duration = Duration::from_secs(20);
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// When the acts begin and end, as parts of the time there is.
pub(super) struct Acts<'a> {
    pub(super) stage: &'a mut Stage,
    pub(super) world: &'a World,
    pub(super) screen: &'a Screen,
    pub(super) report: Report,
    pub(super) began: Instant,
    pub(super) length: Duration,
    /// When something was down, or not yet in step again.
    pub(super) outages: Vec<(Instant, Instant)>,
}

impl Acts<'_> {
    pub(super) async fn steady(&mut self) -> Result<(), DemoError> {
        self.screen.act("steady load: readers through the cache, writers on the table, the worker in between");
        self.hold_until(0.25).await?;
        let lag = self.world.lag.spread(|_, _, _| true);
        self.say(&format!("the worker takes {} from a commit to the entry that is gone", percentiles(lag)));
        Ok(())
    }

    /// 10,000 readers of one cold key.
    pub(super) async fn herd(&mut self) -> Result<(), DemoError> {
        self.screen.act(&format!("herd: {HERD} readers of one cold key at once, in {PROCESSES} processes"));
        self.world.catalog.put(HERD_PK, "herd", self.world.clock.next()).await?;
        let config = self.stage.config_path();
        let herd = stampede(&config, self.stage.endpoint(), HERD_PK, PROCESSES, HERD).await?;
        let seen = format!(
            "{} origin load for {} readers in {PROCESSES} processes, {} failed, all answered after {} ms",
            herd.loads, herd.answered, herd.failed, herd.slowest_ms
        );
        self.say(&seen);
        let kept = herd.loads == 1 && herd.answered == HERD && herd.versions.len() == 1;
        self.report.promise(kept, "a herd loads once", seen);
        self.hold_until(0.4).await
    }

    /// A ring shard is killed, and comes back empty.
    pub(super) async fn dead_shard(&mut self, fallbacks: impl Fn() -> u64) -> Result<(), DemoError> {
        let dead = 0;
        let name = Stage::shard_name(dead);
        self.screen.act(&format!("ring shard {name} is killed (-9)"));
        let (before, past_it, killed) = (self.world.stats.counted(), fallbacks(), Instant::now());
        self.world.lag.killed(dead);
        self.stage.kill_shard(dead);
        self.hold_until(0.55).await?;
        let down = killed.elapsed();
        self.world.lag.returned(dead);
        self.stage.restart_shard(dead)?;
        let (up, after) = (Instant::now(), self.world.stats.counted());
        let meanwhile = |shard, committed, _| shard != dead && (killed..=up).contains(&committed);
        let others = self.world.lag.spread(meanwhile);
        let fewest = self.world.lag.fewest(meanwhile, |shard| shard != dead);
        let (reads, failed) = (after.reads - before.reads, after.failed - before.failed);
        let answered =
            format!("{reads} reads while it was down {}: {failed} failed, {} past it", ms(down), fallbacks() - past_it);
        self.say(&answered);
        self.report.promise(failed == 0, "a dead ring shard fails no read", answered);
        let seen = if self.world.ring.shards().len() > 1 {
            format!("the others' invalidations took {}", percentiles(others))
        } else {
            "there is no other ring shard".to_owned()
        };
        self.say(&seen);
        let kept = self.world.ring.shards().len() == 1 || fewest > 0 && others.max <= LAG_LIMIT;
        self.report.promise(kept, "a dead ring shard holds up no other", seen);
        let mut recovered = None;
        while recovered.is_none() && up.elapsed() < RECOVERY_LIMIT {
            self.hold(Duration::from_millis(50)).await?;
            recovered = self.world.lag.reached_on(dead).filter(|reached| *reached > up).map(|_| up.elapsed());
        }
        let seen = match recovered {
            Some(after) => format!("{name} came back empty and was in step again after {}", ms(after)),
            None => format!("{name} came back and was not in step after {}", ms(RECOVERY_LIMIT)),
        };
        self.say(&seen);
        self.report.promise(recovered.is_some(), "a ring shard comes back", seen);
        self.outages.push((killed, Instant::now()));
        self.hold_until(0.65).await
    }

    /// The worker is killed in the middle of writes, and started again.
    pub(super) async fn dead_worker(&mut self) -> Result<(), DemoError> {
        // Cached now, written once while nobody looks, never written again: nothing but that one record can void them.
        self.quiet().await?;
        self.screen.act("the worker is killed (-9) in the middle of writes");
        self.world.stats.outage(true);
        let (mut quiet, killed) = (Item::quiet(), Instant::now());
        for item in quiet.by_ref().take(Item::quiet().count() / 3) {
            self.world.write(item, Write::Update).await?;
        }
        self.stage.kill_worker().await?;
        for item in quiet {
            self.world.write(item, Write::Update).await?;
        }
        self.hold_until(0.73).await?;
        let (up, down) = (Instant::now(), killed.elapsed());
        self.stage.start_worker().await?;
        let mut caught_up = None;
        while caught_up.is_none() && up.elapsed() < RECOVERY_LIMIT {
            self.hold(Duration::from_millis(20)).await?;
            caught_up = self.world.lag.reached().filter(|reached| *reached > up).map(|_| up.elapsed());
        }
        self.hold(Duration::from_millis(500)).await?;
        self.world.stats.outage(false);
        self.outages.push((killed, Instant::now()));
        let metrics = fetch(self.stage.listen(), "/metrics").await.map(|page| page.body).unwrap_or_default();
        let (read_again, written) = (sum(&metrics, names::STREAM_RECORDS, ""), self.world.stats.counted().writes);
        let is_lost = |(item, product, price): &(Item, Option<u64>, Option<u64>)| {
            let newest = self.world.ledger.newest(*item).map(|state| state.version);
            usize::from(*product != newest) + usize::from(*price != newest)
        };
        let lost: usize = self.quiet().await?.iter().map(is_lost).sum();
        let seen = format!(
            "down {}, went on from its lease table ({read_again} of {written} records read), in step after {}; {lost} \
             of the {} keys that were written meanwhile are stale",
            ms(down),
            caught_up.map_or_else(|| format!("more than {}", ms(RECOVERY_LIMIT)), ms),
            2 * Item::quiet().count(),
        );
        self.say(&seen);
        // One that began anew would read everything again.
        let went_on = caught_up.is_some() && read_again < written;
        self.report.promise(went_on && lost == 0, "a dead worker loses nothing", seen);
        self.hold_until(0.95).await
    }

    /// After the load has ended: waits until everything is delivered.
    pub(super) async fn drain(&mut self) -> Result<(), DemoError> {
        self.screen.act("end of the load: the stream is drained");
        let (ended, mut said) = (Instant::now(), Instant::now());
        loop {
            let delivered = self.world.lag.reached().is_some_and(|reached| reached > ended);
            let metrics = fetch(self.stage.listen(), "/metrics").await.map(|page| page.body);
            let pending = metrics.map(|body| sum(&body, names::DELIVERY_PENDING, ""));
            if delivered && pending == Some(0) {
                self.say(&format!("drained in {}", ms(ended.elapsed())));
                return Ok(());
            }
            if ended.elapsed() > DRAIN_LIMIT {
                let seen = format!("not drained after {}, {pending:?} commands wait", ms(DRAIN_LIMIT));
                self.report.promise(false, "the stream is drained", seen);
                return Ok(());
            }
            if said.elapsed() > Duration::from_secs(1) {
                said = Instant::now();
                self.say(&format!("{} commands wait", pending.unwrap_or_default()));
            }
            self.hold(Duration::from_millis(20)).await?;
        }
    }

    /// Compares every cached entry with the table.
    pub(super) async fn audit(&mut self) -> Result<(), DemoError> {
        self.screen.act("audit: every cached entry against the table, by strongly consistent reads");
        let shards: Vec<_> = self
            .stage
            .addresses()
            .into_iter()
            .enumerate()
            .map(|(at, address)| (Stage::shard_name(at), address))
            .collect();
        let audit = Audit::run(&shards, &self.world.ring, &self.world.catalog).await?;
        let seen = format!(
            "{} entries: {} fresh, {} stale, {} negative right, {} negative wrong, {} misplaced ({} more invalidated)",
            audit.entries(),
            audit.fresh,
            audit.stale,
            audit.negative_right,
            audit.negative_wrong,
            audit.misplaced,
            audit.invalidated,
        );
        self.say(&seen);
        for example in &audit.examples {
            self.say(&format!("  {example}"));
        }
        let wrong = audit.stale + audit.negative_wrong + audit.misplaced;
        self.report.promise(wrong == 0 && audit.entries() > 0, "the audit finds nothing stale", seen);
        Ok(())
    }

    /// What held all the time.
    pub(super) fn throughout(&mut self) {
        let (counted, (calm, outage)) = (self.world.stats.counted(), self.world.stats.staleness());
        let seen = format!("{} of {} comparisons older than what was delivered", counted.older, counted.judged);
        self.report.promise(counted.older == 0 && counted.judged > 0, "no read is older than the lag allows", seen);
        let seen = format!(
            "{} of {} reads, {} of {} writes",
            counted.failed, counted.reads, counted.writes_failed, counted.writes
        );
        self.report.promise(counted.failed == 0 && counted.writes_failed == 0, "nothing fails", seen);
        let lag = self.world.lag.spread(|_, committed, lag| {
            !self.outages.iter().any(|(from, to)| committed + lag >= *from && committed <= *to)
        });
        self.report.promise(lag.count > 0 && lag.max <= LAG_LIMIT, "invalidations keep up", percentiles(lag));
        let part = 100.0 * counted.behind as f64 / counted.judged.max(1) as f64;
        self.screen.say(&format!("  reads took {}", percentiles(self.world.stats.latency())));
        self.screen.say(&format!(
            "  {part:.2}% of what was read was not the newest any more, and behind by {}; while the worker was dead by {}",
            percentiles(calm),
            percentiles(outage)
        ));
        for example in self.world.stats.examples() {
            self.screen.say(&format!("  {example}"));
        }
    }

    /// Reads the quiet items through the cache, a few at once: their products' and prices' versions.
    async fn quiet(&self) -> Result<Vec<(Item, Option<u64>, Option<u64>)>, DemoError> {
        let read = async |item: Item| {
            let pk = item.pk();
            let product = self.world.read_product(&pk).await?.map(|product| product.version);
            let price = self.world.read_price(&pk).await?.map(|price| price.version);
            Ok((item, product, price))
        };
        stream::iter(Item::quiet()).map(read).buffer_unordered(16).try_collect().await
    }

    fn say(&self, text: &str) {
        self.screen.say(&format!("  -> {text}"));
    }

    /// Lets the load run until a part of the time is over.
    async fn hold_until(&mut self, part: f64) -> Result<(), DemoError> {
        let until = self.length.mul_f64(part);
        self.hold(until.saturating_sub(self.began.elapsed())).await
    }

    async fn hold(&mut self, time: Duration) -> Result<(), DemoError> {
        let until = Instant::now() + time;
        loop {
            self.stage.check_worker()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(Duration::from_millis(200))).await;
        }
    }
}

fn percentiles(spread: Spread) -> String {
    match spread.count {
        0 => "nothing measured".to_owned(),
        _ => format!("p50 {}, p99 {}, max {}", ms(spread.p50), ms(spread.p99), ms(spread.max)),
    }
}
