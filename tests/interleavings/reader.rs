//! Readers: each step is one call of the protocol, in the order in which the read side makes them.

use bytes::Bytes;
use ringtide_core::entry::{Header, State};
use ringtide_core::valkey::{Fill, FillReply, LeaseReply, LeaseRequest, Release, Token};
use ringtide_core::version::Version;

use super::cell::LONG;
use super::content::Content;
use super::flaw::Flaw;
use super::membership::FLIGHT_STEPS;
use super::outcome::{Count, Step, Violation};
use super::schedule::{Bounds, LAG, Schedule};
use super::wire::{INBOXES, Notice};
use super::world::World;

/// Where a reader stands.
#[derive(Clone, Debug)]
pub(crate) enum Reader {
    Idle,
    Missed(Ask),
    /// Another lease is waited for, under this token.
    Waiting(Ask, Token),
    Granted(Held),
    Loaded(Held, Load),
}

/// Why a lease is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Miss,
    /// A value that is served is loaded again before its time is over.
    Early,
    /// A value past its time is served and loaded again behind its reader.
    Behind,
}

/// A flight: one attempt to get at a key's value, which keeps to the server that owned the key when it began.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) key: usize,
    pub(crate) server: usize,
    pub(crate) why: Why,
    /// Entries whose time is over by then are loaded again; 0 for none.
    refresh_before: u64,
    since: u64,
    /// What had to be served when it began.
    pub(crate) began: Bounds,
    /// Whether a value is there to be served if the load fails.
    stale: bool,
}

/// A lease as its holder knows it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) ask: Ask,
    token: Token,
    proven: Version,
    /// Whether this is the second load, which has to be strong.
    again: bool,
    /// Whether there is a lease at all.
    leased: bool,
}

/// What was loaded.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    entry: Bytes,
    version: Version,
    negative: bool,
}

/// A call whose sender has given up waiting, and that the server carries out later; the key and the server come first.
#[derive(Clone, Debug)]
pub(crate) enum LateCall {
    Fill(usize, usize, Fill),
    Lease(usize, usize, Token),
}

/// What a reader makes of an entry.
enum Judged {
    /// To be served, and perhaps to be loaded again: the entries to replace are those whose time is over by then.
    Serve(Content, Option<(Why, u64)>),
    Miss {
        refresh_before: u64,
        stale: bool,
    },
}

/// For how many steps past its time a value is served, where the key space serves such values.
const REVALIDATED: u64 = 8;

impl Reader {
    pub(crate) fn waits_for(&self, key: usize) -> bool {
        matches!(self, Reader::Waiting(ask, _) if ask.key == key)
    }
}

