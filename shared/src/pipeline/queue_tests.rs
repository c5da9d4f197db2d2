//! What no server shows at will, on a scripted ring shard and paused time.

use std::sync::atomic::AtomicUsize;

use super::super::ticket::Ticket;
use super::*;
use crate::command::Image;
use crate::key::{CacheKey, KeySpace, Template};
use crate::version::Version;

/// A ring shard that is up or down, and that notes what it acknowledged.
#[derive(Default)]
struct Scripted {
    down: AtomicBool,
    refuses_refreshes: AtomicBool,
    applied: Mutex<Vec<String>>,
    flushed: Mutex<Vec<String>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl Scripted {
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
            if self.down.load(Ordering::SeqCst) {
                return Err(self.error());
            }
            let refresh = commands.iter().any(|c| matches!(c.action, Action::Refresh { .. }));
            if refresh && self.refuses_refreshes.load(Ordering::SeqCst) {
                return Err(ShardError::Rejected {
                    shard: "a".into(),
                    code: "OOM".into(),
                    text: "command not allowed".into(),
                });
            }
            self.applied.lock().unwrap().extend(commands.iter().map(|c| c.key.to_string()));
            Ok(Applied::default())
        })
    }

    fn flush<'a>(&'a self, prefix: &'a str, _: Duration) -> BoxFuture<'a, Result<u64, ShardError>> {
        Box::pin(async move {
            if self.down.load(Ordering::SeqCst) {
                return Err(self.error());
            }
            self.flushed.lock().unwrap().push(prefix.to_owned());
            Ok(1)
        })
    }

    fn reachable(&self, within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(within))
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
    let shard = Arc::new(Scripted::default());
    shard.down.store(down, Ordering::SeqCst);
    let queue = Arc::new(Queue::new("a".into(), Arc::new(BTreeSet::from(["p:".to_owned()])), capacity));
    let stop = CancellationToken::new();
    let (delivering, target, stopping) = (queue.clone(), shard.clone(), stop.clone());
    let task = tokio::spawn(async move { delivering.deliver(target, stopping).await });
    Running { queue, shard, stop, task }
}

impl Running {
    fn push(&self, commands: Arc<[Command]>) -> Ticket {
        let (ticket, mut parts) = Ticket::new([0]);
        self.queue.push(Item { commands, part: parts.remove(0), deadline_ms: 0 });
        ticket
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
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
async fn a_flush_that_fails_is_tried_again_and_holds_its_ticket() {
    let running = run(1000, true);
    let (mut ticket, mut parts) = Ticket::new([0]);
    running.queue.push_flush(BTreeSet::from(["p:".to_owned()]), parts.remove(0), "gap");
    assert!(tokio::time::timeout(Duration::from_secs(10), &mut ticket).await.is_err());
    running.shard.down.store(false, Ordering::SeqCst);
    ticket.await.unwrap();
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
async fn stopping_abandons_what_is_left() {
    let running = run(1000, true);
    let ticket = running.push(drops(&["p:1"]));
    let queue = running.queue.clone();
    running.end().await;
    drop(queue);
    assert!(ticket.await.is_err());
}
