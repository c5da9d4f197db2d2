//! What befalls a worker.

use std::time::Duration;

use ringtide_servers::{Direction, Flow};

use crate::world::{LEASE_TIMEOUT, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is told to stop.
    Terminated,
    /// `kill -9`.
    Killed,
    /// SIGSTOP, and SIGCONT after its leases were taken.
    Stopped,
    /// Its connections to ring shards are cut.
    CutFromValkey,
    /// Its connections to DynamoDB are cut, or swallow what it sends, until its leases were taken.
    CutFromDynamoDb,
}

impl Fault {
    pub(crate) const ALL: [Self; 5] =
        [Self::Terminated, Self::Killed, Self::Stopped, Self::CutFromValkey, Self::CutFromDynamoDb];

    /// Strikes, and undoes it. Returns how long it took until all leases were somebody else's, where they are to be.
    pub(crate) async fn strike(self, world: &mut World, victim: usize, random: &mut fastrand::Rng) -> Option<Duration> {
        match self {
            Self::Terminated => {
                let process = world.sites[victim].process.take().unwrap();
                process.signal("TERM");
                let took = world.until_taken_over(&process.owner).await;
                assert_eq!(process.ended().await.code(), Some(0));
                world.start(victim);
                Some(took)
            }
            Self::Killed => {
                let process = world.sites[victim].process.take().unwrap();
                process.signal("KILL");
                let took = world.until_taken_over(&process.owner).await;
                drop(process);
                world.start(victim);
                Some(took)
            }
            Self::Stopped => {
                let process = world.sites[victim].process.as_ref().unwrap();
                process.signal("STOP");
                let took = world.until_taken_over(&process.owner).await;
                tokio::time::sleep(LEASE_TIMEOUT.mul_f64(random.f64())).await;
                process.signal("CONT");
                Some(took)
            }
            Self::CutFromValkey => {
                let (all, one) = (random.bool(), random.usize(0..world.sites[victim].valkey.len()));
                let site = &world.sites[victim];
                let cut: Vec<_> = if all { site.valkey.iter().collect() } else { vec![&site.valkey[one]] };
                for proxy in &cut {
                    proxy.refuse(true);
                    proxy.cut();
                }
                tokio::time::sleep(LEASE_TIMEOUT.mul_f64(0.5 + random.f64())).await;
                for proxy in &cut {
                    proxy.heal();
                }
                None
            }
            Self::CutFromDynamoDb => {
                let site = &world.sites[victim];
                let owner = site.process.as_ref().unwrap().owner.clone();
                if random.bool() {
                    site.dynamodb.refuse(true);
                    site.dynamodb.cut();
                } else {
                    site.dynamodb.set(Direction::ToServer, Flow::BlackHole);
                }
                let took = world.until_taken_over(&owner).await;
                tokio::time::sleep(LEASE_TIMEOUT.mul_f64(random.f64())).await;
                world.sites[victim].dynamodb.heal();
                Some(took)
            }
        }
    }
}
