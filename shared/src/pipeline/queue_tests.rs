//! What no server shows at will, on a scripted ring shard and paused time.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::super::ticket::Ticket;
use super::courier::DEPTH;
use super::*;
use crate::command::{Action, Command, Image};
use crate::key::{CacheKey, KeySpace, Mode, Template};
use crate::valkey::{Loss, Servers};
use crate::version::Version;

/// A ring shard that is up or down, and that notes what it acknowledged.
#[derive(Default)]
struct Scripted {
    down: AtomicBool,
    refuses_refreshes: AtomicBool,
    panics: AtomicBool,
    /// How long a flush takes.
    flush_takes: Mutex<Duration>,
    /// No replica has what it acknowledges.
    alone: AtomicBool,
    applied: Mutex<Vec<String>>,
    flushed: Mutex<Vec<String>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    /// Connections made so far, and how many more are made while batches are carried out.
    connects: AtomicU64,
    reconnects: AtomicU64,
    /// As many more while replicas are waited for, and while it is flushed.
    reconnects_at_barrier: AtomicU64,
    reconnects_at_flush: AtomicU64,
    says: Mutex<Says>,
    looks: AtomicUsize,
}

/// What a ring shard says when it is asked which servers it is.
#[derive(Clone, Copy, Debug, Default)]
enum Says {
    /// It answers, and does not tell.
    #[default]
    Nothing,
    Run(&'static str),
    /// It answers that this client may not ask.
    Refusal,
    /// It does not answer.
    Silence,
}

impl Scripted {
    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    fn reconnect(&self, planned: &AtomicU64) {
        self.connects.fetch_add(planned.swap(0, Ordering::SeqCst), Ordering::SeqCst);
    }

    fn rejected(code: &str) -> ShardError {
        ShardError::Rejected { shard: "a".into(), code: code.into(), text: "planted".into() }
    }

    fn error(&self) -> ShardError {
        ShardError::TimedOut { shard: "a".into() }
    }

    fn applied(&self) -> Vec<String> {
        self.applied.lock().unwrap().clone()
    }
}

impl RingShard for Scripted {
    fn apply<'a>(&'a self, commands: &'a [Command], _: u64) -> BoxFuture<'a, Result<Applied, ShardError>> {
        Box::pin(async move {
            let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_under_way.fetch_max(under_way, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            self.reconnect(&self.reconnects);
            assert!(!self.panics.load(Ordering::SeqCst), "planted");
            if self.down.load(Ordering::SeqCst) {
                return Err(self.error());
            }
            let refresh = commands.iter().any(|c| matches!(c.action, Action::Refresh { .. }));
            if refresh && self.refuses_refreshes.load(Ordering::SeqCst) {
                return Err(Self::rejected("OOM"));
            }
            self.applied.lock().unwrap().extend(commands.iter().map(|c| c.key.to_string()));
            Ok(Applied::default())
        })
    }

    fn flush<'a>(&'a self, prefix: &'a str, _: Duration) -> BoxFuture<'a, Result<u64, ShardError>> {
        Box::pin(async move {
            if self.down.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                return Err(self.error());
            }
            let takes = *self.flush_takes.lock().unwrap();
            tokio::time::sleep(takes).await;
            self.reconnect(&self.reconnects_at_flush);
            self.flushed.lock().unwrap().push(prefix.to_owned());
            Ok(1)
        })
    }

    fn reachable(&self, within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(within))
    }

    fn servers(&self) -> BoxFuture<'_, Result<Option<Servers>, ShardError>> {
        Box::pin(async move {
            self.looks.fetch_add(1, Ordering::SeqCst);
            match *self.says.lock().unwrap() {
                Says::Nothing => Ok(None),
                Says::Run(id) => {
                    let info = format!("run_id:{id}\nrole:master\nmaster_replid:{id}\nmaster_repl_offset:0\n");
                    Ok(Some(Servers::read(&[info], false).unwrap()))
                }
                Says::Refusal => Err(Self::rejected("NOPERM")),
                Says::Silence => Err(self.error()),
            }
        })
    }

    fn connects(&self) -> u64 {
        self.connects.load(Ordering::SeqCst)
    }

    fn replicated(&self, _: u32, within: Duration) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(async move {
            if !self.alone.load(Ordering::SeqCst) {
                self.reconnect(&self.reconnects_at_barrier);
                return Ok(());
            }
            tokio::time::sleep(within).await;
            Err(Self::rejected("NOREPLICAS"))
        })
    }
}

