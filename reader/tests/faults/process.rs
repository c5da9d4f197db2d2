//! Readers that are processes of their own: this program, started again for one ignored test.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::readers::{Tally, read_on};
use super::truth::load_from;
use super::world::{Style, World, builder, items};
use super::{stalls, truth};

const SHARDS: &str = "RINGTIDE_FAULT_SHARDS";
const ORIGIN: &str = "RINGTIDE_FAULT_ORIGIN";
const STYLE: &str = "RINGTIDE_FAULT_STYLE";
const ONE: &str = "RINGTIDE_FAULT_ONE";

/// What a line of a reader process begins with.
const MARK: &str = "reader: ";

/// A reader process; it is killed with this handle.
pub(crate) struct Reader {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Reader {
    /// Starts one that reads all keys until it is told to stop.
    pub(crate) fn start(world: &World) -> Self {
        Self::launch(world, false)
    }

    /// Starts one that reads [`truth::HELD`] once.
    pub(crate) fn start_one(world: &World) -> Self {
        Self::launch(world, true)
    }

    fn launch(world: &World, one: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "process::a_reader", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(SHARDS, world.addresses().join(",")).env(ORIGIN, &world.origin);
        command.env(STYLE, world.style.name()).env(ONE, if one { "1" } else { "" });
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut reader = Self { child, lines };
        assert_eq!(reader.line(), "ready");
        reader
    }

    fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).unwrap();
            assert!(read > 0, "the reader process ended");
            // The test harness begins the first line.
            if let Some((_, rest)) = line.trim_end().split_once(MARK) {
                return rest.to_owned();
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Tells it to stop; what it has to say.
    pub(crate) fn end(mut self) -> String {
        self.child.stdin.take().unwrap().write_all(b"stop\n").unwrap();
        self.line()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _collected = self.child.wait();
    }
}

/// Not a test: what [`Reader`] starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by other tests as a process of its own"]
async fn a_reader() {
    let Ok(shards) = std::env::var(SHARDS) else { return };
    let origin = std::env::var(ORIGIN).unwrap();
    let shards: Vec<_> = shards.split(',').map(str::to_owned).collect();
    stalls::watch();
    let style = Style::named(&std::env::var(STYLE).unwrap());
    let space = items(&builder(&shards, style).build().await.unwrap());
    println!("{MARK}ready");
    let load = move |key| load_from(origin.clone(), key);
    if std::env::var(ONE).is_ok_and(|one| !one.is_empty()) {
        let result = space.get_or_load(truth::HELD, move || load(truth::HELD)).await;
        println!("{MARK}{result:?}");
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await.unwrap().unwrap();
        return;
    }
    let tally = Arc::new(Tally::default());
    let readers: Vec<_> =
        (0..6).map(|_| tokio::spawn(read_on(space.clone(), 1, tally.clone(), load.clone(), |_| 0))).collect();
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await.unwrap().unwrap();
    tally.stop.store(true, Ordering::Relaxed);
    for reader in readers {
        if let Err(complaint) = reader.await.unwrap() {
            println!("{MARK}{complaint}");
            return;
        }
    }
    println!("{MARK}fine, {} answered", tally.answered.load(Ordering::Relaxed));
}
