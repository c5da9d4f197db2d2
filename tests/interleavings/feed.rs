//! The change records of one item: delivered in order, replayed, delivered late by a worker that should have ended.

use std::sync::Arc;

use ringtide_core::command::{Action, Command, Image};
use ringtide_core::key::{CacheKey, KeySpace};
use ringtide_core::version::Version;

use super::cell::Cell;
use super::content::Content;
use super::database::Item;

/// How far the records of one item are delivered.
#[derive(Debug)]
pub(crate) struct Feed {
    /// The next record of the worker that holds the stream lease; record `n` tells of commit `n`.
    pub(crate) next: usize,
    /// The last commit up to which every record has been delivered.
    pub(crate) delivered: usize,
    /// The last commit whose second delivery, after the settle time, is done.
    pub(crate) settled: usize,
    /// Second deliveries that are still to come: the commit, and the time before which they must not come.
    pub(crate) settling: Vec<(usize, u64)>,
    /// A bit for each record: its image cannot be read, so that it comes as an invalidation.
    unreadable: u64,
    /// Whether a refresh is stored where nothing is cached.
    populate: bool,
}

impl Feed {
    pub(crate) fn new(unreadable: u64, populate: bool) -> Self {
        Self { next: 1, delivered: 0, settled: 0, settling: Vec::new(), unreadable, populate }
    }

    /// The command of the records from `first` to `last`, made one as a page does.
    pub(crate) fn command(
        &self,
        cell: Cell,
        (key, space): (&CacheKey, &Arc<KeySpace>),
        item: &Item,
        (first, last): (usize, usize),
    ) -> Command {
        let one = |record| {
            let action = self.action(cell, item, record);
            Command { key: key.clone(), space: space.clone(), action }
        };
        (first..last).fold(one(first), |merged, record| merged.merge(one(record + 1)))
    }

    fn action(&self, cell: Cell, item: &Item, record: usize) -> Action {
        let version = match (cell.is_versioned(), cell.is_refresh()) {
            (true, _) => item.record_version(record),
            (false, true) => item.record_position(record),
            (false, false) => Version::NONE,
        };
        if !cell.is_refresh() {
            return Action::Invalidate { version };
        }
        // A drop without a version leaves no floor, which only strong loads can do without.
        if self.unreadable >> (record % 63) & 1 == 1 {
            return Action::Invalidate { version };
        }
        let image = match item.is_present(record) {
            true => Image::Json(Content::Commits(vec![record]).json().unwrap_or_default()),
            false => Image::Deleted,
        };
        Action::Refresh { version, image, populate: self.populate }
    }
}
