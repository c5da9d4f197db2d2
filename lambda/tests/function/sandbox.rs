//! A sandbox: a program, and the Runtime API that it is given its events by.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path as Name, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Longer than anything here takes; reaching it is a failure.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The trace header of every invocation.
pub(crate) const TRACE: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

/// A program that runs as Lambda runs it; it is killed with this handle.
pub(crate) struct Sandbox {
    pub(crate) child: Child,
    /// From its start to its first request for an event.
    pub(crate) started: Instant,
    lines: Arc<Mutex<Vec<String>>>,
    shared: Arc<Shared>,
    events: mpsc::UnboundedSender<Invocation>,
    answers: mpsc::UnboundedReceiver<Answered>,
    server: JoinHandle<()>,
    invoked: u64,
}

/// What the program said to one event.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) ok: bool,
    pub(crate) body: String,
    /// From handing out the event to taking the answer.
    pub(crate) took: Duration,
}

struct Invocation {
    id: String,
    deadline_ms: u64,
    event: String,
}

struct Shared {
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Invocation>>,
    answers: mpsc::UnboundedSender<Answered>,
    handed_out: Mutex<Option<Instant>>,
    first_asked: watch::Sender<Option<Instant>>,
    init_error: watch::Sender<Option<String>>,
    extensions: bool,
}

/// What of the environment a test chooses.
pub(crate) struct Start<'a> {
    pub(crate) program: &'a Path,
    pub(crate) env: &'a [(&'a str, &'a str)],
    /// Whether the API has extensions, as Lambda's own has and as emulators may not have.
    pub(crate) extensions: bool,
}

impl Sandbox {
    /// Starts a program with nothing of this process's environment but its path.
    pub(crate) async fn start(start: Start<'_>) -> Self {
        let (events, given) = mpsc::unbounded_channel();
        let (answer, answers) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            events: tokio::sync::Mutex::new(given),
            answers: answer,
            handed_out: Mutex::new(None),
            first_asked: watch::Sender::new(None),
            init_error: watch::Sender::new(None),
            extensions: start.extensions,
        });
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .route("/2018-06-01/runtime/init/error", post(init_error))
            .route("/2020-01-01/extension/register", post(register))
            .route("/2020-01-01/extension/event/next", get(std::future::pending::<StatusCode>))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(shared.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let mut command = Command::new(start.program);
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .env("AWS_LAMBDA_FUNCTION_NAME", "ringtide")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_REGION", "us-east-1")
            .envs(start.env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stdout, kept) = (child.stdout.take().unwrap(), lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Self { child, started, lines, shared, events, answers, server, invoked: 0 }
    }

    /// Waits for the first request for an event; returns when it came, from the program's start on.
    pub(crate) async fn ready(&self) -> Duration {
        let mut asked = self.shared.first_asked.subscribe();
        let first = tokio::time::timeout(LONG, asked.wait_for(Option::is_some)).await.unwrap().unwrap();
        first.unwrap().duration_since(self.started)
    }

    /// What the program told of its start.
    pub(crate) async fn init_error(&self) -> String {
        let mut told = self.shared.init_error.subscribe();
        let told = tokio::time::timeout(LONG, told.wait_for(Option::is_some)).await.unwrap().unwrap();
        told.clone().unwrap()
    }

    /// Hands out an event, and waits for the answer.
    pub(crate) async fn invoke(&mut self, event: &str, left: Duration) -> Answered {
        self.hand_out(event, left);
        self.answer().await
    }

    /// Hands out an event.
    pub(crate) fn hand_out(&mut self, event: &str, left: Duration) {
        self.invoked += 1;
        let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + left;
        let id = format!("request-{}", self.invoked);
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap();
        self.events
            .send(Invocation { id, deadline_ms, event: event.to_owned() })
            .unwrap_or_else(|_| panic!("no server"));
    }

    /// Waits for the next answer.
    pub(crate) async fn answer(&mut self) -> Answered {
        tokio::time::timeout(LONG, self.answers.recv()).await.expect("no answer").unwrap()
    }

    /// What the program has written to its standard output so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until the program has written a line in which `found` finds what it looks for.
    pub(crate) async fn line<T>(&self, found: impl Fn(&serde_json::Value) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let line = self.lines().iter().find_map(|line| found(&serde_json::from_str(line).ok()?));
            match line {
                Some(found) => return found,
                None => assert!(begun.elapsed() < LONG, "no such line among {:#?}", self.lines()),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the program's end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < LONG, "the program goes on");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The program's resident memory in KiB; asked for by the benchmark alone.
    #[allow(dead_code)]
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _collected = self.child.wait();
        self.server.abort();
    }
}

async fn next(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    shared.first_asked.send_if_modified(|first| first.is_none() && first.replace(Instant::now()).is_none());
    let Some(invocation) = shared.events.lock().await.recv().await else {
        return (HeaderMap::new(), String::new());
    };
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: &str| headers.insert(name, HeaderValue::from_str(value).unwrap());
    put("lambda-runtime-aws-request-id", &invocation.id);
    put("lambda-runtime-deadline-ms", &invocation.deadline_ms.to_string());
    put("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:000000000000:function:ringtide");
    put("lambda-runtime-trace-id", TRACE);
    *shared.handed_out.lock().unwrap() = Some(Instant::now());
    (headers, invocation.event)
}

fn answered(shared: &Shared, ok: bool, body: String) -> StatusCode {
    let took = shared.handed_out.lock().unwrap().take().map(|since| since.elapsed()).unwrap_or_default();
    shared.answers.send(Answered { ok, body, took }).map_or(StatusCode::GONE, |()| StatusCode::ACCEPTED)
}

async fn response(State(shared): State<Arc<Shared>>, Name(_): Name<String>, body: String) -> StatusCode {
    answered(&shared, true, body)
}

async fn error(State(shared): State<Arc<Shared>>, Name(_): Name<String>, body: String) -> StatusCode {
    answered(&shared, false, body)
}

async fn init_error(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: String) -> StatusCode {
    assert!(headers.contains_key("lambda-runtime-function-error-type"));
    shared.init_error.send_replace(Some(body));
    StatusCode::ACCEPTED
}

async fn register(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let mut headers = HeaderMap::new();
    if !shared.extensions {
        return (StatusCode::NOT_FOUND, headers, "");
    }
    headers.insert("lambda-extension-identifier", HeaderValue::from_static("00000000-0000-0000-0000-000000000000"));
    (StatusCode::OK, headers, r#"{"functionName":"ringtide","functionVersion":"$LATEST","handler":"bootstrap"}"#)
}
