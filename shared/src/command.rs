//! The closed set of commands that routing yields and ring shards carry out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::key::{CacheKey, KeySpace, Mode};
use crate::version::Version;

/// What a change asks of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The key.
    pub key: CacheKey,
    /// Its key space.
    pub space: Arc<KeySpace>,
    /// What to do.
    pub action: Action,
}

/// What to do with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Drop or mark the entry. Without a version ([`Version::NONE`]) always; with one unless the entry is new enough.
    Invalidate {
        /// The version after the change.
        version: Version,
    },
    /// Store the new image, where it is newer.
    Refresh {
        /// The version after the change; never [`Version::NONE`].
        version: Version,
        /// What to store.
        image: Image,
        /// Whether it is stored where nothing is cached.
        populate: bool,
    },
}

/// What a refresh stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// The item as plain JSON.
    Json(Bytes),
    /// The item was deleted.
    Deleted,
}

impl Command {
    /// An invalidation that drops whatever is cached.
    #[must_use]
    pub fn drop_entry(key: CacheKey, space: Arc<KeySpace>) -> Self {
        Self { key, space, action: Action::Invalidate { version: Version::NONE } }
    }

    /// How long after the first time the command is to be carried out once more, where loads may lag behind the change
    /// and nothing in the ring keeps them from being stored.
    #[must_use]
    pub fn repeated_after(&self) -> Option<Duration> {
        match (&self.space.mode, &self.action) {
            (Mode::Settle { after }, _) => Some(*after),
            // Without a version there is no floor to leave behind for the loads that lag.
            (Mode::Versioned { tombstone, .. }, Action::Invalidate { version }) if version.is_none() => *tombstone,
            (Mode::Plain | Mode::Versioned { .. }, _) => None,
        }
    }

    /// The invalidation that stands for this command where its image may be out of date.
    #[must_use]
    pub fn without_image(self) -> Self {
        match self.action {
            Action::Refresh { version, .. } => Self { action: Action::Invalidate { version }, ..self },
            Action::Invalidate { .. } => self,
        }
    }

    /// The version after the change; [`Version::NONE`] where none is compared.
    #[must_use]
    pub fn version(&self) -> Version {
        match self.action {
            Action::Invalidate { version } | Action::Refresh { version, .. } => version,
        }
    }

    /// Makes one command out of two for the same key, so that carrying it out is as good as carrying out both.
    #[must_use]
    pub fn merge(self, later: Command) -> Command {
        use Action::{Invalidate, Refresh};
        let action = match (self.action, later.action) {
            (Refresh { version: a, image, populate }, Refresh { version: b, .. }) if a > b => {
                Refresh { version: a, image, populate }
            }
            (Refresh { .. }, later @ Refresh { .. }) => later,
            // An invalidation that meets a refresh comes of another route or of an unreadable image. Dropping is right
            // for both, up to the higher version where both have one.
            (Invalidate { version: a }, Invalidate { version: b } | Refresh { version: b, .. })
            | (Refresh { version: a, .. }, Invalidate { version: b }) => Invalidate { version: a.and(b) },
        };
        Command { action, ..later }
    }
}

/// The invalidations that stand for commands where their images may be out of date.
#[must_use]
pub fn without_images(commands: &Arc<[Command]>) -> Arc<[Command]> {
    if commands.iter().any(|command| matches!(command.action, Action::Refresh { .. })) {
        commands.iter().map(|command| command.clone().without_image()).collect()
    } else {
        Arc::clone(commands)
    }
}
