//! What takes entries and locks away: expiry, eviction, a server that comes back empty.

use super::cell::KEPT;
use super::content::Content;
use super::membership::{LEASE_STEPS, TTL_STEPS};
use super::outcome::{Step, Violation};
use super::schedule::{LAG, Schedule};
use super::world::World;

impl Schedule<'_> {
    /// One of the keys, on one of the servers.
    fn any_place(&mut self) -> (usize, usize) {
        let servers = if self.world == World::Ring { self.servers.len() } else { 1 };
        (self.rng.usize(..self.keys.len()), self.rng.usize(..servers))
    }

    pub(crate) async fn expire_lock(&mut self) {
        let (key, server) = self.any_place();
        self.drop_lock(key, server).await;
    }

    async fn drop_lock(&mut self, key: usize, server: usize) {
        self.servers[server].delete(&[self.keys[key].key.lock()]).await;
        let place = &mut self.keys[key].places[server];
        (place.live, place.locked, place.registered) = (None, None, false);
        self.note(Step::LockExpired { key });
    }

    /// An entry or a tombstone comes to its end; each lives for longer than a load lags.
    pub(crate) async fn expire_entry(&mut self) {
        let (key, server) = self.any_place();
        if self.now < self.keys[key].places[server].touched + LAG {
            return self.read().await;
        }
        self.drop_entry(key, server).await;
        self.note(Step::EntryExpired { key });
    }

    pub(crate) async fn evict(&mut self) {
        let (key, server) = self.any_place();
        self.drop_entry(key, server).await;
        self.note(Step::Evicted { key });
    }

    async fn drop_entry(&mut self, key: usize, server: usize) {
        self.servers[server].delete(&[self.keys[key].key.to_string()]).await;
        let place = &mut self.keys[key].places[server];
        (place.stored, place.kept) = (None, None);
        self.hear(server).await;
    }

    /// The server comes back empty.
    pub(crate) async fn restart(&mut self) {
        let (_, server) = self.any_place();
        self.empty(server).await;
        self.hear(server).await;
        self.replica.forget();
        let scripts = self.rng.u8(..20) == 0;
        if scripts {
            self.servers[server].forget_scripts().await;
        }
        if self.world == World::Tracked {
            (0..self.processes.len()).for_each(|process| self.lose_connection(process));
        }
        self.note(Step::Restarted { scripts });
    }

    /// Takes the schedule's keys away from a server, locks first, as a flush does.
    pub(crate) async fn empty(&mut self, server: usize) {
        let locks: Vec<String> = self.keys.iter().map(|key| key.key.lock()).collect();
        let entries: Vec<String> = self.keys.iter().map(|key| key.key.to_string()).collect();
        self.servers[server].delete(&locks).await;
        self.keys.iter_mut().for_each(|key| key.places[server].live = None);
        self.servers[server].delete(&entries).await;
        self.keys.iter_mut().for_each(|key| key.places[server].clear());
    }

    /// Takes everything away at the end.
    pub(crate) async fn leave_nothing(&mut self) {
        let names: Vec<String> = self.keys.iter().flat_map(|key| [key.key.to_string(), key.key.lock()]).collect();
        let servers = if self.world == World::Ring { self.servers.len() } else { 1 };
        for server in &self.servers[..servers] {
            server.delete(&names).await;
        }
    }

    pub(crate) async fn delete_all(&mut self) {
        let servers = if self.world == World::Ring { self.servers.len() } else { 1 };
        for server in 0..servers {
            self.empty(server).await;
        }
    }

    /// Time passes for a value that was invalidated and is kept.
    pub(crate) async fn age(&mut self) {
        let (key, server) = self.any_place();
        let entry = self.servers[server].get(&self.keys[key].key).await;
        if !entry.is_some_and(|entry| Content::is_marked(&entry)) {
            return self.read().await;
        }
        if let Some(left) = self.check_kept(server, key).await {
            let left = left / 2;
            self.servers[server].let_age(&self.keys[key].key, left).await;
            self.keys[key].places[server].kept = Some(left);
            self.hear(server).await;
            self.note(Step::Aged { key, left });
        }
    }

    /// Checks how long a marked value is still kept: no longer than its first mark said.
    pub(crate) async fn check_kept(&mut self, server: usize, key: usize) -> Option<i64> {
        let left = self.servers[server].time_left(&self.keys[key].key).await?;
        let most = self.keys[key].places[server].kept.unwrap_or(KEPT.as_millis() as i64);
        // A floor that loads which lag have to meet is kept for its own time, and the value with it.
        let floor_counts = self.cell.is_eventual() && self.cell.is_versioned();
        if left > most && !floor_counts || !self.space.keeps_stale() {
            self.violated(Violation::KeptTooLong);
        }
        Some(left)
    }

    /// Lets come to its end what must not live longer, and processes learn what they must not be late for; it matters
    /// only where owners change, for nothing else counts on the end of a time to live.
    pub(crate) async fn let_time_pass(&mut self) {
        if self.world != World::Ring {
            return;
        }
        for server in 0..self.servers.len() {
            for key in 0..self.keys.len() {
                let place = &self.keys[key].places[server];
                let over = |since: Option<u64>, steps| since.is_some_and(|since| since + steps <= self.now);
                let (lock, entry) = (over(place.locked, LEASE_STEPS), over(place.stored, TTL_STEPS));
                if lock {
                    self.drop_lock(key, server).await;
                }
                if entry {
                    self.drop_entry(key, server).await;
                    self.note(Step::EntryExpired { key });
                }
            }
        }
        self.learn_in_time();
    }
}
