//! When another owner's lease has expired, told by our own monotonic clock.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Lease, LeaseKey, OwnerId};

/// Remembers since when each lease has not changed.
#[derive(Debug)]
pub struct Expiry {
    timeout: Duration,
    seen: HashMap<LeaseKey, (u64, Option<OwnerId>, Instant)>,
}

impl Expiry {
    /// A lease expires once it has not changed for `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, seen: HashMap::new() }
    }

    /// Takes in a lease that was read at `now`, and tells whether `owner` may take it: it is free, its own, or expired.
    pub fn may_take(&mut self, lease: &Lease, owner: &OwnerId, now: Instant) -> bool {
        let entry = self.seen.entry(lease.key.clone());
        let seen = entry.or_insert_with(|| (lease.counter, lease.owner.clone(), now));
        if (seen.0, &seen.1) != (lease.counter, &lease.owner) {
            *seen = (lease.counter, lease.owner.clone(), now);
        }
        match &lease.owner {
            _ if lease.is_paused() => false,
            None => true,
            Some(holder) => holder == owner || now.duration_since(seen.2) >= self.timeout,
        }
    }

    /// Forgets every lease that `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&LeaseKey) -> bool) {
        self.seen.retain(|key, _| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_expires_when_its_counter_stands_still() {
        let key = LeaseKey::parse("1:r$1$t$l:1:s").unwrap();
        let (me, other) = (OwnerId::named("me"), OwnerId::named("other"));
        let mut expiry = Expiry::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let lease = |counter| Lease { owner: Some(other.clone()), counter, ..Lease::new(key.clone()) };
        assert!(!expiry.may_take(&lease(1), &me, at(0)));
        assert!(!expiry.may_take(&lease(1), &me, at(9)));
        assert!(!expiry.may_take(&lease(2), &me, at(12)), "it was renewed meanwhile");
        assert!(!expiry.may_take(&lease(2), &me, at(21)));
        assert!(expiry.may_take(&lease(2), &me, at(22)));
        assert!(expiry.may_take(&Lease::new(key.clone()), &me, at(23)), "it is free");
        let paused = Lease { owner: Some(OwnerId::paused()), counter: 3, ..Lease::new(key.clone()) };
        assert!(!expiry.may_take(&paused, &me, at(23)) && !expiry.may_take(&paused, &me, at(99)), "it is paused");
        let own = Lease { owner: Some(me.clone()), ..Lease::new(key) };
        assert!(expiry.may_take(&own, &me, at(24)), "it is our own");
    }
}