fn space() -> Arc<KeySpace> {
    Arc::new(KeySpace::new("p", Template::parse("p:{pk}").unwrap()))
}

fn drops(keys: &[&str]) -> Arc<[Command]> {
    keys.iter().map(|key| Command::drop_entry(CacheKey::new(*key).unwrap(), space())).collect()
}

fn refresh(key: &str) -> Arc<[Command]> {
    let action = Action::Refresh { version: Version::from_number(1), image: Image::Deleted, populate: true };
    [Command { key: CacheKey::new(key).unwrap(), space: space(), action }].into()
}

struct Running {
    queue: Arc<Queue>,
    shard: Arc<Scripted>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn run(capacity: usize, down: bool) -> Running {
    run_with(Limits { capacity, ..Limits::default() }, down)
}

fn run_with(limits: Limits, down: bool) -> Running {
    let shard = Arc::new(Scripted::default());
    shard.down.store(down, Ordering::SeqCst);
    let queue = Arc::new(Queue::new("a".into(), Arc::new(BTreeSet::from(["p:".to_owned()])), limits));
    let stop = CancellationToken::new();
    let (delivering, target, stopping) = (queue.clone(), shard.clone(), stop.clone());
    let task = tokio::spawn(async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = delivering.deliver(target) => {}
        }
    });
    Running { queue, shard, stop, task }
}

impl Running {
    fn push(&self, commands: Arc<[Command]>) -> Ticket {
        let (ticket, mut parts) = Ticket::new([0]);
        self.queue.push(Item::new(commands, parts.remove(0), 0));
        ticket
    }

