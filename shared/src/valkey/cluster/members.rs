//! Which masters there are: found out in the background, and again whenever one says that something has changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use redis::{Cmd, Value};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Kept;
use super::slots::{Address, Range, SLOTS, read, told_most};
use crate::config;
use crate::ring::ShardName;
use crate::valkey::connect::Endpoint;
use crate::valkey::credentials::Access;
use crate::valkey::dial::{self, Failure};
use crate::valkey::dialer::Dialer;
use crate::valkey::error::ShardError;
use crate::valkey::link::{Links, Live};
use crate::valkey::meters::Meters;
use crate::valkey::tracking::{Flushed, Tracking};

/// How often the map of slots is looked at while nobody complains.
const QUIET: Duration = Duration::from_secs(15);

/// How often it is looked at while a master is away.
const UNREADY: Duration = Duration::from_millis(500);

/// How long a server that serves no slot is kept connected after a redirection to it.
const GRACE: Duration = Duration::from_secs(60);

/// No master.
const NOBODY: u16 = u16::MAX;

/// What a cluster's tasks and callers share.
pub(super) struct Shared {
    pub(super) name: ShardName,
    pub(super) meters: Meters,
    pub(super) options: config::Valkey,
    seed: Endpoint,
    access: Access,
    tracking: Option<Arc<Tracking>>,
    map: ArcSwap<Map>,
    known: Mutex<HashMap<Address, Known>>,
    /// Why the map could not be asked for, if it could not.
    failed: watch::Sender<Option<(Arc<str>, bool)>>,
    /// The map may be out of date, or a connection has come or gone.
    changed: Arc<Notify>,
    /// Whom to ask first: the server that a slot has moved to knows it best.
    hint: Mutex<Option<Address>>,
}

struct Known {
    node: Arc<Node>,
    wanted: Instant,
}

/// One server, and the connections to it.
pub(super) struct Node {
    pub(super) address: Address,
    pub(super) links: Links,
}

/// Which master serves which slot.
pub(super) struct Map {
    owners: Box<[u16]>,
    /// The masters that serve slots, in the order of their addresses.
    pub(super) nodes: Vec<Arc<Node>>,
    /// Their addresses, as texts.
    pub(super) addresses: Arc<[Arc<str>]>,
    /// Slots that nobody serves.
    pub(super) missing: usize,
    /// Redirections name masters by addresses, where connections go by host names.
    names: HashMap<Address, Address>,
}

/// Whether every slot's master is connected, or why not.
pub(super) struct State {
    pub(super) ready: bool,
    pub(super) reason: Arc<str>,
    hopeless: bool,
}

impl Map {
    fn empty() -> Self {
        Self {
            owners: Box::default(),
            nodes: Vec::new(),
            addresses: Arc::default(),
            missing: usize::from(SLOTS),
            names: HashMap::new(),
        }
    }

    /// Whether ranges say the same.
    fn is(&self, ranges: &[Range]) -> bool {
        let mut served = 0;
        ranges.iter().all(|range| {
            let owners = self.owners.get(usize::from(range.first)..=usize::from(range.last)).unwrap_or_default();
            served += owners.len();
            let master = self.nodes.iter().position(|node| node.address == range.master);
            master.is_some_and(|master| owners.iter().all(|owner| usize::from(*owner) == master))
        }) && served + self.missing == usize::from(SLOTS)
    }

    /// The place in `nodes` of a slot's master.
    pub(super) fn index(&self, slot: u16) -> Option<usize> {
        self.owners.get(usize::from(slot)).filter(|owner| **owner != NOBODY).map(|owner| usize::from(*owner))
    }
}

impl Shared {
    pub(super) fn new(
        name: ShardName,
        seed: Endpoint,
        access: Access,
        options: &config::Valkey,
        tracking: Option<Arc<Tracking>>,
    ) -> Self {
        Self {
            meters: Meters::of(&name),
            name,
            options: options.clone(),
            seed,
            access,
            tracking,
            map: ArcSwap::from_pointee(Map::empty()),
            known: Mutex::default(),
            failed: watch::Sender::new(Some(("not connected yet".into(), false))),
            changed: Arc::default(),
            hint: Mutex::default(),
        }
    }

    pub(super) fn map(&self) -> arc_swap::Guard<Arc<Map>> {
        self.map.load()
    }

