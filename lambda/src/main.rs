//! The function's entry point: wiring only.

use std::process::ExitCode;

use lambda_runtime::{LambdaEvent, service_fn};
use metrics::counter;
use ringtide_core::config::environment;
use ringtide_core::metrics as names;
use ringtide_lambda::emf::Metrics;
use ringtide_lambda::event::Event;
use ringtide_lambda::function::Function;
use ringtide_lambda::startup::{self, StartError};
use ringtide_lambda::{Handler, ending, logs, settings};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let invocation = logs::install(logs::filter(env));
    let function = match start(invocation).await {
        Ok(function) => function,
        Err(error) => {
            tracing::error!(%error, "the function cannot start");
            if let Some(runtime_api) = env(startup::RUNTIME_API)
                && let Err(error) = startup::report(&runtime_api, &error).await
            {
                tracing::error!(%error, "Lambda cannot be told why");
            }
            return ExitCode::FAILURE;
        }
    };
    let (last, whole) = (function.clone(), function.clone());
    if let Err(error) = ending::on_signal(move || async move { last.shutdown().await }) {
        tracing::warn!(%error, "signals cannot be listened for");
    }
    if let Err(error) = ending::announce(&env(startup::RUNTIME_API).unwrap_or_default()).await {
        tracing::warn!(%error, "the end of the sandbox will not be announced, metrics of its last moments may be lost");
    }
    let invoke = move |event: LambdaEvent<Event>| {
        let function = function.clone();
        async move { function.invoke(event).await }
    };
    let ended = tokio::select! {
        ended = lambda_runtime::run(service_fn(invoke)) => ended,
        // Lambda sends what was under way again, to a new sandbox.
        () = whole.broken() => return ExitCode::FAILURE,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the Runtime API failed");
            ExitCode::FAILURE
        }
    }
}

async fn start(invocation: logs::Invocation) -> Result<Function, StartError> {
    let env = |name: &str| std::env::var(name).ok();
    startup::check_environment(env)?;
    let metrics = Metrics::new(&env("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default());
    metrics.install();
    names::describe();
    counter!(names::LAMBDA_COLD_STARTS).increment(1);
    let config = settings::load(environment().collect()).await?;
    let handler = Handler::connect(&config).map_err(StartError::Ring)?;
    Ok(Function::new(handler, metrics, invocation))
}
