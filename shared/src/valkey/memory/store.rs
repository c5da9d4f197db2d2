//! Strings that expire, and channels: the commands that scripts are made of.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::entry::Entry;
use crate::valkey::{Flushed, InboxEvent, Notice, Tracker};

/// What one server holds.
pub(in crate::valkey) struct Store {
    started: Instant,
    ahead: Duration,
    names: BTreeMap<Vec<u8>, Kept>,
    channels: HashMap<Vec<u8>, Vec<UnboundedSender<InboxEvent>>>,
    trackers: Vec<Weak<dyn Tracker>>,
}

struct Kept {
    value: Bytes,
    /// By this store's clock; it is gone after this millisecond.
    expires_ms: Option<u64>,
}

/// Whether `PEXPIRE` looks at the time to live that there is; none is longer than any.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Only {
    Always,
    Shorter,
    Longer,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            ahead: Duration::ZERO,
            names: BTreeMap::new(),
            channels: HashMap::new(),
            trackers: Vec::new(),
        }
    }
}

impl Store {
    pub(super) fn get(&mut self, name: &[u8]) -> Option<Bytes> {
        self.live(name).map(|kept| kept.value.clone())
    }

    pub(super) fn exists(&mut self, name: &[u8]) -> bool {
        self.live(name).is_some()
    }

    /// `SET … PX`.
    pub(super) fn set(&mut self, name: &[u8], value: impl Into<Bytes>, ttl_ms: u64) {
        self.put(name, value.into(), Some(ttl_ms));
    }

    pub(super) fn put(&mut self, name: &[u8], value: Bytes, ttl_ms: Option<u64>) {
        let now_ms = self.now_ms();
        let expires_ms = ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms));
        self.names.insert(name.to_vec(), Kept { value, expires_ms });
        self.changed(name);
    }

    pub(super) fn set_range(&mut self, name: &[u8], at: usize, bytes: &[u8]) {
        self.change(name, |value| {
            let end = at + bytes.len();
            if value.len() < end {
                value.resize(end, 0);
            }
            value[at..end].copy_from_slice(bytes);
        });
    }

    pub(super) fn append(&mut self, name: &[u8], bytes: &[u8]) {
        self.change(name, |value| value.extend_from_slice(bytes));
    }

    pub(super) fn unlink(&mut self, name: &[u8]) -> bool {
        let there = self.live(name).is_some() && self.names.remove(name).is_some();
        if there {
            self.changed(name);
        }
        there
    }

    pub(super) fn expire(&mut self, name: &[u8], ttl_ms: u64, only: Only) {
        let expires_ms = self.now_ms().saturating_add(ttl_ms);
        let Some(kept) = self.live(name) else { return };
        let changes = match (only, kept.expires_ms) {
            (Only::Always, _) | (Only::Shorter, None) => true,
            (Only::Shorter, Some(now)) => expires_ms < now,
            (Only::Longer, Some(now)) => expires_ms > now,
            (Only::Longer, None) => false,
        };
        if changes {
            kept.expires_ms = Some(expires_ms);
            self.changed(name);
        }
    }

    /// How long a name still lives; `None` for one that is not there, `Some(None)` for ever.
    pub(super) fn remaining_ms(&mut self, name: &[u8]) -> Option<Option<u64>> {
        let now_ms = self.now_ms();
        let kept = self.live(name)?;
        Some(kept.expires_ms.map(|expires_ms| expires_ms.saturating_sub(now_ms)))
    }

    /// The names that are wanted, sorted.
    pub(super) fn names(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        self.sweep();
        self.names.keys().filter(|name| wanted(name)).cloned().collect()
    }

    pub(super) fn clear(&mut self) {
        self.names.clear();
        self.flushed(Flushed::Server);
    }

    /// Takes away what has expired, and says so.
    pub(super) fn sweep(&mut self) {
        let now_ms = self.now_ms();
        let over: Vec<_> = self.names.extract_if(.., |_, kept| kept.is_over(now_ms)).collect();
        for (name, _) in over {
            self.changed(&name);
        }
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.ahead = self.ahead.saturating_add(by);
        self.sweep();
        for kept in self.names.values_mut() {
            if let Some(older) = older(&kept.value, by) {
                kept.value = older;
            }
        }
    }

    /// Tells a tracker of every change from now on, for as long as anybody else holds it.
    pub(super) fn track(&mut self, tracker: &Arc<dyn Tracker>) {
        self.trackers.push(Arc::downgrade(tracker));
    }

    pub(super) fn flushed(&mut self, why: Flushed) {
        self.tell_trackers(|tracker| tracker.flushed(why));
    }

    pub(super) fn subscribe(&mut self, channel: &[u8], subscriber: UnboundedSender<InboxEvent>) {
        self.channels.entry(channel.to_vec()).or_default().push(subscriber);
    }

    pub(super) fn publish(&mut self, channel: &[u8], message: &Bytes) {
        // Whatever is published here is a notice; inboxes leave anything else.
        let Some(notice) = Notice::parse(message) else { return };
        if let Some(subscribers) = self.channels.get_mut(channel) {
            subscribers.retain(|subscriber| subscriber.send(InboxEvent::Notice(notice.clone())).is_ok());
        }
    }

    pub(super) fn tell_all(&mut self, event: &InboxEvent) {
        for subscribers in self.channels.values_mut() {
            subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
        }
        self.channels.retain(|_, subscribers| !subscribers.is_empty());
    }

    fn now_ms(&self) -> u64 {
        let now = self.started.elapsed().saturating_add(self.ahead);
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    fn live(&mut self, name: &[u8]) -> Option<&mut Kept> {
        let now_ms = self.now_ms();
        if self.names.get(name)?.is_over(now_ms) {
            self.names.remove(name);
            self.changed(name);
        }
        self.names.get_mut(name)
    }

    /// Changes a value and keeps its time to live.
    fn change(&mut self, name: &[u8], change: impl FnOnce(&mut BytesMut)) {
        let Some(kept) = self.live(name) else { return };
        let mut value = BytesMut::from(&kept.value[..]);
        change(&mut value);
        kept.value = value.freeze();
        self.changed(name);
    }

    fn changed(&mut self, name: &[u8]) {
        self.tell_trackers(|tracker| tracker.invalidated(name));
    }

    fn tell_trackers(&mut self, tell: impl Fn(&dyn Tracker)) {
        self.trackers.retain(|tracker| {
            let tracker = tracker.upgrade();
            tracker.inspect(|tracker| tell(&**tracker)).is_some()
        });
    }
}

