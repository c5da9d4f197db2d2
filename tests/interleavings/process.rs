//! Reader processes: what is on its way to them, and what they keep.

use std::collections::VecDeque;

use bytes::Bytes;

use super::content::Content;
use super::flaw::Flaw;
use super::local::Local;
use super::outcome::Step;
use super::reader::Reader;
use super::schedule::{Bounds, Schedule};
use super::wire::Notice;
use super::world::World;

/// A process that some of the readers belong to.
pub(crate) struct Process {
    /// Notices that are on their way, each with what had to be served when it was sent.
    pub(crate) notices: VecDeque<(usize, Notice, Bounds)>,
    /// What is on its way over the connection of its local tier, each with what had to be served when it was sent.
    stream: VecDeque<(Event, Bounds)>,
    /// Answers that have come and that nobody has taken in yet.
    answers: Vec<(usize, u64, Option<Bytes>)>,
    local: Local,
    /// By key, whether the server tells this process when it changes.
    tracked: Vec<bool>,
}

/// What a connection delivers, in the order in which the server sent it.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Answer {
        key: usize,
        read: u64,
        entry: Option<Bytes>,
    },
    Changed(Vec<usize>),
    /// The null push: everything is gone.
    Null,
    /// The connection is found to be lost, and made anew.
    Lost,
}

impl Process {
    pub(crate) fn new(keys: usize, flaw: Flaw) -> Self {
        Self {
            notices: VecDeque::new(),
            stream: VecDeque::new(),
            answers: Vec::new(),
            local: Local::new(flaw == Flaw::NoPendingMarker),
            tracked: vec![false; keys],
        }
    }
}

