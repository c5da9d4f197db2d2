//! The command line: one file a sub-command.

mod audit;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod explain;
mod filters;
mod flush;
mod health;
mod invalidate;
mod leases;
mod locate;
mod logging;
mod metrics;
mod operator;
mod output;
mod park;
mod pause;
mod replay;
mod resume;
mod ring;
mod run;
mod status;
mod warm;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use ringtide_core::aws;
use ringtide_core::config::{Config, ConfigError, environment};

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
    /// Prints the filter of a function's event source mapping that the routes allow.
    Filters(filters::Filters),
    /// Asks a running worker whether it is well; exits with 0 where it is and with 1 where it is not.
    Health(health::Health),
    /// Checks the configuration against the live tables and ring shards; everything that is wrong at once.
    Check(check::Check),
    /// Lists, shows, requeues and drops parked records.
    Park(park::Park),
    /// Invalidates keys on every ring shard that may hold them.
    Invalidate(invalidate::Invalidate),
    /// Removes every entry of key spaces from all ring shards, at a bounded pace.
    Flush(flush::Flush),
    /// Tells where keys live, under each placement, and what is kept there.
    Locate(locate::Locate),
    /// Tells what records lead to: which routes and keys, which commands for which ring shards, and why not.
    Explain(explain::Explain),
    /// Shows tables, stream shards, leases and owners; exits with 1 where a stream shard has no reader that lives.
    Status(status::Status),
    /// Looks at stream leases and changes them.
    Leases(leases::Leases),
    /// Stops the deliveries of a table, or of all tables, until `ringtide resume`.
    Pause(pause::Pause),
    /// Lets the workers go on where they were when `ringtide pause` stopped them.
    Resume(resume::Resume),
    /// Delivers a table's records again, from a time or a sequence number on.
    Replay(replay::Replay),
    /// Holds cached entries against their tables by strongly consistent reads; exits with 1 where some are stale.
    Audit(audit::Audit),
    /// Fills what a table's refresh routes would store, from a scan of the table, beside the stream.
    Warm(warm::Warm),
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    DemoHerd(demo::DemoHerd),
}

/// Options that every sub-command with a configuration has.
#[derive(Debug, Args)]
pub struct Common {
    /// The configuration: a file, a parameter of Systems Manager (ssm:/name) or an object (s3://bucket/key).
    #[arg(long, env = "RINGTIDE_CONFIG", default_value = "ringtide.toml", value_name = "PLACE")]
    config: String,
    /// The endpoint of DynamoDB and its streams, for LocalStack-compatible servers.
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL")]
    endpoint_url: Option<String>,
    /// How log lines are written.
    #[arg(long, env = "RINGTIDE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

impl Common {
    /// Loads the configuration, with the environment's overrides and the endpoint of the command line.
    async fn load(&self) -> Result<Config, ConfigError> {
        // The endpoint is where a parameter or an object is read from as well.
        let endpoint = self.endpoint_url.iter().map(|url| ("RINGTIDE_AWS_ENDPOINT_URL".to_owned(), url.clone()));
        aws::load(&self.config, environment().chain(endpoint)).await
    }

    /// Begins to log warnings, and loads the configuration, for a command that ends by itself.
    ///
    /// # Errors
    /// The exit code; what is wrong is logged.
    async fn open(&self) -> Result<Config, Exit> {
        logging::begin_quietly(self.log_format);
        self.load().await.map_err(|error| {
            tracing::error!("{error}");
            Exit::Configuration
        })
    }
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
            Command::Filters(filters) => filters.run().await,
            Command::Health(health) => health.run().await,
            Command::Check(check) => check.run().await,
            Command::Park(park) => park.run().await,
            Command::Invalidate(invalidate) => invalidate.run().await,
            Command::Flush(flush) => flush.run().await,
            Command::Locate(locate) => locate.run().await,
            Command::Explain(explain) => explain.run().await,
            Command::Status(status) => status.run().await,
            Command::Leases(leases) => leases.run().await,
            Command::Pause(pause) => pause.run().await,
            Command::Resume(resume) => resume.run().await,
            Command::Replay(replay) => replay.run().await,
            Command::Audit(audit) => audit.run().await,
            Command::Warm(warm) => warm.run().await,
            #[cfg(feature = "demo")]
            Command::Demo(demo) => demo.run().await,
            #[cfg(feature = "demo")]
            Command::DemoHerd(herd) => herd.run().await,
        }
    }
}
