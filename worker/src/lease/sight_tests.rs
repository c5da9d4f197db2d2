use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);

struct Table {
    sight: Sight,
    start: Instant,
    leases: BTreeMap<LeaseKey, Lease>,
}

fn key(shard: &str) -> LeaseKey {
    LeaseKey::parse(&format!("1:r$1$t$l:1:{shard}")).unwrap()
}

fn me() -> OwnerId {
    OwnerId::named("me")
}

impl Table {
    fn new() -> Self {
        let mut sight = Sight::new(me(), TIMEOUT);
        sight.follow(key("s").stream);
        Self { sight, start: Instant::now(), leases: BTreeMap::new() }
    }

    fn put(&mut self, shard: &str, owner: Option<&str>, counter: u64) {
        let lease = Lease { owner: owner.map(OwnerId::named), counter, ..Lease::new(key(shard)) };
        self.leases.insert(lease.key.clone(), lease);
    }

    fn change(&mut self, shard: &str, change: impl FnOnce(&mut Lease)) {
        change(self.leases.get_mut(&key(shard)).unwrap());
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn observe(&mut self, ms: u64) -> Vec<LeaseKey> {
        let leases: Vec<Lease> = self.leases.values().cloned().collect();
        let at = self.at(ms);
        self.sight.observe(&leases, at).twins
    }

    /// Looks, and tells whether the lease may be taken.
    fn may_take(&mut self, shard: &str, ms: u64) -> bool {
        self.observe(ms);
        let (lease, at) = (self.leases[&key(shard)].clone(), self.at(ms));
        self.sight.may_take(&lease, at)
    }
}

#[test]
fn a_lease_expires_when_its_counter_stands_still() {
    let mut table = Table::new();
    table.put("s", Some("other"), 1);
    assert!(!table.may_take("s", 0) && !table.may_take("s", 9_999));
    table.put("s", Some("other"), 2);
    assert!(!table.may_take("s", 12_000), "it was renewed meanwhile");
    assert_eq!(table.sight.next_expiry(table.at(12_000)), Some(table.at(22_000)));
    assert!(!table.may_take("s", 21_999));
    assert!(table.may_take("s", 22_000));
}

#[test]
fn a_paused_lease_is_never_taken() {
    let mut table = Table::new();
    table.put("s", Some(crate::lease::PAUSED_OWNER), 1);
    for ms in [0, 9_000, 11_000, 3_600_000] {
        assert!(!table.may_take("s", ms));
    }
    assert_eq!(table.sight.next_expiry(table.at(0)), None);
    assert_eq!(table.sight.share().leases, 0);
}

#[test]
fn a_request_does_not_prolong_the_life_of_a_dead_worker() {
    let mut table = Table::new();
    table.put("s", Some("dead"), 1);
    assert!(!table.may_take("s", 0));
    table.change("s", |lease| {
        (lease.owner, lease.leaving) = (Some(OwnerId::named("third")), Some(OwnerId::named("dead")))
    });
    assert!(!table.may_take("s", 6_000));
    assert!(table.may_take("s", 10_000));
}

#[test]
fn who_asked_takes_at_once_what_was_given_up_and_by_force_only_late() {
    let mut table = Table::new();
    for shard in ["s", "t"] {
        table.put(shard, Some("other"), 1);
    }
    table.observe(0);
    for shard in ["s", "t"] {
        table.sight.asks(&key(shard));
        table.change(shard, |lease| (lease.owner, lease.leaving) = (Some(me()), Some(OwnerId::named("other"))));
    }
    assert!(!table.may_take("s", 500) && table.sight.waits());
    table.change("s", |lease| (lease.leaving, lease.counter) = (None, 2));
    assert!(table.may_take("s", 700));
    // The other one is renewed and not given up.
    let mut forced = None;
    for second in 1..40 {
        table.change("t", |lease| lease.counter += 1);
        if table.may_take("t", second * 1_000) {
            forced = Some(second);
            break;
        }
    }
    assert_eq!(forced, Some(21));
}

#[test]
fn leases_under_the_own_name_are_taken_at_once_after_a_restart() {
    let mut table = Table::new();
    table.put("s", Some("me"), 7);
    assert!(table.may_take("s", 0));
    table.put("child", Some("me"), 0);
    assert!(table.may_take("child", 1_000), "it was claimed with its parent's end");
}

#[test]
fn a_child_that_is_asked_for_before_its_claimer_has_taken_it_is_left_behind() {
    let asked = |lease: &mut Lease| (lease.owner, lease.leaving) = (Some(OwnerId::named("other")), Some(me()));
    let mut table = Table::new();
    table.observe(0);
    for (shard, counter) in [("claimed", 0), ("held", 0), ("read", 1)] {
        table.put(shard, Some("me"), counter);
        table.change(shard, asked);
    }
    table.sight.takes(&key("held"));
    table.observe(100);
    let left_behind = |shard: &str| table.sight.is_left_behind(&table.leases[&key(shard)]);
    assert!(left_behind("claimed"), "nobody reads by it");
    assert!(!left_behind("held"), "its reader hands it over");
    assert!(!left_behind("read"), "another process of this name may read by it");
}

#[test]
fn what_is_asked_for_from_before_a_restart_is_left_behind_until_it_is_taken() {
    let asked = |lease: &mut Lease| (lease.owner, lease.leaving) = (Some(OwnerId::named("other")), Some(me()));
    let mut table = Table::new();
    for shard in ["asked", "held", "written"] {
        table.put(shard, Some("me"), 7);
    }
    table.change("asked", asked);
    table.put("new", None, 1);
    table.observe(0);
    let left_behind = |table: &Table, shard: &str| table.sight.is_left_behind(&table.leases[&key(shard)]);
    assert!(left_behind(&table, "asked") && !left_behind(&table, "held"), "nobody has asked for the other one");
    table.sight.takes(&key("held"));
    table.sight.takes(&key("new"));
    for shard in ["held", "new", "written"] {
        table.change(shard, asked);
    }
    table.change("written", |lease| lease.counter = 8);
    table.observe(1_000);
    for shard in ["held", "new", "written"] {
        assert!(!left_behind(&table, shard), "{shard}");
    }
}

#[test]
fn what_was_handed_over_and_is_asked_back_before_it_was_taken_is_left_behind() {
    let mut table = Table::new();
    table.put("s", Some("other"), 4);
    table.observe(0);
    table.sight.asks(&key("s"));
    table.put("s", Some("me"), 5);
    table.observe(100);
    table.change("s", |lease| (lease.owner, lease.leaving) = (Some(OwnerId::named("other")), Some(me())));
    for ms in [200, 300] {
        table.observe(ms);
        assert!(table.sight.is_left_behind(&table.leases[&key("s")]), "nobody reads by it");
    }
    table.put("s", Some("other"), 6);
    table.observe(400);
    assert!(!table.sight.waits(), "it went back");
    table.change("s", |lease| (lease.owner, lease.leaving) = (Some(OwnerId::named("third")), Some(me())));
    assert!(
        !table.sight.is_left_behind(&table.leases[&key("s")]),
        "another process of this name has taken it meanwhile"
    );
}

#[test]
fn what_was_asked_for_before_a_restart_is_taken_when_it_is_handed_over() {
    let mut table = Table::new();
    table.put("s", Some("other"), 3);
    table.change("s", |lease| (lease.owner, lease.leaving) = (Some(me()), Some(OwnerId::named("other"))));
    assert!(!table.may_take("s", 0) && table.sight.waits());
    table.change("s", |lease| (lease.leaving, lease.counter) = (None, 4));
    assert!(table.may_take("s", 100));
}

#[test]
fn a_second_worker_of_the_same_name_is_told_and_not_fought() {
    let mut table = Table::new();
    table.put("s", None, 1);
    assert!(table.may_take("s", 0));
    table.sight.takes(&key("s"));
    table.put("s", Some("me"), 4);
    assert_eq!(table.observe(9_000), []);
    // Another process took it, and renews it.
    table.put("s", Some("me"), 5);
    table.sight.gives_up(&key("s"), 4);
    assert!(!table.may_take("s", 9_500), "it may be our own last write");
    table.put("s", Some("me"), 6);
    assert_eq!(table.observe(10_000), [key("s")]);
    assert!(table.sight.has_twin());
    for ms in [11_000, 16_000, 19_000] {
        assert!(!table.may_take("s", ms));
    }
    table.put("s", Some("me"), 7);
    assert_eq!(table.observe(19_500), [], "it is told once");
    assert!(table.may_take("s", 30_000), "the other one is gone");
}

#[test]
fn a_lease_that_could_not_be_renewed_is_taken_again_at_once() {
    let mut table = Table::new();
    table.put("s", None, 1);
    assert!(table.may_take("s", 0));
    table.sight.takes(&key("s"));
    // Nothing was listed while it was renewed.
    table.put("s", Some("me"), 9);
    table.sight.gives_up(&key("s"), 9);
    assert!(table.may_take("s", 60_000) && !table.sight.has_twin());
    // The answer to the last write got lost.
    table.sight.takes(&key("s"));
    table.put("s", Some("me"), 12);
    table.sight.gives_up(&key("s"), 11);
    assert!(!table.may_take("s", 90_000));
    assert!(table.may_take("s", 95_000) && !table.sight.has_twin());
}

#[test]
fn free_leases_are_shared_and_none_is_left_over() {
    let mut table = Table::new();
    for (n, owner) in [Some("a"), Some("b"), None, None, None, None].into_iter().enumerate() {
        table.put(&format!("s{n}"), owner, 1);
    }
    table.observe(0);
    let took: Vec<bool> = (2..6)
        .map(|n| {
            let lease = table.leases[&key(&format!("s{n}"))].clone();
            table.sight.may_take(&lease, table.start)
        })
        .collect();
    assert_eq!(took, [true, true, false, false], "two of six for each of three");
    // Nobody else took them.
    table.change("s0", |lease| lease.counter += 1);
    table.put("s2", Some("me"), 2);
    table.put("s3", Some("me"), 2);
    assert!(!table.may_take("s4", 1_000));
    assert!(table.may_take("s4", 2_500));
}

#[test]
fn what_waits_for_its_parent_or_is_not_followed_is_nobodys_share() {
    let mut table = Table::new();
    table.put("parent", Some("a"), 1);
    table.put("child", None, 0);
    table.change("child", |lease| lease.parents = BTreeSet::from(["parent".into()]));
    let foreign = Lease::new(LeaseKey::parse("1:r$1$other$l:1:s").unwrap());
    table.leases.insert(foreign.key.clone(), foreign);
    table.observe(0);
    assert_eq!(table.sight.share().leases, 1);
    table.change("parent", |lease| lease.checkpoint = Checkpoint::ShardEnd);
    table.observe(1);
    let share = table.sight.share();
    assert_eq!((share.leases, share.free), (1, 1));
}
