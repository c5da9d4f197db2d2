//! `ringtide filters`: what a function's event source mapping may leave out.

use std::collections::BTreeSet;
use std::io::Write;

use clap::Args;
use ringtide_core::route::{Router, event_filter};

use super::{Common, Exit, logging};

/// Prints the `FilterCriteria` of an event source mapping that the routes allow, as JSON.
#[derive(Debug, Args)]
pub(super) struct Filters {
    #[command(flatten)]
    common: Common,
    /// The table whose stream the mapping reads. Without it the filter suits every table that the routes name.
    #[arg(long)]
    table: Option<String>,
}

impl Filters {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        logging::begin(self.common.log_format);
        let config = match self.common.load().await {
            Ok(config) => config,
            Err(error) => {
                tracing::error!("{error}");
                return Ok(Exit::Configuration);
            }
        };
        let router = Router::new(config.routes);
        let known: BTreeSet<&str> = router.tables().collect();
        let tables: Vec<&str> = match &self.table {
            Some(table) if !known.contains(table.as_str()) => {
                tracing::error!(table, known = ?known, "no route names the table");
                return Ok(Exit::Configuration);
            }
            Some(table) => vec![table],
            None => known.into_iter().collect(),
        };
        writeln!(std::io::stdout(), "{}", event_filter(&router, &tables))?;
        Ok(Exit::Ok)
    }
}
