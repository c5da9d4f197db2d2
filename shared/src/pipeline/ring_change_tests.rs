//! What depends on how the clocks run.

use super::*;
use crate::pipeline::Limits;
use crate::ring::{RingHistory, ShardSpec};
use crate::route::Router;

const WINDOW_MS: u64 = 300;

fn membership(epoch: u64, name: &str) -> Membership {
    let shards = vec![ShardSpec { name: name.into(), address: format!("{name}:1"), weight: 1 }];
    Membership { epoch, changed_at_ms: 0, placement: Default::default(), shards }
}

/// Paused time runs ahead of the wall clock, as if that had stepped back.
#[tokio::test(start_paused = true)]
async fn who_has_left_is_let_go_of_also_where_the_wall_clock_has_stepped_back() {
    let memberships = [membership(1, "a"), membership(2, "b")];
    let history = RingHistory::restore(memberships, WINDOW_MS, unix_ms()).unwrap();
    let pipeline = Pipeline::start(Router::new(Vec::new()), history, [], Limits::default(), None);
    let former = || pipeline.inner.roster.load().former().len();
    tokio::time::sleep(Duration::from_millis(WINDOW_MS + 2)).await;
    assert_eq!(former(), 1, "its time is not over by the wall clock");
    std::thread::sleep(Duration::from_millis(WINDOW_MS));
    tokio::time::sleep(Duration::from_millis(WINDOW_MS + 2)).await;
    assert_eq!(former(), 0);
}
