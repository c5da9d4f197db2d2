//! The circuits of a cluster: one for each master, for as long as it is one.

use std::sync::Arc;

use arc_swap::ArcSwap;
use ringtide_core::key::CacheKey;
use ringtide_core::valkey::Master;

use super::{Circuit, Common};

pub(crate) struct Masters {
    common: Arc<Common>,
    known: ArcSwap<Known>,
}

/// The masters at some moment, and the circuit of each.
#[derive(Clone, Default)]
struct Known {
    masters: Arc<[Arc<str>]>,
    circuits: Box<[Arc<Circuit>]>,
}

impl Masters {
    pub(super) fn new(common: Arc<Common>) -> Self {
        Self { common, known: ArcSwap::default() }
    }

    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    /// The circuit of the master that serves a key now.
    pub(super) fn of(&self, key: &CacheKey) -> Option<Arc<Circuit>> {
        self.circuit(&self.common.shard.master_of(key)?)
    }

    fn circuit(&self, Master { all, at }: &Master) -> Option<Arc<Circuit>> {
        if !Arc::ptr_eq(&self.known.load().masters, all) {
            self.known.rcu(
                |known| if Arc::ptr_eq(&known.masters, all) { Known::clone(known) } else { self.after(known, all) },
            );
        }
        let known = self.known.load();
        // Others may have come in between; this call is about one of those before.
        if Arc::ptr_eq(&known.masters, all) { known.circuits.get(*at).cloned() } else { None }
    }

    /// The circuits of other masters: those that stay keep theirs.
    fn after(&self, known: &Known, all: &Arc<[Arc<str>]>) -> Known {
        let circuit = |master: &Arc<str>| {
            let before = known.masters.iter().position(|known| known == master);
            let kept = before.and_then(|at| known.circuits.get(at)).cloned();
            kept.unwrap_or_else(|| Circuit::new(self.common.clone(), Some(master.clone())))
        };
        Known { masters: all.clone(), circuits: all.iter().map(circuit).collect() }
    }
}

#[cfg(test)]
mod tests {
    use ringtide_core::config::{Reader, Valkey};
    use ringtide_core::ring::{ShardName, ShardSpec};
    use ringtide_core::valkey::{Shard, ShardError};

    use super::super::Circuits;
    use super::*;

    fn masters() -> Masters {
        let spec = ShardSpec { name: ShardName::new("a"), address: "127.0.0.1:1".to_owned(), weight: 1 };
        let shard = Shard::connect(&spec, &Valkey { cluster: true, ..Valkey::default() }).unwrap();
        match Circuits::new(&shard, &Reader::default()) {
            Circuits::Masters(masters) => masters,
            Circuits::One(_) => panic!("a cluster has masters"),
        }
    }

    fn all(names: &[&str]) -> Arc<[Arc<str>]> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[tokio::test]
    async fn a_master_keeps_its_circuit_when_others_come_and_go() {
        let masters = masters();
        let at = |all: &Arc<[Arc<str>]>, at| masters.circuit(&Master { all: all.clone(), at }).unwrap();
        let (before, after) = (all(&["h:1", "h:2"]), all(&["h:2", "h:3"]));
        let (one, two) = (at(&before, 0), at(&before, 1));
        assert!(!Arc::ptr_eq(&one, &two) && Arc::ptr_eq(&two, &at(&before, 1)));
        let name = ShardName::new("a");
        for _ in 0..10 {
            one.failed(&ShardError::TimedOut { shard: name.clone() });
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let key = CacheKey::new("k").unwrap();
        let refused = one.pass(&key).unwrap_err().to_string();
        assert!(refused.contains("its master h:1 failed"), "{refused}");
        assert!(two.pass(&key).is_ok());
        assert_eq!(*masters.common.states.lock().unwrap(), [1, 0, 1]);
        assert!(Arc::ptr_eq(&two, &at(&after, 0)));
        drop(one);
        assert_eq!(*masters.common.states.lock().unwrap(), [2, 0, 0], "who has left is not shown");
    }
}