impl Schedule<'_> {
    pub(crate) async fn step_reader(&mut self, reader: usize) {
        let next = match self.readers[reader].clone() {
            Reader::Idle => self.look_up(reader).await,
            Reader::Missed(ask) => self.lease(reader, ask).await,
            Reader::Waiting(ask, holder) => self.wait(reader, ask, holder).await,
            Reader::Granted(held) => self.load(reader, held).await,
            Reader::Loaded(held, load) => self.fill(reader, held, &load).await,
        };
        self.readers[reader] = next;
    }

    async fn look_up(&mut self, reader: usize) -> Reader {
        let key = self.rng.usize(..self.keys.len());
        let server = self.server_of(Self::process_of(reader), key);
        let entry = if self.world == World::Tracked {
            if self.look_locally(reader, key) {
                return Reader::Idle;
            }
            self.get_tracked(reader, key).await
        } else {
            self.servers[server].get(&self.keys[key].key).await
        };
        let since = self.now;
        let ask = |why, refresh_before, stale, began| Ask { key, server, why, refresh_before, since, began, stale };
        match self.judge_entry(entry.as_ref()) {
            Judged::Serve(content, again) => {
                self.hit(reader, key, content);
                match again {
                    Some((why, before)) => Reader::Missed(ask(why, before, false, self.bounds())),
                    None => Reader::Idle,
                }
            }
            Judged::Miss { refresh_before, stale } => {
                self.note(Step::Miss { reader, key });
                Reader::Missed(ask(Why::Miss, refresh_before, stale, self.bounds()))
            }
        }
    }

    /// Judges an entry as readers do; steps stand for milliseconds.
    fn judge_entry(&mut self, entry: Option<&Bytes>) -> Judged {
        let space = &self.space;
        let tolerant = space.serves_stale() || space.early_refresh > 0.0;
        let now = if tolerant { self.now } else { 0 };
        let gone = Judged::Miss { refresh_before: now, stale: false };
        let Some((entry, header)) = entry.and_then(|entry| Some((entry, Header::parse(entry).ok()?))) else {
            return gone;
        };
        if header.state == State::Stale && self.flaw == Flaw::MarkedServed {
            return Content::served_or_marked(entry).map_or(gone, |content| Judged::Serve(content, None));
        }
        let kept = Judged::Miss { refresh_before: now, stale: space.keeps_stale() };
        match header.state {
            State::Tombstone => return gone,
            State::Stale => return kept,
            State::Value | State::Negative => {}
        }
        let Some(content) = Content::served(entry) else { return gone };
        let until = header.soft_expiry_ms;
        if until == 0 || !tolerant {
            return Judged::Serve(content, None);
        }
        if now < until {
            let early = space.early_refresh > 0.0 && self.rng.u8(..6) == 0;
            return Judged::Serve(content, early.then_some((Why::Early, until)));
        }
        if header.state == State::Negative {
            return gone;
        }
        if now < until + REVALIDATED && !space.stale_while_revalidate.is_zero() {
            return Judged::Serve(content, Some((Why::Behind, now)));
        }
        kept
    }

    async fn lease(&mut self, reader: usize, ask: Ask) -> Reader {
        let token = Token::random();
        let (key, server) = (ask.key, ask.server);
        if self.world == World::Ring && self.now >= ask.since + FLIGHT_STEPS {
            return Reader::Idle;
        }
        let skipped = match self.flaw {
            Flaw::EarlyWithoutLease => ask.why == Why::Early,
            Flaw::BehindWithoutLease => ask.why == Why::Behind,
            _ => false,
        };
        if skipped {
            return Reader::Granted(Held { ask, token, proven: Version::NONE, again: false, leased: false });
        }
        if self.rng.u8(..25) == 0 {
            self.late.push(LateCall::Lease(key, server, token));
            return Reader::Idle;
        }
        let inbox = INBOXES[Self::process_of(reader)];
        match self.ask_for_lease((key, server), token, inbox, ask.refresh_before).await {
            LeaseReply::Hit(entry) => {
                if let Some(content) = Content::served(&entry) {
                    self.hit(reader, key, content);
                }
                Reader::Idle
            }
            LeaseReply::Granted { floor, stale } => {
                self.note(Step::Granted { reader, key, token, why: ask.why });
                self.granted(key, server, token);
                if self.flaw == Flaw::TokenSentTwice && self.rng.u8(..4) == 0 {
                    self.late.push(LateCall::Lease(key, server, token));
                }
                let proven = if self.proves() { floor } else { Version::NONE };
                let ask = Ask { stale: ask.stale || self.may_serve_stale(stale.as_ref()), ..ask };
                Reader::Granted(Held { ask, token, proven, again: false, leased: true })
            }
            LeaseReply::Wait { holder, registered, .. } => {
                self.note(Step::Wait { reader, key, holder });
                self.keys[key].places[server].registered |= registered;
                Reader::Waiting(ask, holder)
            }
        }
    }

    fn may_serve_stale(&self, entry: Option<&Bytes>) -> bool {
        self.space.keeps_stale() && entry.is_some_and(Content::is_marked)
    }

    async fn ask_for_lease(
        &self,
        (key, server): (usize, usize),
        token: Token,
        inbox: &str,
        refresh_before_ms: u64,
    ) -> LeaseReply {
        let request = LeaseRequest { token, ttl: LONG, inbox: Some(inbox), refresh_before_ms };
        self.servers[server].lease(&self.keys[key].key, &request).await
    }

    fn granted(&mut self, key: usize, server: usize, token: Token) {
        if self.keys[key].places[server].live.is_some_and(|live| live != token) {
            self.violated(Violation::TwoLeases);
        }
        let now = self.now;
        let place = &mut self.keys[key].places[server];
        place.live = Some(token);
        place.locked = Some(now);
    }

    /// A waiter's own step: its timer, its caller gives up, or it looks whether the lease is still held. Reads that joined
    /// before such a look are answered by what that lease stores.
    async fn wait(&mut self, reader: usize, ask: Ask, holder: Token) -> Reader {
        match self.rng.u8(..12) {
            0 => Reader::Idle,
            1 | 2 => Reader::Missed(ask),
            3..=5 => {
                let held_by = self.servers[ask.server].holder(&self.keys[ask.key].key).await;
                let unfilled = match self.flaw {
                    Flaw::HolderNotCompared => held_by.is_some(),
                    Flaw::HolderNotAsked => true,
                    _ => held_by == Some(holder),
                };
                self.note(Step::StillWaits { reader, key: ask.key, unfilled });
                let began = if unfilled { self.bounds() } else { ask.began.clone() };
                Reader::Waiting(Ask { began, ..ask }, holder)
            }
            _ => Reader::Waiting(ask, holder),
        }
    }

    /// A notice comes to one who waits for its key.
    pub(crate) fn wake(&mut self, reader: usize, notice: &Notice, sent: &Bounds) {
        let Reader::Waiting(ask, holder) = self.readers[reader].clone() else { return };
        self.note(Step::Woken { reader, notice: notice.clone() });
        self.readers[reader] = match notice {
            Notice::Filled(of, Some(entry)) if *of == holder || self.flaw == Flaw::AnotherLeasesNotice => {
                if let Some(content) = Content::served(entry) {
                    self.handed(reader, ask.key, content, &ask.began, sent);
                }
                Reader::Idle
            }
            // The load failed elsewhere: a value that is kept is served, or the next attempt tells.
            Notice::Failed if ask.stale && self.rng.bool() => {
                self.note(Step::ServedStale { reader, key: ask.key });
                Reader::Idle
            }
            Notice::Filled(..) | Notice::Voided | Notice::Failed => Reader::Missed(ask),
        };
    }

    /// Whether a usual load is as new as the floor that was known when it began.
    fn proves(&self) -> bool {
        !self.cell.is_eventual() || self.flaw == Flaw::ProofClaimed
    }

    /// Loads, at this moment: what comes of it is used in a later step.
    async fn load(&mut self, reader: usize, held: Held) -> Reader {
        if let Some(next) = self.interrupt(reader, &held).await {
            return next;
        }
        let strong = held.again || !self.cell.is_eventual();
        let key = held.ask.key;
        let items = self.keys[key].items.clone();
        let commits: Vec<usize> = items
            .iter()
            .map(|item| {
                let lag = if strong { 0 } else { self.rng.u64(..=LAG) };
                self.items[*item].as_of(self.now - lag)
            })
            .collect();
        let fed = || items.iter().zip(&commits).map(|(item, commit)| (&self.items[*item], *commit));
        let version = match self.cell.is_versioned() {
            true => fed().map(|(item, commit)| item.loaded_version(commit)).max().unwrap_or_default(),
            false => Version::NONE,
        };
        let negative = fed().all(|(item, commit)| !item.is_present(commit));
        let content = if negative { Content::Absent } else { Content::Commits(commits) };
        let fresh_until = if self.rng.u8(..4) == 0 { 0 } else { self.now + self.rng.u64(3..18) };
        let entry = content.entry(version, fresh_until);
        if held.ask.why != Why::Miss {
            self.outcome.count(Count::Behind);
        }
        self.note(Step::Loaded { reader, key, content, strong });
        Reader::Loaded(held, Load { entry, version, negative })
    }

    async fn fill(&mut self, reader: usize, held: Held, load: &Load) -> Reader {
        if let Some(next) = self.interrupt(reader, &held).await {
            return next;
        }
        let (key, server) = (held.ask.key, held.ask.server);
        if !held.leased {
            self.servers[server].store(&self.keys[key].key, &load.entry).await;
            self.note(Step::Filled { reader, key, reply: FillReply::Stored });
            return Reader::Idle;
        }
        let Load { entry, version, negative } = load.clone();
        let inline_max = if self.rng.u8(..8) == 0 { 0 } else { 1024 };
        let fill = Fill { token: held.token, version, proven: held.proven, ttl: LONG, entry, inline_max };
        match self.rng.u8(..30) {
            0 => {
                // Timed out, and carried out later.
                self.late.push(LateCall::Fill(key, server, fill));
                return Reader::Idle;
            }
            1 => self.late.push(LateCall::Fill(key, server, fill.clone())),
            _ => {}
        }
        let reply = self.send_fill(key, server, &fill).await;
        if negative && reply == FillReply::Stored {
            self.outcome.count(Count::Negative);
        }
        self.note(Step::Filled { reader, key, reply });
        match reply {
            FillReply::Below { floor } if !held.again => Reader::Granted(Held { proven: floor, again: true, ..held }),
            FillReply::Below { .. } => {
                self.release(reader, &held, Release::Retry).await;
                Reader::Idle
            }
            FillReply::Stored | FillReply::Void | FillReply::Older => Reader::Idle,
        }
    }

    async fn send_fill(&mut self, key: usize, server: usize, fill: &Fill) -> FillReply {
        let reply = self.servers[server].fill(&self.keys[key].key, fill).await;
        let now = self.now;
        let place = &mut self.keys[key].places[server];
        match reply {
            FillReply::Below { .. } => {}
            FillReply::Stored => {
                place.touched = now;
                place.stored = Some(now);
                place.kept = None;
            }
            FillReply::Void | FillReply::Older => {}
        }
        if place.live == Some(fill.token) && !matches!(reply, FillReply::Below { .. }) {
            place.live = None;
        }
        self.hear(server).await;
        reply
    }

    async fn release(&mut self, reader: usize, held: &Held, notice: Release<'_>) {
        let (key, server) = (held.ask.key, held.ask.server);
        self.servers[server].release(&self.keys[key].key, &held.token, notice).await;
        let place = &mut self.keys[key].places[server];
        if place.live == Some(held.token) {
            place.live = None;
        }
        self.hear(server).await;
        self.note(Step::Released { reader, key });
    }

    /// Now and then a holder dies, or its load fails, or it extends its lease.
    async fn interrupt(&mut self, reader: usize, held: &Held) -> Option<Reader> {
        // Where a value is kept for it, a failed load is what matters.
        let fails = held.ask.stale && self.rng.u8(..5) == 0;
        match self.rng.u8(..40) {
            0 => {
                self.note(Step::Died { reader });
                Some(Reader::Idle)
            }
            chosen if fails || chosen == 1 => {
                if held.leased {
                    self.release(reader, held, Release::Failed("why")).await;
                }
                if held.ask.stale && held.ask.why == Why::Miss {
                    self.note(Step::ServedStale { reader, key: held.ask.key });
                }
                Some(Reader::Idle)
            }
            2 if held.leased => {
                let key = &self.keys[held.ask.key].key;
                let still = self.servers[held.ask.server].extend(key, &held.token, LONG).await;
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
            LateCall::Fill(key, server, fill) => {
                let reply = self.send_fill(key, server, &fill).await;
                self.note(Step::LateFill { key, reply });
            }
            LateCall::Lease(key, server, token) => {
                let reply = self.ask_for_lease((key, server), token, INBOXES[0], 0).await;
                let granted = matches!(reply, LeaseReply::Granted { .. });
                self.note(Step::LateLease { key, granted });
                if granted {
                    self.granted(key, server, token);
                }
                // Whoever is noted down as a waiter here has long gone.
                self.keys[key].places[server].registered |= matches!(reply, LeaseReply::Wait { registered: true, .. });
            }
        }
    }

    /// Lets every load that has begun come to its fill.
    pub(crate) async fn finish_fills(&mut self) {
        for reader in 0..self.readers.len() {
            self.now += 1;
            self.let_time_pass().await;
            if let Reader::Loaded(..) = self.readers[reader] {
                self.step_reader(reader).await;
            }
        }
        while !self.late.is_empty() {
            self.late_call().await;
        }
        self.catch_up();
    }
}
