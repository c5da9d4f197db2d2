//! `ringtide run`: the worker as a process.

use std::sync::Arc;

use clap::Args;
use ringtide_core::config::Config;
use tokio_util::sync::CancellationToken;

use super::{Common, Exit, logging, metrics};
use crate::deliver::Deliver;
use crate::lease::OwnerId;
use crate::metrics::Metrics;
use crate::shutdown::Signals;
use crate::supervisor::StartError;
use crate::worker::Worker;

/// Consumes the tables' streams and keeps the ring true, until it is told to stop.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    common: Common,
    /// A name that no other running worker has: one that restarts under it goes on at once after a crash. Without it,
    /// a crashed worker's leases have to expire first.
    #[arg(long, env = "RINGTIDE_OWNER", value_name = "NAME")]
    owner: Option<String>,
}

impl Run {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        logging::begin(self.common.log_format);
        let signals = Signals::listen()?;
        let loaded = tokio::select! {
            loaded = self.common.load() => loaded,
            () = signals.asked() => return Ok(Exit::Ok),
        };
        let config = match loaded {
            Ok(config) => config,
            Err(error) => {
                tracing::error!("{error}");
                return Ok(Exit::Configuration);
            }
        };
        Ok(self.work(config, &signals).await)
    }

    async fn work(&self, config: Config, signals: &Signals) -> Exit {
        let metrics = metrics::begin();
        let exporter = match metrics::exporter(&config.worker, metrics.as_ref()) {
            Ok(exporter) => exporter,
            Err(violations) => {
                violations.iter().for_each(|violation| tracing::error!("{violation}"));
                return Exit::Configuration;
            }
        };
        let ended = CancellationToken::new();
        let exporting = exporter.map(|exporter| tokio::spawn(exporter.run(ended.clone())));
        let exit = self.consume(&config, metrics, signals).await;
        ended.cancel();
        if let Some(Err(error)) = futures_util::future::OptionFuture::from(exporting).await {
            tracing::error!(%error, "the sending of metrics broke off");
        }
        exit
    }

    /// Runs the worker to its end.
    async fn consume(&self, config: &Config, metrics: Option<Metrics>, signals: &Signals) -> Exit {
        let starting = async {
            let mut worker = Worker::connect(config).await?;
            worker.metrics = metrics;
            if let Some(owner) = &self.owner {
                worker.owner = OwnerId::named(owner);
            }
            let deliver = Arc::clone(&worker.deliver);
            Ok::<_, StartError>((worker.start(config).await?, deliver))
        };
        let started = tokio::select! {
            started = starting => started,
            () = signals.asked() => return Exit::Ok,
        };
        let (worker, deliver) = match started {
            Ok(started) => started,
            Err(error) => {
                tracing::error!("{error}");
                return if error.is_configuration() { Exit::Configuration } else { Exit::Failed };
            }
        };
        let joined = {
            let stop = worker.stopper();
            let mut joined = std::pin::pin!(worker.join());
            loop {
                tokio::select! {
                    joined = &mut joined => break joined,
                    () = signals.asked(), if !stop.is_cancelled() => stop.cancel(),
                    () = signals.hung_up() => look_again(&*deliver),
                }
            }
        };
        match joined {
            Ok(_) => Exit::Ok,
            Err(error) => {
                tracing::error!("{error}");
                Exit::Failed
            }
        }
    }
}

/// What SIGHUP asks for: the ring is what a running worker takes from its configuration.
fn look_again(deliver: &dyn Deliver) {
    if deliver.look_at_ring() {
        tracing::info!(
            signal = "SIGHUP",
            "looking at the ring's membership in the configuration; all other settings count from the next start on"
        );
    } else {
        tracing::warn!(
            signal = "SIGHUP",
            "the configuration does not come from a file that is followed: it counts from the next start on"
        );
    }
}