impl Kept {
    fn is_over(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| now_ms > expires_ms)
    }
}

/// An entry with so much less time until it is stale: who reads it goes by a clock that does not move with the store's.
fn older(value: &Bytes, by: Duration) -> Option<Bytes> {
    let mut entry = Entry::parse(value).ok()?;
    let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
    let says = entry.header.soft_expiry_ms != 0;
    // 0 would be no time at all.
    entry.header.soft_expiry_ms = entry.header.soft_expiry_ms.saturating_sub(by_ms).max(1);
    says.then(|| entry.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_expires_is_gone_after_its_time_by_tokios_clock_or_the_tests() {
        let mut store = Store::default();
        store.set(b"a", "1", 10);
        store.set(b"b", "1", 20);
        store.put(b"c", "1".into(), None);
        tokio::time::advance(Duration::from_millis(11)).await;
        assert_eq!((store.get(b"a"), store.remaining_ms(b"b")), (None, Some(Some(9))));
        store.advance(Duration::from_millis(10));
        assert_eq!(store.names(|_| true), [b"c".to_vec()]);
        assert!(!store.unlink(b"b") && store.unlink(b"c"));
    }

    #[test]
    fn a_time_to_live_is_only_shortened_or_lengthened_where_asked() {
        let mut store = Store::default();
        for (there, only, asked, left) in [
            (None, Only::Shorter, 1000, Some(1000)),
            (None, Only::Longer, 1000, None),
            (Some(5000), Only::Shorter, 9000, Some(5000)),
            (Some(5000), Only::Shorter, 1000, Some(1000)),
            (Some(5000), Only::Longer, 9000, Some(9000)),
            (Some(5000), Only::Longer, 1000, Some(5000)),
            (Some(5000), Only::Always, 9000, Some(9000)),
        ] {
            store.put(b"a", "1".into(), there);
            store.expire(b"a", asked, only);
            let remaining = store.remaining_ms(b"a").unwrap();
            assert_eq!(remaining.map(|ms| ms.div_ceil(1000) * 1000), left);
        }
    }
}
