//! What is wrong with the poller on purpose, so that the audit proves that it sees.

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: Lambda as it is.
    None,
    /// Every answer is success, as where the mapping does not ask for partial failures.
    AnswersIgnored,
    /// The checkpoint passes the record that the answer names.
    CheckpointPastTheFailed,
    /// What is given up is told to nobody.
    GivenUpForgotten,
    /// A time-out counts as success.
    TimeOutIsSuccess,
    /// A sandbox that dies counts as success.
    CrashIsSuccess,
}
