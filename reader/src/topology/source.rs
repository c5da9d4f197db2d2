//! Following the place where the ring's membership comes from.

use std::sync::Arc;

use ringtide_core::watch::{Source, Watch};

use crate::cache::Inner;

/// Looks at the source again and again, and takes what it says.
pub(crate) async fn watch(inner: Arc<Inner>, source: Source) {
    let mut watch = Watch::new(source);
    loop {
        tokio::time::sleep(inner.settings.watch).await;
        let ring = Arc::clone(inner.topology.load().ring());
        match watch.look(ring.membership()).await {
            Ok(None) => {}
            // Told by the call itself.
            Ok(Some(membership)) => drop(inner.change_ring(membership).await),
            Err(_) => inner.changes.unread(),
        }
    }
}
