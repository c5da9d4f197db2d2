//! What befalls a worker, or all of them.

use std::time::Duration;

use ringtide_servers::{Direction, Flow, Proxy};

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
    /// All workers are cut from DynamoDB: nobody can take a lease.
    DynamoDbAway,
    /// All workers are cut from all ring shards; readers are not, and go on reading what nobody invalidates.
    ValkeyAway,
    /// A ring shard is stopped (SIGSTOP), for readers, too.
    RingShardStopped,
}

/// How it went.
pub(crate) struct Struck {
    /// How long something was down.
    pub(crate) down: Duration,
    /// How long it took until all leases were somebody else's, where they are to be.
    pub(crate) took: Option<Duration>,
}

/// How long outages last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outages {
    /// Whether some of them last for minutes.
    pub(crate) minutes: bool,
    /// All of them last for so long, where that is asked for.
    pub(crate) asked: Option<Duration>,
}

impl Outages {
    /// Shorter than the lease time-out or longer, or minutes.
    fn draw(self, random: &mut fastrand::Rng) -> Duration {
        if let Some(asked) = self.asked {
            return asked;
        }
        match random.u8(..3) {
            0 if self.minutes => Duration::from_secs(random.u64(60..=150)),
            0 | 1 => LEASE_TIMEOUT.mul_f64(1.2 + 0.8 * random.f64()),
            _ => LEASE_TIMEOUT.mul_f64(0.2 + 0.6 * random.f64()),
        }
    }
}

impl Fault {
    pub(crate) const ALL: [Self; 8] = [
        Self::Terminated,
        Self::Killed,
        Self::Stopped,
        Self::CutFromValkey,
        Self::CutFromDynamoDb,
        Self::DynamoDbAway,
        Self::ValkeyAway,
        Self::RingShardStopped,
    ];

    /// Those that a list of names asks for, separated by commas.
    pub(crate) fn named(names: &str) -> Vec<Self> {
        let named = |name: &str| Self::ALL.into_iter().find(|fault| format!("{fault:?}") == name.trim());
        names
            .split(',')
            .map(|name| named(name).unwrap_or_else(|| panic!("{name} is none of {:?}", Self::ALL)))
            .collect()
    }

    /// Strikes, and undoes it.
    pub(crate) async fn strike(
        self,
        world: &mut World,
        victim: usize,
        outages: Outages,
        random: &mut fastrand::Rng,
    ) -> Struck {
        match self {
            Self::Terminated => {
                let process = world.sites[victim].process.take().unwrap();
                process.signal("TERM");
                let took = world.until_taken_over(&process.owner).await;
                assert_eq!(process.ended().await.code(), Some(0));
                world.start(victim);
                Struck { down: took, took: Some(took) }
            }
            Self::Killed => {
                let process = world.sites[victim].process.take().unwrap();
                process.signal("KILL");
                let took = world.until_taken_over(&process.owner).await;
                drop(process);
                world.start(victim);
                Struck { down: took, took: Some(took) }
            }
            Self::Stopped => {
                let process = world.sites[victim].process.as_ref().unwrap();
                process.signal("STOP");
                let took = world.until_taken_over(&process.owner).await;
                let more = rest(outages.draw(random)).await;
                process.signal("CONT");
                Struck { down: took + more, took: Some(took) }
            }
            Self::CutFromValkey => {
                let (all, one) = (random.bool(), random.usize(0..world.sites[victim].valkey.len()));
                let site = &world.sites[victim];
                let cut: Vec<_> = if all { site.valkey.iter().collect() } else { vec![&site.valkey[one]] };
                cut.iter().for_each(|proxy| cut_off(proxy, random));
                let down = rest(outages.draw(random)).await;
                cut.iter().for_each(|proxy| proxy.heal());
                Struck { down, took: None }
            }
            Self::CutFromDynamoDb => {
                let site = &world.sites[victim];
                let owner = site.process.as_ref().unwrap().owner.clone();
                cut_off(&site.dynamodb, random);
                let took = world.until_taken_over(&owner).await;
                let more = rest(outages.draw(random)).await;
                site.dynamodb.heal();
                Struck { down: took + more, took: Some(took) }
            }
            Self::DynamoDbAway => {
                world.sites.iter().for_each(|site| cut_off(&site.dynamodb, random));
                let down = rest(outages.draw(random)).await;
                world.sites.iter().for_each(|site| site.dynamodb.heal());
                Struck { down, took: None }
            }
            Self::ValkeyAway => {
                let proxies: Vec<_> = world.sites.iter().flat_map(|site| &site.valkey).collect();
                proxies.iter().for_each(|proxy| cut_off(proxy, random));
                let down = rest(outages.draw(random)).await;
                proxies.iter().for_each(|proxy| proxy.heal());
                Struck { down, took: None }
            }
            Self::RingShardStopped => {
                let server = random.choice(&world.servers).unwrap();
                server.freeze().unwrap();
                let down = rest(outages.draw(random)).await;
                server.thaw().unwrap();
                Struck { down, took: None }
            }
        }
    }
}

async fn rest(time: Duration) -> Duration {
    tokio::time::sleep(time).await;
    time
}

/// Cuts what is connected and refuses more, or swallows what is sent.
fn cut_off(proxy: &Proxy, random: &mut fastrand::Rng) {
    if random.bool() {
        proxy.refuse(true);
        proxy.cut();
    } else {
        proxy.set(Direction::ToServer, Flow::BlackHole);
    }
}
