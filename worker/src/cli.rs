//! The command line: one file a sub-command.

#[cfg(feature = "demo")]
mod demo;
mod logging;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use logging::LogFormat;

/// Keeps a ring of Valkey servers true to DynamoDB tables.
#[derive(Debug, Parser)]
#[command(name = "ringtide", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Consumes the tables' streams and keeps the ring true, until it is told to stop.
    Run(run::Run),
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    DemoHerd(demo::DemoHerd),
}

/// Options that every sub-command with a configuration has.
#[derive(Debug, Args)]
pub struct Common {
    /// The configuration file.
    #[arg(long, env = "RINGTIDE_CONFIG", default_value = "ringtide.toml")]
    config: PathBuf,
    /// The endpoint of DynamoDB and its streams, for LocalStack-compatible servers.
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL")]
    endpoint_url: Option<String>,
    /// How log lines are written.
    #[arg(long, env = "RINGTIDE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// What a process exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Ok,
    /// It failed while running.
    Failed,
    /// The configuration has to be changed.
    Configuration,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Ok => ExitCode::SUCCESS,
            Exit::Failed => ExitCode::from(1),
            Exit::Configuration => ExitCode::from(2),
        }
    }
}

impl Cli {
    /// Carries the sub-command out; what went wrong is logged.
    ///
    /// # Errors
    /// Only what keeps it from beginning at all: no runtime's signals, no log.
    pub async fn run(self) -> std::io::Result<Exit> {
        match self.command {
            Command::Run(run) => run.run().await,
            #[cfg(feature = "demo")]
            Command::Demo(demo) => demo.run().await,
            #[cfg(feature = "demo")]
            Command::DemoHerd(herd) => herd.run().await,
        }
    }
}