impl Schedule<'_> {
    /// One step of what is on its way to a process; whether there was anything.
    pub(crate) fn step_process(&mut self, process: usize) -> bool {
        let at = &self.processes[process];
        let waiting = [!at.notices.is_empty(), !at.stream.is_empty(), !at.answers.is_empty()];
        let first = self.rng.usize(..3);
        match (0..3).map(|turn| (first + turn) % 3).find(|kind| waiting[*kind]) {
            Some(0) => self.deliver_notice(process),
            Some(1) => self.deliver_event(process),
            Some(_) => self.take_answer(process),
            None => return false,
        }
        true
    }

    /// Lets everything that is on its way arrive.
    pub(crate) fn catch_up(&mut self) {
        for process in 0..self.processes.len() {
            while self.step_process(process) {}
        }
    }

    /// Wakes those who wait for a key, as the process's table of waiters does.
    fn deliver_notice(&mut self, process: usize) {
        let Some((key, notice, sent)) = self.processes[process].notices.pop_front() else { return };
        for reader in 0..self.readers.len() {
            if Self::process_of(reader) == process && self.readers[reader].waits_for(key) {
                self.wake(reader, &notice, &sent);
            }
        }
    }

    /// Notices are lost: a process that subscribes again wakes all who wait.
    pub(crate) fn lose_notices(&mut self, process: usize) {
        self.processes[process].notices.clear();
        for reader in 0..self.readers.len() {
            if let (true, Reader::Waiting(ask, _)) = (Self::process_of(reader) == process, &self.readers[reader]) {
                self.readers[reader] = Reader::Missed(ask.clone());
            }
        }
        self.note(Step::NoticesLost { process });
    }

    fn deliver_event(&mut self, process: usize) {
        let first_only = self.flaw == Flaw::FirstKeyOfPushOnly;
        let at = &mut self.processes[process];
        let Some((event, _)) = at.stream.pop_front() else { return };
        match &event {
            Event::Answer { key, read, entry } => at.answers.push((*key, *read, entry.clone())),
            Event::Changed(keys) => {
                let applied = if first_only { 1 } else { keys.len() };
                keys.iter().take(applied).for_each(|key| at.local.changed(&self.keys[*key].key));
            }
            Event::Null if self.flaw == Flaw::NullPushIgnored => {}
            Event::Lost if self.flaw == Flaw::LossIgnored => {}
            Event::Null | Event::Lost => at.local.flush(),
        }
        self.note(Step::Pushed { process, event });
    }

    fn take_answer(&mut self, process: usize) {
        let waiting = self.processes[process].answers.len();
        let place = self.rng.usize(..waiting);
        let at = &mut self.processes[process];
        let (key, read, entry) = at.answers.swap_remove(place);
        let taken = at.local.insert(read, entry.as_ref());
        self.note(Step::TakenIn { process, key, taken });
    }

    /// Answers from the process's own memory.
    pub(crate) fn look_locally(&mut self, reader: usize, key: usize) -> bool {
        let process = Self::process_of(reader);
        let at = &self.processes[process];
        let Some(content) = at.local.get(&self.keys[key].key).and_then(Content::served) else { return false };
        // The server has not told yet what came after the oldest event that is on its way.
        let bounds = at.stream.front().map_or_else(|| self.bounds(), |(_, bounds)| bounds.clone());
        self.local_hit(reader, key, content, &bounds);
        true
    }

    /// Reads an entry for the local tier.
    pub(crate) async fn get_tracked(&mut self, reader: usize, key: usize) -> Option<Bytes> {
        let process = Self::process_of(reader);
        let read = self.processes[process].local.begin(&self.keys[key].key);
        let entry = self.servers[0].wire.get_tracked(&self.keys[key].key).await;
        self.processes[process].tracked[key] = true;
        let fresh = entry.clone().filter(|entry| Content::served(entry).is_some());
        let bounds = self.bounds();
        self.processes[process].stream.push_back((Event::Answer { key, read, entry: fresh }, bounds));
        entry
    }

    /// Collects what a server has pushed, where anybody listens.
    pub(crate) async fn hear(&mut self, server: usize) {
        let tracked = self.world == World::Tracked;
        if !tracked && self.keys.iter().all(|key| !key.places[server].registered) {
            return;
        }
        let wire = &self.servers[server].wire;
        wire.catch_up().await;
        let (mut changed, bounds) = (Vec::new(), self.bounds());
        for (index, key) in self.keys.iter_mut().enumerate() {
            let heard = wire.take(&key.key);
            if !heard.notices.is_empty() {
                key.places[server].registered = false;
            }
            for (process, notice) in heard.notices {
                self.processes[process].notices.push_back((index, notice, bounds.clone()));
            }
            if heard.changed {
                changed.push(index);
            }
        }
        if !changed.is_empty() {
            self.push_changed(&changed, &bounds);
        }
    }

    fn push_changed(&mut self, changed: &[usize], bounds: &Bounds) {
        for at in &mut self.processes {
            let keys: Vec<usize> = changed.iter().copied().filter(|key| at.tracked[*key]).collect();
            keys.iter().for_each(|key| at.tracked[*key] = false);
            if !keys.is_empty() {
                at.stream.push_back((Event::Changed(keys), bounds.clone()));
            }
        }
    }

    /// The connection of a process's local tier is lost, and with it the end of what was on its way.
    pub(crate) fn lose_connection(&mut self, process: usize) {
        let bounds = self.bounds();
        let at = &mut self.processes[process];
        let arrives = self.rng.usize(..=at.stream.len());
        // The oldest loss tells since when nothing is known.
        let since = at.stream.get(arrives).map_or(bounds, |(_, bounds)| bounds.clone());
        at.stream.truncate(arrives);
        at.stream.push_back((Event::Lost, since));
        at.tracked.fill(false);
        self.note(Step::ConnectionLost { process });
    }

    /// The server is emptied, which it tells by one push without keys.
    pub(crate) async fn empty_server(&mut self) {
        self.delete_all().await;
        let wire = &self.servers[0].wire;
        wire.catch_up().await;
        for key in &self.keys {
            wire.take(&key.key);
        }
        let bounds = self.bounds();
        for at in &mut self.processes {
            at.tracked.fill(false);
            at.stream.push_back((Event::Null, bounds.clone()));
        }
        self.note(Step::Emptied);
    }

    /// Checks what is left in memory once everything has arrived.
    pub(crate) fn judge_local(&mut self) {
        self.catch_up();
        let bounds = self.bounds();
        for process in 0..self.processes.len() {
            for key in 0..self.keys.len() {
                let kept = self.processes[process].local.get(&self.keys[key].key);
                if let Some(content) = kept.and_then(Content::served) {
                    self.local_hit(process, key, content, &bounds);
                }
            }
        }
    }
}
