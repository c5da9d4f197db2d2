//! The binary `ringtide`: wiring only.

use std::process::ExitCode;

use clap::Parser;
use ringtide_worker::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    Ok(Cli::parse().run().await?.into())
}