    /// What is known at this moment, which may be more than at the last look at the map.
    pub(super) fn state(&self) -> State {
        let map = self.map();
        let unready = |reason: Arc<str>, hopeless| State { ready: false, reason, hopeless };
        if map.nodes.is_empty() {
            let (reason, hopeless) =
                self.failed.borrow().clone().unwrap_or_else(|| ("no master serves any slot".into(), false));
            return unready(reason, hopeless);
        }
        for node in &map.nodes {
            let status = node.links.dialer().status.borrow();
            if !status.is_up() {
                return unready(format!("{}: {}", node.address, status.reason).into(), status.hopeless);
            }
        }
        if map.missing > 0 {
            return unready(format!("{} of {SLOTS} slots are served by nobody", map.missing).into(), false);
        }
        State { ready: true, reason: "a connection was lost".into(), hopeless: false }
    }

    pub(super) async fn ready(&self, within: Duration) -> bool {
        let mut looked = self.failed.subscribe();
        let known = async {
            loop {
                let state = self.state();
                if state.ready || state.hopeless || looked.changed().await.is_err() {
                    return state.ready;
                }
            }
        };
        tokio::time::timeout(within, known).await.unwrap_or(false)
    }

    /// Says that the map may be out of date, and who knows better.
    pub(super) fn look_again(&self, hint: Option<Address>) {
        if hint.is_some() {
            *self.hint.lock().unwrap_or_else(PoisonError::into_inner) = hint;
        }
        self.changed.notify_one();
    }

    /// The server at an address, which is connected in the background where it was unknown.
    pub(super) fn node(&self, address: &Address) -> Arc<Node> {
        let map = self.map();
        let address = map.names.get(address).unwrap_or(address);
        let mut known = self.known();
        let entry = known.entry(address.clone()).or_insert_with(|| {
            let endpoint = self.seed.at(&address.host, address.port);
            let changed = Some(self.changed.clone());
            let dialer = Dialer::new(self.name.clone(), endpoint, self.access.clone(), &self.options, changed);
            let links = Links::new(
                dialer.metered(self.meters.clone()).tracked(self.tracking.clone()),
                self.options.connections,
            );
            let node = Arc::new(Node { address: address.clone(), links });
            Known { node, wanted: Instant::now() }
        });
        entry.wanted = Instant::now();
        entry.node.clone()
    }

    /// Every connection that lives, to any server.
    pub(super) fn all_live(&self) -> Vec<Arc<Live>> {
        self.known().values().flat_map(|known| known.node.links.all_live()).collect()
    }

    /// Finds out who serves what; tells whether that has changed.
    pub(super) async fn discover(&self) -> Result<bool, Failure> {
        let ranges = self.ranges().await?;
        let known: Vec<Address> = self.known().keys().cloned().collect();
        let mut addresses: Vec<&Address> = ranges.iter().map(|range| &range.master).collect();
        addresses.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
        addresses.dedup();
        let nodes: Vec<Arc<Node>> = addresses.iter().map(|address| self.node(address)).collect();
        // Commands do not wait for connections, so a new master gets none before it is connected, if it can be.
        let new = nodes.iter().filter(|node| !known.contains(&node.address));
        join_all(new.map(|node| node.links.ready(self.options.connect_timeout))).await;

        let mut owners = vec![NOBODY; usize::from(SLOTS)].into_boxed_slice();
        for range in &ranges {
            let owner = nodes.iter().position(|node| node.address == range.master);
            let owner = owner.and_then(|owner| u16::try_from(owner).ok()).unwrap_or(NOBODY);
            if let Some(slots) = owners.get_mut(usize::from(range.first)..=usize::from(range.last)) {
                slots.fill(owner);
            }
        }
        let missing = owners.iter().filter(|owner| **owner == NOBODY).count();
        let before = self.map.load();
        let same_nodes = before.nodes.len() == nodes.len()
            && before.nodes.iter().zip(&nodes).all(|(before, now)| Arc::ptr_eq(before, now));
        let same = same_nodes && before.owners == owners;
        if !same {
            let masters = nodes.len();
            tracing::info!(ring_shard = %self.name, masters, unserved_slots = missing, "cluster's slots are known");
            let names =
                ranges.iter().filter_map(|range| Some((range.address.clone()?, range.master.clone()))).collect();
            let addresses = match same_nodes {
                true => before.addresses.clone(),
                false => nodes.iter().map(|node| node.address.to_string().into()).collect(),
            };
            self.map.store(Arc::new(Map { owners, nodes: nodes.clone(), addresses, missing, names }));
            // Who has served a slot until now may hear of its changes no more.
            if let Some(tracking) = &self.tracking {
                tracking.flushed(Flushed::Moved);
            }
        }
        self.known().retain(|_, known| {
            known.wanted.elapsed() < GRACE || nodes.iter().any(|node| Arc::ptr_eq(node, &known.node))
        });
        Ok(!same)
    }

