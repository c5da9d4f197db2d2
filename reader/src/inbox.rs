//! The inbox of this process on one ring shard: waiters by key, woken by notices and never by polling.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ringtide_core::key::CacheKey;
use ringtide_core::valkey::{self, InboxEvent, Notice, Token};
use tokio::sync::oneshot;

/// Why a waiter was woken.
#[derive(Clone, Debug)]
pub(crate) enum Wake {
    /// The lease under this token was filled; the whole entry, where it was short enough to travel.
    Filled(Token, Option<Bytes>),
    /// The lease was taken away or given back.
    Voided,
    /// The holder's load failed.
    Failed(String),
    /// Notices may have been lost, or the lock's time is over.
    LookAgain,
}

/// Who waits for which key.
#[derive(Default)]
pub(crate) struct Waiters {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    by_key: HashMap<CacheKey, Vec<(u64, oneshot::Sender<Wake>)>>,
}

/// A registration, which ends when it is dropped.
pub(crate) struct Waiter {
    waiters: Arc<Waiters>,
    key: CacheKey,
    id: u64,
    woken: oneshot::Receiver<Wake>,
}

impl Waiters {
    /// Registers a waiter; to be done before the lease is asked for, so that no notice is missed.
    pub(crate) fn register(self: &Arc<Self>, key: &CacheKey) -> Waiter {
        let (sender, woken) = oneshot::channel();
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        table.by_key.entry(key.clone()).or_default().push((id, sender));
        Waiter { waiters: Arc::clone(self), key: key.clone(), id, woken }
    }

    /// Wakes whom an event concerns.
    pub(crate) fn handle(&self, event: InboxEvent) {
        match event {
            InboxEvent::Notice(Notice::Filled { holder, key, entry }) => self.wake(&key, &Wake::Filled(holder, entry)),
            InboxEvent::Notice(Notice::Voided { key }) => self.wake(&key, &Wake::Voided),
            InboxEvent::Notice(Notice::Released { key, reason }) => self.wake(&key, &Wake::Failed(reason)),
            InboxEvent::Up => {
                let all = std::mem::take(&mut self.table().by_key);
                for (_, sender) in all.into_values().flatten() {
                    let _ = sender.send(Wake::LookAgain);
                }
            }
            InboxEvent::Down => {}
        }
    }

    fn wake(&self, key: &CacheKey, wake: &Wake) {
        let woken = self.table().by_key.remove(key);
        for (_, sender) in woken.into_iter().flatten() {
            // A waiter that has gone needs no waking.
            let _ = sender.send(wake.clone());
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Waits to be woken.
    pub(crate) async fn woken(&mut self) -> Wake {
        (&mut self.woken).await.unwrap_or(Wake::LookAgain)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut table = self.waiters.table();
        if let Some(senders) = table.by_key.get_mut(&self.key) {
            senders.retain(|(id, _)| *id != self.id);
            if senders.is_empty() {
                table.by_key.remove(&self.key);
            }
        }
    }
}

/// Hands the inbox's events to the waiters until the inbox ends.
pub(crate) async fn deliver(mut inbox: valkey::Inbox, waiters: Arc<Waiters>) {
    while let Some(event) = inbox.next().await {
        waiters.handle(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> CacheKey {
        CacheKey::new(text).unwrap()
    }

    #[tokio::test]
    async fn a_notice_wakes_its_key_alone_and_a_reconnect_wakes_all() {
        let waiters = Arc::new(Waiters::default());
        let (mut a, mut b) = (waiters.register(&key("a")), waiters.register(&key("b")));
        waiters.handle(InboxEvent::Notice(Notice::Released { key: key("a"), reason: "no".into() }));
        assert!(matches!(a.woken().await, Wake::Failed(reason) if reason == "no"));
        waiters.handle(InboxEvent::Down);
        waiters.handle(InboxEvent::Up);
        assert!(matches!(b.woken().await, Wake::LookAgain));
    }

    #[tokio::test]
    async fn a_dropped_waiter_leaves_nothing_behind() {
        let waiters = Arc::new(Waiters::default());
        let first = waiters.register(&key("a"));
        let mut second = waiters.register(&key("a"));
        drop(first);
        let holder = Token::random();
        waiters.handle(InboxEvent::Notice(Notice::Filled { holder, key: key("a"), entry: None }));
        assert!(matches!(second.woken().await, Wake::Filled(of, None) if of == holder));
        drop(second);
        assert!(waiters.table().by_key.is_empty());
    }
}
