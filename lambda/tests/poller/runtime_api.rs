//! The Runtime API of one sandbox: hands out invocations and takes the answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

/// One event with what Lambda tells about it.
pub(crate) struct Invocation {
    pub(crate) id: String,
    pub(crate) deadline_ms: u64,
    pub(crate) event: String,
}

/// What the function said.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Answer(String),
    /// An error, with its text for the log of a schedule.
    Error(#[expect(dead_code, reason = "shown by `Debug`")] String),
}

/// The server's end that the sandbox's driver holds.
pub(crate) struct RuntimeApi {
    pub(crate) address: String,
    /// How often the function has asked for an invocation.
    pub(crate) asked: watch::Receiver<u64>,
    /// What the function said, by request.
    pub(crate) replies: mpsc::UnboundedReceiver<(String, Reply)>,
    invocations: mpsc::UnboundedSender<Invocation>,
    server: JoinHandle<()>,
}

struct Shared {
    asked: watch::Sender<u64>,
    replies: mpsc::UnboundedSender<(String, Reply)>,
    invocations: Mutex<mpsc::UnboundedReceiver<Invocation>>,
}

const FUNCTION: &str = "arn:aws:lambda:us-east-1:000000000000:function:ringtide";

impl RuntimeApi {
    pub(crate) async fn serve() -> Self {
        let (asked, asks) = watch::channel(0);
        let (reply, replies) = mpsc::unbounded_channel();
        let (invocations, invoked) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { asked, replies: reply, invocations: Mutex::new(invoked) });
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .route("/2018-06-01/runtime/init/error", post(init_error))
            .route("/2020-01-01/extension/register", post(register))
            .route("/2020-01-01/extension/event/next", get(std::future::pending::<StatusCode>))
            .with_state(shared);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, asked: asks, replies, invocations, server }
    }

    /// Answers the function's next request for an invocation.
    pub(crate) fn hand_out(&self, invocation: Invocation) {
        self.invocations.send(invocation).unwrap_or_else(|_| panic!("the server is gone"));
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn next(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    shared.asked.send_modify(|asked| *asked += 1);
    let Some(invocation) = shared.invocations.lock().await.recv().await else {
        return (StatusCode::GONE, HeaderMap::new(), String::new());
    };
    let mut headers = HeaderMap::new();
    let mut header = |name, value: &str| headers.insert(name, HeaderValue::from_str(value).unwrap());
    header("lambda-runtime-aws-request-id", &invocation.id);
    header("lambda-runtime-deadline-ms", &invocation.deadline_ms.to_string());
    header("lambda-runtime-invoked-function-arn", FUNCTION);
    header("lambda-runtime-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=557abcec3ee5a047;Sampled=1");
    header("content-type", "application/json");
    (StatusCode::OK, headers, invocation.event)
}

async fn response(State(shared): State<Arc<Shared>>, Path(id): Path<String>, body: String) -> StatusCode {
    said(&shared, id, Reply::Answer(body))
}

async fn error(State(shared): State<Arc<Shared>>, Path(id): Path<String>, body: String) -> StatusCode {
    said(&shared, id, Reply::Error(body))
}

async fn init_error(State(shared): State<Arc<Shared>>, body: String) -> StatusCode {
    said(&shared, "init".to_owned(), Reply::Error(body))
}

fn said(shared: &Shared, id: String, reply: Reply) -> StatusCode {
    // Nobody listens to a sandbox that outlived its invocation.
    let _unheard = shared.replies.send((id, reply));
    StatusCode::ACCEPTED
}

async fn register() -> impl IntoResponse {
    let identity = [("lambda-extension-identifier", "extension-1"), ("content-type", "application/json")];
    (identity, r#"{"functionName":"ringtide","functionVersion":"$LATEST","handler":"bootstrap"}"#)
}