    /// Asks who a slot has moved to, or else all masters, and the configured endpoint where nobody answers.
    async fn ranges(&self) -> Result<Vec<Range>, Failure> {
        let hint = self.hint.lock().unwrap_or_else(PoisonError::into_inner).take();
        let hinted = self.views(hint.map(|hint| self.node(&hint)).as_slice()).await.pop();
        if let Some(ranges) = hinted {
            return Ok(ranges);
        }
        let mut nodes: Vec<Arc<Node>> = self.map().nodes.clone();
        fastrand::shuffle(&mut nodes);
        match told_most(self.views(&nodes).await) {
            Some(ranges) => Ok(ranges),
            None => self.ranges_of_seed(&slots_command()).await,
        }
    }

    /// What those say that are connected and answer, in their order.
    async fn views(&self, nodes: &[Arc<Node>]) -> Vec<Vec<Range>> {
        let ask = slots_command();
        let view = async |node: &Arc<Node>| {
            let answer = node.links.send(&ask).await.ok()?;
            let ranges = read(answer, &node.address.host, self.seed.is_encrypted())?;
            // A server that was taken out of the cluster knows of no slots.
            (!ranges.is_empty()).then_some(ranges)
        };
        let views = join_all(nodes.iter().filter(|node| node.links.is_up()).map(view)).await;
        views.into_iter().flatten().collect()
    }

    /// Whether more than half of the masters answer, and all of these say that each serves what the map says.
    ///
    /// A master that is cut off from the others knows nothing of the one that was promoted in its place, and answers for
    /// a while as if nothing had happened. Nobody is promoted without the votes of more than half, one of which is among
    /// these.
    pub(super) async fn is_agreed(&self) -> bool {
        let map = self.map.load_full();
        let views = self.views(&map.nodes).await;
        let same = views.iter().all(|view| map.is(view));
        if !same {
            self.look_again(None);
        }
        same && views.len() * 2 > map.nodes.len()
    }

    async fn ranges_of_seed(&self, ask: &Cmd) -> Result<Vec<Range>, Failure> {
        let (name, access) = (self.name.clone(), self.access.clone());
        let several = Some(Arc::default());
        let dialer = Dialer::new(name, self.seed.clone(), access, &self.options, several);
        let mut connection = dialer.dial(|_| ()).await?.connection;
        match connection.send_packed_command(ask).await {
            Ok(Value::ServerError(error)) => {
                let error = ShardError::answered(&self.name, &error);
                let refused = !error.is_retryable();
                Err(Failure { reason: format!("CLUSTER SLOTS: {error}").into(), refused: false, hopeless: refused })
            }
            Ok(answer) => match read(answer, self.seed.host(), self.seed.is_encrypted()) {
                Some(ranges) => Ok(ranges),
                None => Err(Failure::without_server()),
            },
            Err(error) => Err(Failure::of(&error)),
        }
    }

    /// Tells whoever waits of a look at the map, and sets the gauge; returns whether all is well.
    fn note(&self, found: Result<bool, Failure>) -> bool {
        self.failed.send_modify(|failed| *failed = found.err().map(|failure| (failure.reason, failure.hopeless)));
        let ready = self.state().ready;
        self.meters.up(|| ready);
        ready
    }

    /// Takes the gauge of the ring shard's name, or leaves it to another handle.
    pub(super) fn show(&self, shown: bool) {
        self.meters.show(shown, || self.state().ready);
    }

    /// Leaves that gauge without a value.
    pub(super) fn leave(&self) {
        self.meters.leave();
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Address, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slots_command() -> Cmd {
    redis::cmd("CLUSTER").arg("SLOTS").to_owned()
}

/// Keeps the map up to date for as long as the task lives.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut pause = dial::pauses();
    loop {
        let found = shared.discover().await;
        if matches!(found, Ok(true)) {
            pause.reset();
        }
        let ready = shared.note(found);
        // However many commands fail, the masters are asked no more often than this.
        tokio::time::sleep(pause.next_from_zero(fastrand::f64())).await;
        let quiet = if ready { QUIET } else { UNREADY };
        if tokio::time::timeout(quiet, shared.changed.notified()).await.is_err() && ready {
            pause.reset();
        }
    }
}

/// The masters, as a subscription sees them.
pub(in crate::valkey) struct Members(pub(super) Arc<Kept>);

impl Members {
    /// A master that is connected, any of them.
    pub(in crate::valkey) fn any_dialer(&self) -> Option<Arc<Dialer>> {
        let map = self.0.shared.map();
        let up: Vec<_> = map.nodes.iter().filter(|node| node.links.is_up()).collect();
        fastrand::choice(up).map(|node| node.links.dialer().clone())
    }

    /// Whether a server is still a master of the cluster.
    pub(in crate::valkey) fn has(&self, dialer: &Arc<Dialer>) -> bool {
        self.0.shared.map().nodes.iter().any(|node| Arc::ptr_eq(node.links.dialer(), dialer))
    }
}
