//! A ceiling for how much is done in a second, shared by everybody who does it.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Hands out so much a second, evenly: what was not used is not saved up.
#[derive(Debug)]
pub(crate) struct Ceiling {
    per_second: f64,
    /// When what was handed out last is used up.
    free_at: Mutex<Instant>,
}

impl Ceiling {
    /// A ceiling; one below 1 counts as 1.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second.max(1)), free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until so much may be done.
    pub(crate) async fn take(&self, count: usize) {
        let begin = {
            let mut free_at = self.free_at.lock().await;
            let begin = (*free_at).max(Instant::now());
            *free_at = begin + Duration::from_secs_f64(count as f64 / self.per_second);
            begin
        };
        tokio::time::sleep_until(begin).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_goes_faster_than_the_ceiling() {
        let (ceiling, began) = (Ceiling::new(100), Instant::now());
        tokio::join!(ceiling.take(50), ceiling.take(50), ceiling.take(1));
        assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_secs(10)).await;
        let later = Instant::now();
        ceiling.take(100).await;
        ceiling.take(1).await;
        assert!(later.elapsed() >= Duration::from_secs(1), "a pause saves nothing up");
    }
}
