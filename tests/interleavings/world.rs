//! What happens around a schedule besides what happens in all of them.

use super::cell::Cell;

/// The surroundings of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum World {
    /// One server, and nothing else.
    Steady,
    /// Reader processes keep values in their own memory, coherent by the server's pushes.
    Tracked,
    /// Replicas are promoted that lack the last commands.
    FailOver,
    /// Two servers, and memberships that change.
    Ring,
}

impl World {
    /// Drawn from for each schedule; what is listed more often is drawn more often.
    pub(crate) const ALL: &[World] = &[World::Steady, World::Steady, World::Tracked, World::FailOver, World::Ring];

    pub(crate) fn name(self) -> &'static str {
        match self {
            World::Steady => "",
            World::Tracked => " + tracked",
            World::FailOver => " + fail-over",
            World::Ring => " + ring",
        }
    }

    /// Whether the protocol says something about this cell in these surroundings.
    pub(crate) fn has(self, cell: Cell) -> bool {
        match self {
            World::Steady => true,
            World::Tracked | World::FailOver => cell.is_exact(),
            // A key's new owner knows no floors, which loads that lag would need.
            World::Ring => cell.is_exact() && cell.loses_keys(),
        }
    }
}
