//! Readers: each step is one call of the protocol, in the order in which the read side makes them.

use bytes::Bytes;
use ringtide_core::valkey::{Fill, FillReply, LeaseReply, LeaseRequest, Release, Token};
use ringtide_core::version::Version;

use super::cache::Flaw;
use super::cell::LONG;
use super::content::Content;
use super::outcome::{Step, Violation};
use super::schedule::{LAG, Schedule};

/// Where a reader stands.
#[derive(Clone, Debug)]
pub(crate) enum Reader {
    Idle,
    Missed { key: usize, early: bool },
    Granted(Held),
    Loaded(Held, Load),
}

/// A lease as its holder knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    key: usize,
    token: Token,
    proven: Version,
    /// Whether this is the second load, which has to be strong.
    again: bool,
}

/// What was loaded.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    entry: Bytes,
    version: Version,
}

/// A call whose sender has given up waiting, and that the server carries out later.
#[derive(Clone, Debug)]
pub(crate) enum LateCall {
    Fill(usize, Fill),
    Lease(usize, Token),
}

/// The inbox that waiters register.
const INBOX: &str = "fuzz:inbox";

impl Schedule<'_> {
    pub(crate) async fn step_reader(&mut self, reader: usize) {
        let next = match self.readers[reader].clone() {
            Reader::Idle => self.look_up(reader).await,
            Reader::Missed { key, early } => self.lease(reader, key, early).await,
            Reader::Granted(held) => self.load(reader, held).await,
            Reader::Loaded(held, load) => self.fill(reader, held, &load).await,
        };
        self.readers[reader] = next;
    }

    async fn look_up(&mut self, reader: usize) -> Reader {
        let key = self.rng.usize(..self.keys.len());
        let entry = self.cache.get(&self.keys[key].key).await;
        match entry.as_ref().and_then(Content::served) {
            Some(content) => {
                self.hit(reader, key, content);
                if self.rng.u8(..6) == 0 { Reader::Missed { key, early: true } } else { Reader::Idle }
            }
            None => {
                self.note(Step::Miss { reader, key });
                Reader::Missed { key, early: false }
            }
        }
    }

    async fn lease(&mut self, reader: usize, key: usize, early: bool) -> Reader {
        let token = Token::random();
        if self.rng.u8(..25) == 0 {
            self.late.push(LateCall::Lease(key, token));
            return Reader::Idle;
        }
        match self.ask_for_lease(key, token, early).await {
            LeaseReply::Hit(entry) => {
                if let Some(content) = Content::served(&entry) {
                    self.hit(reader, key, content);
                }
                Reader::Idle
            }
            LeaseReply::Granted { floor, .. } => {
                self.note(Step::Granted { reader, key, token, early });
                self.granted(key, token);
                if self.flaw == Flaw::TokenSentTwice && self.rng.u8(..4) == 0 {
                    self.late.push(LateCall::Lease(key, token));
                }
                let proven = if self.proves() { floor } else { Version::NONE };
                Reader::Granted(Held { key, token, proven, again: false })
            }
            LeaseReply::Wait { .. } => {
                self.note(Step::Wait { reader, key });
                if self.rng.u8(..4) == 0 { Reader::Idle } else { Reader::Missed { key, early } }
            }
        }
    }

    async fn ask_for_lease(&self, key: usize, token: Token, early: bool) -> LeaseReply {
        let refresh_before_ms = u64::from(early);
        let request = LeaseRequest { token, ttl: LONG, inbox: Some(INBOX), refresh_before_ms };
        self.cache.lease(&self.keys[key].key, &request).await
    }

    fn granted(&mut self, key: usize, token: Token) {
        if self.keys[key].live.is_some_and(|live| live != token) {
            self.violated(Violation::TwoLeases);
        }
        self.keys[key].live = Some(token);
    }

    /// Whether a usual load is as new as the floor that was known when it began.
    fn proves(&self) -> bool {
        !self.cell.is_eventual() || self.flaw == Flaw::ProofClaimed
    }

    /// Loads, at this moment: what comes of it is used in a later step.
    async fn load(&mut self, reader: usize, held: Held) -> Reader {
        if let Some(next) = self.interrupt(reader, held).await {
            return next;
        }
        let strong = held.again || !self.cell.is_eventual();
        let items = self.keys[held.key].items().to_vec();
        let commits: Vec<usize> = items
            .iter()
            .map(|item| {
                let lag = if strong { 0 } else { self.rng.u64(..=LAG) };
                self.items[*item].as_of(self.now - lag)
            })
            .collect();
        let version = match (self.cell.is_versioned(), items.as_slice(), commits.as_slice()) {
            (true, [item], [commit]) => self.items[*item].loaded_version(*commit),
            (true, items, commits) => {
                let versions =
                    items.iter().zip(commits).map(|(item, commit)| self.items[*item].loaded_version(*commit));
                versions.max().unwrap_or_default()
            }
            (false, ..) => Version::NONE,
        };
        let content = match (items.as_slice(), commits.as_slice()) {
            ([item], [commit]) if !self.items[*item].is_present(*commit) => Content::Absent,
            _ => Content::Commits(commits),
        };
        let entry = content.entry(version);
        self.note(Step::Loaded { reader, key: held.key, content, strong });
        Reader::Loaded(held, Load { entry, version })
    }

    async fn fill(&mut self, reader: usize, held: Held, load: &Load) -> Reader {
        if let Some(next) = self.interrupt(reader, held).await {
            return next;
        }
        let Held { key, token, proven, again } = held;
        let Load { entry, version } = load.clone();
        let fill = Fill { token, version, proven, ttl: LONG, entry, inline_max: 1024 };
        match self.rng.u8(..30) {
            0 => {
                // Timed out, and carried out later.
                self.late.push(LateCall::Fill(key, fill));
                return Reader::Idle;
            }
            1 => self.late.push(LateCall::Fill(key, fill.clone())),
            _ => {}
        }
        let reply = self.send_fill(key, &fill).await;
        self.note(Step::Filled { reader, key, reply });
        match reply {
            FillReply::Below { floor } if !again => Reader::Granted(Held { proven: floor, again: true, ..held }),
            FillReply::Below { .. } => {
                self.release(reader, held, Release::Retry).await;
                Reader::Idle
            }
            FillReply::Stored | FillReply::Void | FillReply::Older => Reader::Idle,
        }
    }

    async fn send_fill(&mut self, key: usize, fill: &Fill) -> FillReply {
        let reply = self.cache.fill(&self.keys[key].key, fill).await;
        let entry = &mut self.keys[key];
        match reply {
            FillReply::Below { .. } => return reply,
            FillReply::Stored => entry.touched = self.now,
            FillReply::Void | FillReply::Older => {}
        }
        if entry.live == Some(fill.token) {
            entry.live = None;
        }
        reply
    }

    async fn release(&mut self, reader: usize, held: Held, notice: Release<'_>) {
        let entry = &mut self.keys[held.key];
        self.cache.release(&entry.key, &held.token, notice).await;
        if entry.live == Some(held.token) {
            entry.live = None;
        }
        self.note(Step::Released { reader, key: held.key });
    }

    /// Now and then a holder dies, or its load fails, or it extends its lease.
    async fn interrupt(&mut self, reader: usize, held: Held) -> Option<Reader> {
        match self.rng.u8(..40) {
            0 => {
                self.note(Step::Died { reader });
                Some(Reader::Idle)
            }
            1 => {
                self.release(reader, held, Release::Failed("why")).await;
                Some(Reader::Idle)
            }
            2 => {
                let still = self.cache.extend(&self.keys[held.key].key, &held.token, LONG).await;
                self.note(Step::Extended { reader, still });
                None
            }
            _ => None,
        }
    }

    /// Carries out a call that its sender no longer waits for.
    pub(crate) async fn late_call(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let place = self.rng.usize(..self.late.len());
        match self.late.swap_remove(place) {
            LateCall::Fill(key, fill) => {
                let reply = self.send_fill(key, &fill).await;
                self.note(Step::LateFill { key, reply });
            }
            LateCall::Lease(key, token) => {
                let reply = self.ask_for_lease(key, token, false).await;
                let granted = matches!(reply, LeaseReply::Granted { .. });
                self.note(Step::LateLease { key, granted });
                if granted {
                    self.granted(key, token);
                }
            }
        }
    }

    /// Lets every load that has begun come to its fill.
    pub(crate) async fn finish_fills(&mut self) {
        for reader in 0..self.readers.len() {
            self.now += 1;
            if let Reader::Loaded(..) = self.readers[reader] {
                self.step_reader(reader).await;
            }
        }
        while !self.late.is_empty() {
            self.late_call().await;
        }
    }
}
