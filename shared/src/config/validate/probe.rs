//! The probe's settings.

use std::time::Duration;

use super::{Checker, is_table_name};
use crate::config::Probe;
use crate::config::raw::RawProbe;
use crate::route::Route;

/// A probe costs a write for every ring shard.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

impl Checker {
    pub(super) fn probe(&mut self, raw: RawProbe, routes: &[Route]) -> Option<Probe> {
        self.unknown("probe", &raw.unknown);
        let default = Probe::default();
        let interval = self.duration("probe.interval", raw.interval, default.interval);
        let timeout = self.duration("probe.timeout", raw.timeout, default.timeout);
        let table = raw.table.filter(|table| !table.is_empty())?;
        if !is_table_name(&table) {
            let problem = format!("{table:?} cannot be the name of a DynamoDB table");
            self.refuse("probe.table", problem, "use 3 to 255 letters, digits, \"_\", \".\" and \"-\"");
        }
        if let Some(route) = routes.iter().find(|route| route.table == table) {
            self.refuse(
                "probe.table",
                format!("{} reads the table {table:?} too", route.place),
                "give probes a table of their own, for example \"ringtide-probe\"",
            );
        }
        if interval < SHORTEST_INTERVAL {
            self.refuse("probe.interval", "it is too short", "use 100ms or more, for example \"10s\"");
        }
        Some(Probe { table, interval, timeout })
    }
}
