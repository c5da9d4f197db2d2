//! Planted defects.

/// A defect that is built into the seams, so that the worker behaves as if it had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// A child is opened at LATEST.
    LatestForChild,
    /// A page counts as delivered when it was handed over.
    CheckpointBeforeDelivery,
    /// Trimmed records are skipped without a word.
    SkipOnTrim,
    /// The records of a closed stream shard's last page are dropped.
    LastPageDropped,
    /// A child is read beside its parent.
    ParentOrderIgnored,
    /// A checkpoint is written without a condition.
    ZombieCheckpoint,
    /// A gap counts as flushed when the flush was ordered.
    FlushNotAwaited,
    /// An expired iterator is opened again at LATEST.
    ExpiredAtLatest,
    /// A child's beginning is not compared with what is kept.
    BeginningUnchecked,
    /// A parent that came and went unread is not missed.
    OrphanUnnoticed,
    /// A new stream of the table is followed without a flush.
    NewStreamWithoutFlush,
    /// A lease that was lost goes on being taken for held.
    LossUnnoticed,
    /// A listing that fails is taken for one that shows nothing.
    SilenceIsAbsence,
}

impl Flaw {
    pub(super) const PLANTED: [Self; 13] = [
        Self::LatestForChild,
        Self::CheckpointBeforeDelivery,
        Self::SkipOnTrim,
        Self::LastPageDropped,
        Self::ParentOrderIgnored,
        Self::ZombieCheckpoint,
        Self::FlushNotAwaited,
        Self::ExpiredAtLatest,
        Self::BeginningUnchecked,
        Self::OrphanUnnoticed,
        Self::NewStreamWithoutFlush,
        Self::LossUnnoticed,
        Self::SilenceIsAbsence,
    ];
}
