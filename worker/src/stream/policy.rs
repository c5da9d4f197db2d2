//! The one place that decides what follows from a failed call.

use super::StreamError;

/// What the consumer of a stream shard does after a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Waits and does the same again, for as long as it takes; the worker turns unhealthy meanwhile.
    Retry,
    /// Opens a new iterator after the last record that was read.
    Reopen,
    /// Records are lost: the table's key spaces are flushed, then it goes on as told.
    Gap(AfterGap),
}

/// How a stream shard goes on after a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterGap {
    /// With the oldest record that is kept.
    Horizon,
    /// The stream shard is gone: with its children.
    End,
}

/// Decides after a failure to open an iterator or to read.
#[must_use]
pub const fn reading(error: &StreamError) -> Decision {
    match error {
        StreamError::Throttled(_)
        | StreamError::Denied(_)
        | StreamError::Unreachable(_)
        | StreamError::Invalid(_)
        | StreamError::Other(_) => Decision::Retry,
        StreamError::IteratorExpired => Decision::Reopen,
        StreamError::Trimmed(_) => Decision::Gap(AfterGap::Horizon),
        StreamError::NotFound(_) => Decision::Gap(AfterGap::End),
    }
}

/// What the start of the worker does after a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartDecision {
    /// Waits and tries again until the start's time-out.
    Retry,
    /// Refuses to start: somebody has to change something.
    Refuse,
}

/// Decides after a failure to describe a table or to prepare the lease table at start.
#[must_use]
pub const fn starting(error: &StreamError) -> StartDecision {
    match error {
        StreamError::Throttled(_)
        | StreamError::Unreachable(_)
        | StreamError::Invalid(_)
        | StreamError::Other(_)
        | StreamError::IteratorExpired
        | StreamError::Trimmed(_) => StartDecision::Retry,
        StreamError::NotFound(_) | StreamError::Denied(_) => StartDecision::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_records_are_gaps_and_nothing_else_is() {
        let text = String::new;
        for (error, expected) in [
            (StreamError::Throttled(text()), Decision::Retry),
            (StreamError::Denied(text()), Decision::Retry),
            (StreamError::Unreachable(text()), Decision::Retry),
            (StreamError::Invalid(text()), Decision::Retry),
            (StreamError::Other(text()), Decision::Retry),
            (StreamError::IteratorExpired, Decision::Reopen),
            (StreamError::Trimmed(text()), Decision::Gap(AfterGap::Horizon)),
            (StreamError::NotFound(text()), Decision::Gap(AfterGap::End)),
        ] {
            assert_eq!(reading(&error), expected, "{error}");
        }
    }

    #[test]
    fn a_start_waits_for_the_network_and_not_for_a_table() {
        assert_eq!(starting(&StreamError::Unreachable(String::new())), StartDecision::Retry);
        assert_eq!(starting(&StreamError::NotFound(String::new())), StartDecision::Refuse);
        assert_eq!(starting(&StreamError::Denied(String::new())), StartDecision::Refuse);
    }
}
