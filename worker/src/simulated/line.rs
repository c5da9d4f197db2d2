//! The way from one worker to everything it calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::flaw::Flaw;
use super::world::World;

/// One worker's connection: latency, calls that hang, and the world at its end.
#[derive(Clone)]
pub(super) struct Line {
    world: Arc<Mutex<World>>,
    state: Arc<Mutex<State>>,
    pub(super) flaw: Flaw,
    /// Names the worker, one number for each time it is started.
    pub(super) worker: u32,
    /// How long a lease lives by the worker's own clock.
    pub(super) lease_time: Duration,
}

struct State {
    rng: fastrand::Rng,
    hung_until: Instant,
    /// Until when a call stands still at the latest: those under way sleep through a healing.
    asleep_until: Instant,
    cut_until: Instant,
    abandoned: bool,
}

impl Line {
    pub(super) fn new(world: Arc<Mutex<World>>, worker: u32, seed: u64, flaw: Flaw, lease_time: Duration) -> Self {
        let now = Instant::now();
        let state = State {
            rng: fastrand::Rng::with_seed(seed),
            hung_until: now,
            asleep_until: now,
            cut_until: now,
            abandoned: false,
        };
        Self { world, state: Arc::new(Mutex::new(state)), flaw, worker, lease_time }
    }

    /// Its calls stand still for a time, on their way there or back.
    pub(super) fn hang(&self, time: Duration) {
        self.state.lock().unwrap().hung_until = Instant::now() + time;
    }

    /// Until when its calls last stood still.
    pub(super) fn hung_until(&self) -> Instant {
        self.state.lock().unwrap().hung_until
    }

    /// Until when a call of it stands still at the latest.
    pub(super) fn asleep_until(&self) -> Instant {
        self.state.lock().unwrap().asleep_until
    }

    /// Nothing can be reached for a time.
    pub(super) fn cut(&self, time: Duration) {
        self.state.lock().unwrap().cut_until = Instant::now() + time;
    }

    pub(super) fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        (state.hung_until, state.cut_until) = (Instant::now(), Instant::now());
    }

    /// The worker's pipeline delivers nothing any more.
    pub(super) fn abandon(&self) {
        self.state.lock().unwrap().abandoned = true;
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.state.lock().unwrap().abandoned
    }

    pub(super) fn is_cut(&self) -> bool {
        self.state.lock().unwrap().cut_until > Instant::now()
    }

    /// True once in `of` times.
    pub(super) fn chance(&self, of: u32) -> bool {
        self.state.lock().unwrap().rng.u32(..of) == 0
    }

    pub(super) fn below(&self, most: u32) -> u32 {
        self.state.lock().unwrap().rng.u32(..most)
    }

    /// Makes a call: there, what happens in the world, and back.
    pub(super) async fn call<T>(&self, at_the_end: impl FnOnce(&mut World) -> T) -> T {
        self.travel(1).await;
        let answer = self.world(at_the_end);
        self.wait().await;
        answer
    }

    /// Looks at the world without a call.
    pub(super) fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        World::with(&self.world, look)
    }

    pub(super) async fn travel(&self, times: u32) {
        let calm = self.world(|world| world.flaky == 0);
        let millis = {
            let mut state = self.state.lock().unwrap();
            let long = !calm && state.rng.u8(..64) == 0;
            state.rng.u64(if long { 50..400 } else { 2..12 }) * u64::from(times)
        };
        tokio::time::sleep(Duration::from_millis(millis)).await;
        self.wait().await;
    }

    async fn wait(&self) {
        loop {
            let until = {
                let mut state = self.state.lock().unwrap();
                let until = state.hung_until;
                if until <= Instant::now() {
                    return;
                }
                state.asleep_until = state.asleep_until.max(until);
                until
            };
            tokio::time::sleep_until(until).await;
            let mut state = self.state.lock().unwrap();
            // It may have been healed meanwhile, which this call has slept through.
            state.hung_until = state.hung_until.max(until);
        }
    }
}
