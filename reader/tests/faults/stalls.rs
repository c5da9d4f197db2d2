//! Times at which this process did not run, for which no deadline can be held.

use std::sync::Mutex;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(5);

/// What a busy machine may take before it counts.
const USUAL: Duration = Duration::from_millis(15);

static STALLS: Mutex<Vec<(Instant, Instant)>> = Mutex::new(Vec::new());

/// Begins to watch, by a thread of its own, which no task of a runtime can hold up.
pub(crate) fn watch() {
    static WATCHING: std::sync::Once = std::sync::Once::new();
    WATCHING.call_once(|| {
        std::thread::spawn(|| {
            let mut last = Instant::now();
            loop {
                std::thread::sleep(TICK);
                let now = Instant::now();
                if now - last > USUAL {
                    STALLS.lock().unwrap().push((last, now));
                }
                last = now;
            }
        });
    });
}

/// How long this process did not run since `began`.
pub(crate) fn since(began: Instant) -> Duration {
    // A stall that has just ended is noted with the next tick.
    std::thread::sleep(TICK * 2);
    let stalls = STALLS.lock().unwrap();
    stalls.iter().filter(|(_, to)| *to > began).map(|(from, to)| *to - (*from).max(began)).sum()
}
