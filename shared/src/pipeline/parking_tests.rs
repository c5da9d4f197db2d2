use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use tokio::time::Instant;

use super::super::ticket::Ticket;
use super::*;

/// A store that is up or down, and that notes what it keeps.
#[derive(Debug, Default)]
struct Scripted {
    down: AtomicBool,
    silent: AtomicBool,
    refused: Mutex<Option<String>>,
    kept: Mutex<Vec<String>>,
    attempts: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

#[async_trait]
impl ParkStore for Scripted {
    async fn park(&self, record: &ParkedRecord) -> Result<(), ParkError> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let refused = self.refused.lock().unwrap().as_ref() == Some(&record.reason);
        if self.down.load(Ordering::SeqCst) || refused {
            return Err(ParkError::Unavailable { store: "test".into(), reason: "down".into() });
        }
        self.kept.lock().unwrap().push(record.reason.clone());
        Ok(())
    }
}

struct Bench {
    store: Arc<Scripted>,
    parking: Arc<Parking>,
    tasks: Tasks,
}

impl Bench {
    fn new() -> Self {
        let store = Arc::new(Scripted::default());
        let parking = Parking::new(Some(store.clone()));
        Self { store, parking, tasks: Tasks::default() }
    }

    fn park(&self, reason: &str) -> Ticket {
        let (ticket, mut parts) = Ticket::new([0]);
        let record = ParkedRecord { reason: reason.to_owned(), ..ParkedRecord::default() };
        self.parking.park(Parked { index: 0, record }, parts.remove(0), &self.tasks);
        ticket
    }

    fn kept(&self) -> Vec<String> {
        self.store.kept.lock().unwrap().clone()
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_page_is_delivered_when_its_record_is_kept_and_no_earlier() {
    let bench = Bench::new();
    bench.store.down.store(true, Ordering::SeqCst);
    let mut ticket = bench.park("one");
    assert!(tokio::time::timeout(LONG, &mut ticket).await.is_err(), "the store is down");
    assert!(!bench.parking.healthy());
    assert_eq!(bench.parking.pending(), 1);
    bench.store.down.store(false, Ordering::SeqCst);
    ticket.await.unwrap();
    bench.parking.drained().await;
    assert_eq!(bench.kept(), ["one"]);
    assert!(bench.parking.healthy());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_asked_less_and_less() {
    let bench = Bench::new();
    bench.store.down.store(true, Ordering::SeqCst);
    let mut ticket = bench.park("one");
    assert!(tokio::time::timeout(LONG, &mut ticket).await.is_err());
    let attempts = bench.store.attempts.load(Ordering::SeqCst);
    assert!((12..40).contains(&attempts), "{attempts} attempts in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_given_up_and_tried_again() {
    let bench = Bench::new();
    bench.store.silent.store(true, Ordering::SeqCst);
    let mut ticket = bench.park("one");
    assert!(tokio::time::timeout(LONG, &mut ticket).await.is_err());
    bench.store.silent.store(false, Ordering::SeqCst);
    let before = Instant::now();
    ticket.await.unwrap();
    assert!(before.elapsed() < TIMEOUT + LAST_BACKOFF + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn one_record_that_is_refused_holds_up_no_other() {
    let bench = Bench::new();
    *bench.store.refused.lock().unwrap() = Some("bad".to_owned());
    let mut bad: Vec<_> = (0..3 * DEPTH).map(|_| bench.park("bad")).collect();
    let good = bench.park("good");
    tokio::time::timeout(LONG, good).await.unwrap().unwrap();
    assert_eq!(bench.kept(), ["good"]);
    assert!(tokio::time::timeout(LONG, &mut bad[0]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn few_are_parked_at_once_and_a_page_that_is_given_up_is_not_parked() {
    let bench = Bench::new();
    let tickets: Vec<_> = (0..100).map(|n| bench.park(&n.to_string())).collect();
    drop(bench.park("given up"));
    for ticket in tickets {
        ticket.await.unwrap();
    }
    bench.parking.drained().await;
    assert_eq!(bench.kept().len(), 100);
    assert_eq!(bench.store.most_at_once.load(Ordering::SeqCst), DEPTH);
    bench.tasks.ended().await;
}

#[tokio::test(start_paused = true)]
async fn taking_in_waits_for_a_store_that_is_slow_and_not_for_one_that_is_down() {
    let bench = Bench::new();
    let tickets: Vec<_> = (0..=MOST_RECORDS).map(|n| bench.park(&n.to_string())).collect();
    assert!(!bench.parking.has_room());
    assert!(futures_util::FutureExt::now_or_never(bench.parking.room()).is_none());
    bench.parking.room().await;
    assert!(bench.parking.has_room());
    bench.store.down.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(100)).await;
    bench.parking.room().await;
    drop(tickets);
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_the_page_undelivered() {
    let bench = Bench::new();
    bench.store.down.store(true, Ordering::SeqCst);
    let ticket = bench.park("one");
    bench.tasks.stop();
    assert!(ticket.await.is_err());
    bench.parking.drained().await;
}

#[tokio::test]
async fn without_a_store_nothing_is_waited_for() {
    let (ticket, mut parts) = Ticket::new([0]);
    let record = ParkedRecord::default();
    Parking::new(None).park(Parked { index: 0, record }, parts.remove(0), &Tasks::default());
    ticket.await.unwrap();
}
