//! One invocation: what belongs to it in the log, the event's answer, and the metrics, written before the answer leaves.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use lambda_runtime::{Diagnostic, LambdaEvent};
use metrics::counter;
use ringtide_core::clock::unix_ms;
use ringtide_core::metrics as names;

use crate::emf::Metrics;
use crate::event::{Answer, Event};
use crate::handler::Handler;
use crate::logs::{Invocation, panic_text};

/// The function: a handler, and where it tells what it does; cheap to clone.
#[derive(Clone)]
pub struct Function {
    handler: Handler,
    metrics: Metrics,
    invocation: Invocation,
}

impl Function {
    /// Puts a function together.
    #[must_use]
    pub fn new(handler: Handler, metrics: Metrics, invocation: Invocation) -> Self {
        Self { handler, metrics, invocation }
    }

    /// Answers one event.
    ///
    /// # Errors
    /// What Lambda shows as the function's error: an event that all of has to be sent again, or a panic, after which the
    /// sandbox goes on.
    pub async fn invoke(&self, event: LambdaEvent<Event>) -> Result<Answer, Diagnostic> {
        let LambdaEvent { payload, context } = event;
        let _begun = self.invocation.begin(&context.request_id, context.xray_trace_id.as_deref());
        let handled = AssertUnwindSafe(self.handler.handle(&payload, context.deadline())).catch_unwind().await;
        let answer = match handled {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(refused)) => {
                tracing::error!(error = %refused, "the event is refused, Lambda sends it again");
                Err(Diagnostic { error_type: refused.kind().to_owned(), error_message: refused.to_string() })
            }
            Err(panic) => {
                counter!(names::LAMBDA_PANICS).increment(1);
                let error_message = format!("the function panicked: {}", panic_text(&*panic));
                Err(Diagnostic { error_type: "Ringtide.Panic".to_owned(), error_message })
            }
        };
        self.flush(Some(&context.request_id));
        answer
    }

    /// Resolves when nothing can be delivered any more, which only a new sandbox mends.
    pub async fn broken(&self) {
        self.handler.broken().await;
    }

    /// Gives up what is not delivered and writes the last metrics: all that a sandbox does at its end.
    pub async fn shutdown(&self) {
        self.handler.shutdown().await;
        self.flush(None);
    }

    fn flush(&self, request_id: Option<&str>) {
        if let Err(error) = self.metrics.flush(&mut std::io::stdout().lock(), unix_ms(), request_id) {
            tracing::warn!(%error, "metrics cannot be written");
        }
    }
}
