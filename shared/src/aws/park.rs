//! Places for parked records that are services of AWS.

mod bucket;
mod queue;
#[cfg(feature = "dynamodb")]
mod table;

use std::sync::Arc;

use super::{Failure, Sdk, is_throttle};
use crate::config::ParkTarget;
use crate::park::{DirectoryPark, ParkError, ParkReader, ParkStore};

/// What a configuration names; `None` where this build lacks it. A macro, since one object for writing and reading would
/// bring the reading into the function, which never reads what it parked.
macro_rules! place {
    ($sdk:expr, $target:expr) => {
        Some(match $target {
            ParkTarget::Sqs { queue_url } => Arc::new(queue::Queue::new($sdk.clone(), queue_url)),
            ParkTarget::S3 { bucket, prefix } => Arc::new(bucket::Bucket::new($sdk.clone(), bucket, prefix)),
            #[cfg(feature = "dynamodb")]
            ParkTarget::Table(name) => Arc::new(table::Table::new($sdk.clone(), name)),
            #[cfg(not(feature = "dynamodb"))]
            ParkTarget::Table(_) => return None,
            ParkTarget::Directory(path) => Arc::new(DirectoryPark::new(path.clone())),
        })
    };
}

/// Prepares the store that a configuration names; `None` where this build lacks it.
pub(super) fn store(sdk: &Sdk, target: &ParkTarget) -> Option<Arc<dyn ParkStore>> {
    place!(sdk, target)
}

/// As [`store`], for reading what is kept there.
pub(super) fn reader(sdk: &Sdk, target: &ParkTarget) -> Option<Arc<dyn ParkReader>> {
    place!(sdk, target)
}

fn failed(store: Arc<str>, failure: Failure) -> ParkError {
    let reason = failure.to_string();
    match failure {
        Failure::Service { code, .. } if !is_throttle(&code) && !code.contains("Internal") => {
            ParkError::Refused { store, reason }
        }
        Failure::Service { .. } | Failure::Unreachable(_) | Failure::Other(_) => {
            ParkError::Unavailable { store, reason }
        }
    }
}