    fn flush(&self) -> Ticket {
        let (ticket, mut parts) = Ticket::new([0]);
        self.queue.push_flush(BTreeSet::from(["p:".to_owned()]), parts.remove(0), "gap");
        ticket
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_while_a_connection_was_made_is_sent_again_to_whoever_is_behind_it() {
    let running = run(100, false);
    running.shard.reconnects.store(1, Ordering::SeqCst);
    running.push(drops(&["p:1"])).await.unwrap();
    assert_eq!(running.shard.applied(), ["p:1", "p:1"], "by the second answer, after a look");
    running.push(drops(&["p:2"])).await.unwrap();
    assert_eq!(running.shard.applied(), ["p:1", "p:1", "p:2"]);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn batches_wait_while_the_shard_is_down_and_are_delivered_in_full() {
    let running = run(1000, true);
    let mut first = running.push(drops(&["p:1", "p:2"]));
    let second = running.push(drops(&["p:3"]));
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut first).await.is_err(), "the shard is down");
    assert!(!running.queue.healthy());
    running.shard.down.store(false, Ordering::SeqCst);
    first.await.unwrap();
    second.await.unwrap();
    let mut applied = running.shard.applied();
    applied.sort();
    assert_eq!(applied, ["p:1", "p:2", "p:3"]);
    assert_eq!(running.queue.pending(), 0);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_answers_counts_as_healthy_again_where_all_that_failed_was_given_up() {
    let checks = Limits::default().redelivery.check * 3;
    for (says, healthy) in
        [(Says::Run("a"), true), (Says::Nothing, true), (Says::Refusal, true), (Says::Silence, false)]
    {
        let running = run(1000, true);
        let waits = running.push(drops(&["p:1"]));
        tokio::time::sleep(Duration::from_secs(1)).await;
        running.shard.say(says);
        tokio::time::sleep(checks).await;
        assert!(!running.queue.healthy(), "what failed still waits, {says:?}");
        drop(waits);
        tokio::time::sleep(checks).await;
        assert_eq!((running.queue.healthy(), running.queue.pending()), (healthy, 0), "{says:?}");
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_owes_a_flush_is_not_healthy_for_answering() {
    let running = run(1000, true);
    // A flush that was ordered is carried out, whoever waits for it.
    drop(running.flush());
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..10_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!running.queue.healthy());
    }
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_does_not_answer_is_not_down_for_what_nobody_waits_for() {
    let running = run(1000, false);
    running.push(drops(&["p:1"])).await.unwrap();
    running.shard.say(Says::Silence);
    tokio::time::sleep(Limits::default().redelivery.check * 3).await;
    drop(running.push(drops(&["p:2"])));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((running.queue.healthy(), running.queue.pending()), (true, 0));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn overflow_is_flushed_before_anything_else_and_then_delivered() {
    let running = run(3, true);
    let mut tickets = vec![running.push(drops(&["p:0"]))];
    tokio::time::sleep(Duration::from_millis(100)).await;
    for n in 1..10 {
        tickets.push(running.push(drops(&[&format!("p:{n}")])));
    }
    running.shard.down.store(false, Ordering::SeqCst);
    let after = running.push(drops(&["p:after"]));
    for ticket in tickets {
        ticket.await.unwrap();
    }
    after.await.unwrap();
    assert_eq!(*running.shard.flushed.lock().unwrap(), ["p:"]);
    let applied = running.shard.applied();
    assert!(applied.contains(&"p:after".to_owned()), "{applied:?}");
    assert!(applied.len() < 11, "dropped commands are not sent: {applied:?}");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_flush_of_a_shard_that_is_up_holds_up_nobody_and_its_queue_is_bounded() {
    let running = run(10, false);
    *running.shard.flush_takes.lock().unwrap() = Duration::from_secs(300);
    let mut tickets = vec![running.push(drops(&["p:0"]))];
    let mut room = Box::pin(running.queue.room(0));
    assert!((&mut room).now_or_never().is_none());
    tickets.push(running.flush());
    assert!(room.now_or_never().is_some(), "nobody waits for the length of a flush");
    for n in 1..50 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        tickets.push(running.push(drops(&[&format!("p:{n}")])));
        assert!(running.queue.room(3).now_or_never().is_some());
        assert!(running.queue.held_up() && running.queue.healthy());
        assert!(running.queue.lock().commands <= 10);
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(*running.shard.flushed.lock().unwrap(), ["p:", "p:"], "once for the gap, once for what was given up");
    assert!(!running.queue.held_up());
    let applied = running.shard.applied();
    assert!(applied.contains(&"p:49".to_owned()) && !applied.contains(&"p:1".to_owned()), "{applied:?}");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn flushes_that_take_longer_than_the_queue_holds_do_not_follow_one_another_without_end() {
    let running = run(10, false);
    *running.shard.flush_takes.lock().unwrap() = Duration::from_secs(300);
    let begun = Instant::now();
    let mut tickets = vec![running.flush()];
    let mut midway = None;
    while begun.elapsed() < Duration::from_secs(3_000) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let key = format!("p:{}", begun.elapsed().as_secs());
        if begun.elapsed() > Duration::from_secs(1_500) {
            midway.get_or_insert_with(|| key.clone());
        }
        tickets.push(running.push(drops(&[&key])));
        running.queue.room(3).await;
        assert!(running.queue.lock().commands <= 10);
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    let flushed = running.shard.flushed.lock().unwrap().len();
    assert!(flushed <= 3, "{flushed} flushes");
    assert!(running.shard.applied().contains(&midway.unwrap()));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_no_reason_for_a_flush() {
    let running = run(10, false);
    *running.shard.flush_takes.lock().unwrap() = Duration::from_secs(300);
    let flush = running.flush();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Ahead of what is given up, so that it is found by no look at the head alone.
    let first = running.push(drops(&["p:first"]));
    for n in 0..20 {
        drop(running.push(drops(&[&format!("p:{n}")])));
    }
    let last = running.push(drops(&["p:last"]));
    for ticket in [flush, first, last] {
        ticket.await.unwrap();
    }
    assert_eq!(*running.shard.flushed.lock().unwrap(), ["p:"]);
    let mut applied = running.shard.applied();
    applied.sort();
    assert_eq!(applied, ["p:first", "p:last"]);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_goes_on_where_a_fail_over_asks_for_a_flush() {
    let fails_over: [fn(&Queue); 2] = [
        |queue| queue.recover(Loss::Unknown, Instant::now()),
        |queue| {
            queue.lock().failed_over = Some(Instant::now());
            queue.took_over(Instant::now());
        },
    ];
    for fails_over in fails_over {
        let running = run(1000, false);
        let _waiting = [running.push(drops(&["p:1"])), running.push(drops(&["p:2"]))];
        let mut room = Box::pin(running.queue.room(1));
        assert!((&mut room).now_or_never().is_none());
        fails_over(&running.queue);
        assert!(room.now_or_never().is_some(), "nobody waits for the length of a flush");
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_settles_is_bounded_too_while_the_shard_is_down() {
    let running = run(10, true);
    let mut tickets = Vec::new();
    for n in 0..200 {
        let commands = drops(&[&format!("p:{n}")]);
        let (settling, mut parts) = Ticket::new([0]);
        running.queue.push_at(Item::new(commands.clone(), parts.remove(0), 0), Instant::now() + Duration::from_secs(2));
        tickets.extend([settling, running.push(commands)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let state = running.queue.lock();
        let kept = state.waiting.len() + state.delayed.len() + state.under_way;
        assert!(kept <= 13, "{kept} are kept after {n} seconds");
    }
    assert!(running.shard.flushed.lock().unwrap().is_empty());
    running.shard.down.store(false, Ordering::SeqCst);
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(*running.shard.flushed.lock().unwrap(), ["p:"]);
    let repeated = running.shard.applied().iter().filter(|key| *key == "p:199").count();
    assert_eq!(repeated, 2, "what was not due when the rest was given up is delivered at its time");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_fails_is_tried_again_and_holds_its_ticket() {
    let running = run(1000, true);
    let (mut ticket, mut parts) = Ticket::new([0]);
    running.queue.push_flush(BTreeSet::from(["p:".to_owned()]), parts.remove(0), "gap");
    assert!(tokio::time::timeout(Duration::from_secs(10), &mut ticket).await.is_err());
    let status = running.queue.status();
    assert_eq!((status.up, status.pending, status.flushing), (false, 1, Some("gap")), "{status:?}");
    assert_eq!(status.last_flush, None);
    running.shard.down.store(false, Ordering::SeqCst);
    ticket.await.unwrap();
    let status = running.queue.status();
    assert_eq!((status.up, status.pending, status.flushing), (true, 0, None), "{status:?}");
    assert!(status.last_flush.is_some_and(|flush| (flush.reason, flush.names) == ("gap", 1)));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn invalidations_travel_side_by_side_and_refreshes_alone() {
    let running = run(1000, false);
    let tickets: Vec<_> = (0..20).map(|n| running.push(drops(&[&format!("p:{n}")]))).collect();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(running.shard.most_under_way.load(Ordering::SeqCst), DEPTH);
    running.shard.most_under_way.store(0, Ordering::SeqCst);
    let tickets: Vec<_> = (0..20).map(|n| running.push(refresh(&format!("p:{n}")))).collect();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(running.shard.most_under_way.load(Ordering::SeqCst), 1);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_becomes_a_drop() {
    let running = run(1000, false);
    running.shard.refuses_refreshes.store(true, Ordering::SeqCst);
    running.push(refresh("p:1")).await.unwrap();
    assert_eq!(running.shard.applied(), ["p:1"]);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_not_begun() {
    let running = run(1000, true);
    let first = running.push(drops(&["p:1"]));
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(running.push(drops(&["p:2"])));
    drop(first);
    running.shard.down.store(false, Ordering::SeqCst);
    running.push(drops(&["p:3"])).await.unwrap();
    // The first may be under way at the moment in which nobody waits for it any more; the second never is.
    let applied = running.shard.applied();
    assert!(applied == ["p:3"] || applied == ["p:1", "p:3"], "{applied:?}");
    assert_eq!(running.queue.pending(), 0);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_goes_on_when_what_took_it_is_given_up() {
    let running = run(1000, false);
    // Given up before the task has taken anything.
    drop(running.push(drops(&["p:1", "p:2"])));
    let room = tokio::time::timeout(Duration::from_secs(3600), running.queue.room(1)).await;
    assert!(room.is_ok(), "nothing waits any more");
    assert!(running.shard.applied().is_empty());
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn stopping_abandons_what_is_left() {
    let running = run(1000, true);
    let ticket = running.push(drops(&["p:1"]));
    let queue = running.queue.clone();
    running.end().await;
    drop(queue);
    assert!(ticket.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_sent_again_in_its_order() {
    let running = run(1000, true);
    let tickets: Vec<_> = (0..12).map(|n| running.push(drops(&[&format!("p:{n:02}")]))).collect();
    // Several rounds of failures, the first of which has more than one batch under way.
    tokio::time::sleep(Duration::from_secs(10)).await;
    running.shard.down.store(false, Ordering::SeqCst);
    for ticket in tickets {
        ticket.await.unwrap();
    }
    let expected: Vec<_> = (0..12).map(|n| format!("p:{n:02}")).collect();
    assert_eq!(running.shard.applied(), expected);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_settles_is_delivered_at_its_time() {
    let running = run(1000, false);
    let (mut ticket, mut parts) = Ticket::new([0]);
    let begun = Instant::now();
    running.queue.push_at(Item::new(drops(&["p:1"]), parts.remove(0), 0), begun + Duration::from_secs(3));
    assert!(tokio::time::timeout(Duration::from_millis(2900), &mut ticket).await.is_err());
    ticket.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_gone_before_a_repeat_is_due_is_found_to_be_down() {
    let running = run(1000, false);
    let (mut settles, mut parts) = Ticket::new([0]);
    let due = Limits::default().redelivery.check + Duration::from_secs(1);
    running.queue.push_at(Item::new(drops(&["p:1"]), parts.remove(0), 0), Instant::now() + due);
    running.push(drops(&["p:1"])).await.unwrap();
    running.shard.say(Says::Silence);
    tokio::time::sleep(due + Duration::from_secs(5)).await;
    assert_eq!((running.queue.healthy(), running.queue.pending()), (false, 1));
    running.shard.say(Says::Nothing);
    tokio::time::timeout(Duration::from_secs(5), &mut settles).await.expect("it answers again").unwrap();
    assert!(running.queue.healthy());
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_retires_lets_go_of_what_waits_and_of_what_comes() {
    let running = run(3, true);
    let mut tickets: Vec<_> = (0..10).map(|n| running.push(drops(&[&format!("p:{n}")]))).collect();
    let (settling, mut parts) = Ticket::new([0]);
    running.queue.push_at(Item::new(drops(&["p:later"]), parts.remove(0), 0), Instant::now() + Duration::from_secs(99));
    tokio::time::sleep(Duration::from_secs(1)).await;
    tickets.push(settling);
    running.queue.retire();
    tickets.push(running.push(drops(&["p:after"])));
    for ticket in tickets {
        ticket.await.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(60), running.task).await.expect("the task ends").unwrap();
    assert!(running.shard.applied().is_empty());
    let (late, mut parts) = Ticket::new([0]);
    running.queue.push_flush(BTreeSet::from(["p:".to_owned()]), parts.remove(0), "gap");
    late.await.unwrap();
    assert_eq!(running.queue.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_abandons_every_ticket_and_is_told() {
    let (tasks, running) = (crate::pipeline::tasks::Tasks::default(), run(1000, false));
    running.shard.panics.store(true, Ordering::SeqCst);
    running.task.abort();
    let (queue, shard, broken) = (running.queue.clone(), running.shard.clone(), running.queue.clone());
    let waits = running.push(drops(&["p:0"]));
    let (settles, mut parts) = Ticket::new([0]);
    queue.push_at(Item::new(drops(&["p:later"]), parts.remove(0), 0), Instant::now() + Duration::from_secs(99));
    let delivering = queue.clone();
    let task = tasks.spawn(async move { delivering.deliver(shard).await }, move || broken.break_off());
    tasks.broken().await;
    assert!(task.await.unwrap_err().is_panic());
    assert!(waits.await.is_err() && settles.await.is_err());
    let (after, mut parts) = Ticket::new([0]);
    queue.push(Item::new(drops(&["p:1"]), parts.remove(0), 0));
    assert!(after.await.is_err());
    // Nobody who waits for the queue hangs.
    queue.room(0).await;
    queue.drained().await;
    assert!(!queue.healthy());
}

#[tokio::test(start_paused = true)]
async fn a_recovery_is_owed_until_it_is_made_good_whatever_form_it_takes() {
    let running = run(3, false);
    let (now, queue) = (Instant::now(), &running.queue);
    let down = |down| running.shard.down.store(down, Ordering::SeqCst);
    let settles = Arc::new(KeySpace {
        mode: Mode::Settle { after: Duration::from_secs(2) },
        ..KeySpace::new("p", Template::parse("p:{pk}").unwrap())
    });
    let commands: Arc<[Command]> = [Command::drop_entry(CacheKey::new("p:1").unwrap(), settles)].into();
    running.push(Arc::clone(&commands)).await.unwrap();
    assert!(!queue.owes_recovery());

    // Delivered again, and once more when it has settled.
    queue.recover(Loss::Since(now), Instant::now());
    for owed in [true, true, false] {
        assert_eq!(queue.owes_recovery(), owed);
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    assert_eq!(running.shard.applied(), ["p:1", "p:1", "p:1"]);

    // A flush, which one that was under way before does not stand for.
    *running.shard.flush_takes.lock().unwrap() = Duration::from_secs(10);
    let before = running.flush();
    tokio::time::sleep(Duration::from_secs(1)).await;
    queue.recover(Loss::Unknown, Instant::now());
    before.await.unwrap();
    assert!(queue.owes_recovery());
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(!queue.owes_recovery());

    // What is delivered again is given up for a flush.
    running.push(commands).await.unwrap();
    down(true);
    queue.recover(Loss::Since(Instant::now()), Instant::now());
    let others: Vec<_> = (0..9).map(|n| running.push(drops(&[&format!("p:{n}")]))).collect();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let overflown = running.push(drops(&["p:after"]));
    assert!(queue.owes_recovery());
    down(false);
    for ticket in others {
        ticket.await.unwrap();
    }
    overflown.await.unwrap();
    assert!(!queue.owes_recovery());
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_not_drained_before_a_recovery_is_made_good() {
    let running = run(1000, false);
    let (now, queue) = (Instant::now(), &running.queue);
    let settles = Arc::new(KeySpace {
        mode: Mode::Settle { after: Duration::from_secs(2) },
        ..KeySpace::new("p", Template::parse("p:{pk}").unwrap())
    });
    running.push([Command::drop_entry(CacheKey::new("p:1").unwrap(), settles)].into()).await.unwrap();
    queue.recover(Loss::Since(now), Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((queue.pending(), queue.owes_recovery()), (0, true), "the repeat is not due yet");
    tokio::time::timeout(Duration::from_secs(5), queue.drained()).await.expect("it is due in time");
    assert!(!queue.owes_recovery());
    assert_eq!(running.shard.applied(), ["p:1", "p:1", "p:1"]);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_takeover_shortly_after_a_fail_over_flushes() {
    let running = run(1000, false);
    running.push(drops(&["p:1"])).await.unwrap();
    running.queue.recover(Loss::Since(Instant::now()), Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running.shard.applied(), ["p:1", "p:1"], "delivered again");
    running.queue.took_over(Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*running.shard.flushed.lock().unwrap(), ["p:"]);
    // What another process delivered until then is not known here.
    let lost_since = Instant::now() - Duration::from_secs(2);
    running.queue.recover(Loss::Since(lost_since), Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running.shard.flushed.lock().unwrap().len(), 2);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_replicas_and_counts_as_undelivered_until_they_have_it() {
    let replicas = Some(Replicas { count: 1, within: Duration::from_millis(10) });
    let running = run_with(Limits { replicas, ..Limits::default() }, false);
    running.shard.alone.store(true, Ordering::SeqCst);
    let mut tickets: Vec<_> = (0..6).map(|n| running.push(drops(&[&format!("p:{n}")]))).collect();
    for ticket in &mut tickets {
        assert!(tokio::time::timeout(Duration::from_secs(5), ticket).await.is_err(), "no replica has it");
    }
    assert!(!running.queue.healthy(), "reported like one that is down");
    running.shard.alone.store(false, Ordering::SeqCst);
    for ticket in tickets {
        ticket.await.unwrap();
    }
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_barrier_over_a_connection_that_was_made_meanwhile_proves_nothing() {
    let replicas = Some(Replicas { count: 1, within: Duration::from_millis(10) });
    let running = run_with(Limits { replicas, ..Limits::default() }, false);
    running.shard.reconnects_at_barrier.store(1, Ordering::SeqCst);
    running.push(drops(&["p:1"])).await.unwrap();
    assert_eq!(running.shard.applied(), ["p:1", "p:1"], "by the second barrier, after a look");
    running.push(drops(&["p:2"])).await.unwrap();
    assert_eq!(running.shard.applied(), ["p:1", "p:1", "p:2"]);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_flush_over_a_connection_that_was_made_meanwhile_counts_behind_a_look_that_finds_no_loss() {
    for (then, flushes) in [(Says::Run("a"), 1), (Says::Nothing, 1), (Says::Run("b"), 2)] {
        let running = run(1000, false);
        running.shard.say(Says::Run("a"));
        running.push(drops(&["p:1"])).await.unwrap();
        running.shard.say(Says::Silence);
        running.shard.reconnects_at_flush.store(1, Ordering::SeqCst);
        let mut flush = running.flush();
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut flush).await.is_err(), "nobody knows who answered");
        assert_eq!((running.queue.pending(), running.queue.status().flushing), (1, Some("gap")));
        running.shard.say(then);
        tokio::time::timeout(Duration::from_secs(60), flush).await.expect("a look is answered").unwrap();
        assert_eq!(running.shard.flushed.lock().unwrap().len(), flushes, "{then:?}");
        assert_eq!((running.queue.healthy(), running.queue.pending()), (true, 0));
        running.end().await;
    }
}
