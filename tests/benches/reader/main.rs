//! The reader beside raw clients: hits, batches, the tier in memory, misses and herds. Ratios in one run, contestants
//! taking turns.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark"
)]

mod contest;
mod herd;
mod hits;
mod local;
mod many;
mod miss;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(part) = herd::Part::of_this_process() {
        return runtime.block_on(part.play());
    }
    // `cargo test --benches` runs benchmarks too; only `cargo bench` says so.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let wanted = std::env::var("ONLY").unwrap_or_default();
    let asked = |name: &str| wanted.is_empty() || wanted.split(',').any(|one| one == name);
    runtime.block_on(async {
        if asked("hits") {
            hits::run().await;
        }
        if asked("many") {
            many::run().await;
        }
        if asked("local") {
            local::run().await;
        }
        if asked("miss") {
            miss::run().await;
        }
        if asked("herd") {
            herd::run().await;
        }
    });
}
