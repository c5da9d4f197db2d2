//! Knowing when all of a page has been delivered.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// The pipeline ended before the page was delivered: its records have to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline ended before the page was delivered")]
pub struct Abandoned;

/// Resolves when all of a page was acknowledged by its ring shards.
///
/// Dropping it gives the page up: what is not begun is not begun any more.
#[derive(Debug)]
pub struct Ticket {
    delivered: oneshot::Receiver<()>,
    page: Arc<Page>,
}

/// One part of a page, which one delivery stands for. Dropped unfinished, it leaves the page undelivered.
#[derive(Debug)]
pub(super) struct Part {
    page: Arc<Page>,
    index: usize,
}

#[derive(Debug)]
struct Page {
    /// For each part, the first record it comes from, and whether it is done.
    parts: Vec<(usize, AtomicBool)>,
    left: AtomicUsize,
    given_up: AtomicBool,
    delivered: Mutex<Option<oneshot::Sender<()>>>,
}

impl Ticket {
    /// Makes a ticket for parts that come from these records, and the parts, in the same order.
    pub(super) fn new(first_records: impl IntoIterator<Item = usize>) -> (Self, Vec<Part>) {
        let parts: Vec<_> = first_records.into_iter().map(|record| (record, AtomicBool::new(false))).collect();
        let (sender, delivered) = oneshot::channel();
        let count = parts.len();
        let page = Arc::new(Page {
            parts,
            left: AtomicUsize::new(count),
            given_up: AtomicBool::new(false),
            delivered: Mutex::new(Some(sender)),
        });
        if count == 0 {
            page.announce();
        }
        let parts = (0..count).map(|index| Part { page: page.clone(), index }).collect();
        (Self { delivered, page }, parts)
    }

    /// The index in the page of the first record that has a part which is not delivered.
    #[must_use]
    pub fn first_undelivered(&self) -> Option<usize> {
        let open = self.page.parts.iter().filter(|(_, done)| !done.load(Ordering::Acquire));
        open.map(|(record, _)| *record).min()
    }
}

impl Future for Ticket {
    type Output = Result<(), Abandoned>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.delivered).poll(context).map_err(|_| Abandoned)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.page.given_up.store(true, Ordering::Release);
    }
}

impl Part {
    /// Marks the part as delivered.
    pub(super) fn done(self) {
        let Some((_, done)) = self.page.parts.get(self.index) else { return };
        if !done.swap(true, Ordering::AcqRel) && self.page.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.page.announce();
        }
    }

    /// Whether nobody waits for the page any more.
    pub(super) fn given_up(&self) -> bool {
        self.page.given_up.load(Ordering::Acquire)
    }
}

impl Page {
    fn announce(&self) {
        let sender = self.delivered.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // The page was given up where nobody receives this.
            let _given_up = sender.send(());
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let done = self.page.parts.get(self.index).is_some_and(|(_, done)| done.load(Ordering::Acquire));
        if !done {
            // Without its sender the ticket resolves to `Abandoned`.
            self.page.delivered.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_resolves_when_the_last_part_is_done() {
        let (mut ticket, mut parts) = Ticket::new([3, 1, 2]);
        assert_eq!(ticket.first_undelivered(), Some(1));
        parts.remove(1).done();
        assert_eq!(ticket.first_undelivered(), Some(2));
        parts.remove(1).done();
        let pending = tokio::time::timeout(std::time::Duration::from_millis(5), &mut ticket).await;
        assert!(pending.is_err(), "one part is open");
        parts.remove(0).done();
        assert_eq!(ticket.first_undelivered(), None);
        assert_eq!(ticket.await, Ok(()));
    }

    #[tokio::test]
    async fn a_page_without_commands_is_delivered() {
        assert_eq!(Ticket::new([]).0.await, Ok(()));
    }

    #[tokio::test]
    async fn a_dropped_part_abandons_the_page() {
        let (ticket, parts) = Ticket::new([0]);
        drop(parts);
        assert_eq!(ticket.await, Err(Abandoned));
    }

    #[test]
    fn a_dropped_ticket_gives_the_page_up() {
        let (ticket, parts) = Ticket::new([0]);
        assert!(!parts[0].given_up());
        drop(ticket);
        assert!(parts[0].given_up());
    }
}
