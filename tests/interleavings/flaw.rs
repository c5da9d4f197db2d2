//! Planted defects: each is one rule of the protocol left out, on the server's side or on the user's.

/// What is wrong with the cache under test, or with how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nothing: the product.
    None,
    /// `SET … NX` for the lock, plain `SET` and `DEL`.
    Textbook,
    FillWithoutToken,
    DropWithoutVoiding,
    LeaseFloorForgotten,
    RefreshWithoutComparing,
    RefreshWithoutDeadline,
    SettleOnce,
    NoTombstones,
    VersionsAcrossItems,
    /// An eventual load claims to satisfy the floor.
    ProofClaimed,
    /// A lease is asked for twice with one token, and the first request is carried out last.
    TokenSentTwice,

    /// A waiter takes the entry of whatever notice comes for its key.
    AnotherLeasesNotice,
    /// A waiter whose reads joined late takes any lease for the one that it waits for.
    HolderNotCompared,
    /// What a lease stores answers whoever has joined by then.
    HolderNotAsked,
    /// A fill that is refused hands its entry to the waiters all the same.
    FillTellsUnstored,

    /// An invalidation leaves "does not exist" where it is.
    AbsenceSurvives,
    /// "Does not exist" has no version and is stored whatever the floor.
    AbsenceSkipsFloor,

    /// A value that was marked stale is served as a fresh one.
    MarkedServed,
    /// A mark takes the place of the floor.
    MarkLosesFloor,
    /// Each mark lets the value be kept for the whole time again.
    MarkExtends,
    /// What is loaded behind a read of a value past its time is stored without a lease.
    BehindWithoutLease,
    /// What is loaded before a value's time is over is stored without a lease.
    EarlyWithoutLease,

    /// A value is taken into the local tier though it changed while it was on its way.
    NoPendingMarker,
    FirstKeyOfPushOnly,
    NullPushIgnored,
    /// The local tier keeps its values when its connection is lost.
    LossIgnored,

    /// A promoted replica is taken for the server that it was a copy of.
    PromotionUnnoticed,
    /// After a promotion entries are flushed, and the locks that came back with them are not.
    FlushSparesLocks,

    /// Invalidations go to the owners under the newest membership only.
    CurrentOwnerOnly,
    /// A shard comes back with what it held when it left.
    RejoinedUnflushed,
    /// Readers follow a new membership before the invalidator does.
    ReadersFirst,
    /// Earlier owners are forgotten when an entry's time to live is over, though a flight that began under them may still
    /// take a lease, and fill.
    WindowWithoutLeases,
}
