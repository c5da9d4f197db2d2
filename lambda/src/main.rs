//! The function's entry point: wiring only.

use lambda_runtime::{LambdaEvent, service_fn};
use ringtide_lambda::event::Event;
use ringtide_lambda::{Handler, settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("RINGTIDE_LOG").unwrap_or_else(|_| "info".into()))
        .init();
    let config = settings::load(std::env::vars().collect())?;
    let handler = Handler::connect(&config)
        .map_err(|violations| violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Event>| {
        let handler = handler.clone();
        async move {
            let deadline = event.context.deadline();
            handler.handle(&event.payload, deadline).await.map_err(lambda_runtime::Error::from)
        }
    }))
    .await
}
