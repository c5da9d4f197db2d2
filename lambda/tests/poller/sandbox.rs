//! One execution environment: the built `bootstrap`, frozen between invocations, killed when its time is over.

use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::runtime_api::{Invocation, Reply, RuntimeApi};
use super::signals::Signals;

/// Longer than a start takes on the busiest machine; reaching it is a failure.
const COLD_START: Duration = Duration::from_secs(30);

/// What happens to a sandbox while it works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    Undisturbed,
    /// Killed this long after the event was handed out.
    Killed(Duration),
    /// Frozen this long after the event was handed out, for some time.
    Paused(Duration, Duration),
    /// Frozen this long after the event was handed out, past its time: a zombie, should it ever go on.
    Outlived(Duration),
}

/// How an invocation ended.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    Said(Reply),
    TimedOut,
    Died,
}

/// A sandbox; its process ends with it.
pub(crate) struct Sandbox {
    pub(crate) pid: u32,
    api: RuntimeApi,
    signals: Arc<Signals>,
    served: u64,
    exited: watch::Receiver<bool>,
    kill: Option<oneshot::Sender<()>>,
    frozen: bool,
    /// The lines of its log.
    pub(crate) output: Arc<Mutex<Vec<String>>>,
    _tasks: [JoinHandle<()>; 3],
}

impl Sandbox {
    /// Starts a sandbox with these environment variables and no others.
    pub(crate) async fn start(environment: &[(String, String)], signals: Arc<Signals>) -> Self {
        let api = RuntimeApi::serve().await;
        let program = std::env::var_os("RINGTIDE_POLLER_BOOTSTRAP");
        let mut command = Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_bootstrap").into()));
        command
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("AWS_LAMBDA_RUNTIME_API", &api.address)
            .env("AWS_LAMBDA_FUNCTION_NAME", "ringtide")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/ringtide")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "poller")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "none")
            .env("AWS_SECRET_ACCESS_KEY", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let pid = child.id().unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        let logs = [
            tokio::spawn(keep(child.stdout.take().unwrap(), output.clone())),
            tokio::spawn(keep(child.stderr.take().unwrap(), output.clone())),
        ];
        let (exit, exited) = watch::channel(false);
        let (kill, killed) = oneshot::channel();
        let watched = tokio::spawn(async move {
            tokio::select! {
                _ = child.wait() => {}
                _ = killed => {
                    let _ended_already = child.start_kill();
                    let _status = child.wait().await;
                }
            }
            exit.send_replace(true);
        });
        let [out, err] = logs;
        let (kill, _tasks) = (Some(kill), [watched, out, err]);
        Self { pid, api, signals, served: 0, exited, kill, frozen: false, output, _tasks }
    }

    /// Hands out one event, and waits for what comes of it; afterwards a sandbox that lives is frozen.
    pub(crate) async fn invoke(&mut self, event: &str, time: Duration, fate: Fate) -> Ended {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.thaw().await;
        if !self.is_ready(COLD_START).await {
            return Ended::Died;
        }
        let id = format!("request-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let (begun, now) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        let deadline = begun + time;
        self.served += 1;
        let deadline_ms = (now + time).as_millis() as u64;
        self.api.hand_out(Invocation { id: id.clone(), deadline_ms, event: event.to_owned() });
        let ended = match fate {
            Fate::Undisturbed => self.reply(&id, deadline).await,
            Fate::Killed(after) => match self.reply(&id, deadline.min(begun + after)).await {
                Ended::TimedOut => {
                    self.kill().await;
                    Ended::Died
                }
                ended => ended,
            },
            Fate::Paused(after, pause) => match self.reply(&id, deadline.min(begun + after)).await {
                Ended::TimedOut => {
                    self.freeze().await;
                    tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
                    self.thaw().await;
                    self.reply(&id, deadline).await
                }
                ended => ended,
            },
            Fate::Outlived(after) => match self.reply(&id, deadline.min(begun + after)).await {
                Ended::TimedOut => {
                    self.freeze().await;
                    tokio::time::sleep_until(deadline).await;
                    return Ended::TimedOut;
                }
                ended => ended,
            },
        };
        if let Ended::Said(_) = ended {
            // What the function does after its answer is over when it asks for more: then it is frozen.
            if self.is_ready(time).await {
                self.freeze().await;
            }
        }
        ended
    }

    /// Lets a sandbox that outlived its time go on until it asks for more or ends, and kills it then.
    pub(crate) async fn go_on_and_end(mut self) {
        self.thaw().await;
        self.is_ready(Duration::from_secs(5)).await;
        self.kill().await;
    }

    /// Whether the function asks for an invocation within this time.
    pub(crate) async fn is_ready(&mut self, within: Duration) -> bool {
        let (mut asked, mut exited, served) = (self.api.asked.clone(), self.exited.clone(), self.served);
        let ready = async {
            tokio::select! {
                ready = asked.wait_for(|asked| *asked > served) => ready.is_ok(),
                _ = exited.wait_for(|exited| *exited) => false,
            }
        };
        timeout(within, ready).await.unwrap_or(false)
    }

    pub(crate) fn lives(&self) -> bool {
        !*self.exited.borrow()
    }

    pub(crate) async fn freeze(&mut self) {
        if !self.frozen && self.lives() {
            self.signals.send("STOP", self.pid).await;
            self.frozen = true;
        }
    }

    pub(crate) async fn thaw(&mut self) {
        if self.frozen && self.lives() {
            self.signals.send("CONT", self.pid).await;
        }
        self.frozen = false;
    }

    /// Kills the process, and returns when it is gone.
    pub(crate) async fn kill(&mut self) {
        if let Some(kill) = self.kill.take() {
            let _ended_already = kill.send(());
        }
        let _gone = self.exited.wait_for(|exited| *exited).await;
    }

    /// Asks the process to end, as Lambda does before it takes a sandbox away.
    pub(crate) async fn terminate(&mut self) {
        self.thaw().await;
        self.signals.send("TERM", self.pid).await;
        let gone = self.exited.wait_for(|exited| *exited);
        assert!(timeout(Duration::from_secs(5), gone).await.is_ok(), "a sandbox does not end when it is asked to");
    }

    async fn reply(&mut self, id: &str, until: Instant) -> Ended {
        loop {
            tokio::select! {
                biased;
                Some((of, reply)) = self.api.replies.recv() => if of == id || of == "init" {
                    return Ended::Said(reply);
                },
                _ = self.exited.wait_for(|exited| *exited) => return Ended::Died,
                () = tokio::time::sleep_until(until) => return Ended::TimedOut,
            }
        }
    }
}

/// Keeps the lines of a log; one that nobody reads would stop the process.
async fn keep(log: impl AsyncRead + Unpin, lines: Arc<Mutex<Vec<String>>>) {
    let mut log = BufReader::new(log).lines();
    while let Ok(Some(line)) = log.next_line().await {
        lines.lock().unwrap().push(line);
    }
}
