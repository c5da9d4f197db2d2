//! What every lease store has to do, as one test for all of them.

use std::collections::BTreeSet;

use super::{Checkpoint, Lease, LeaseError, LeaseKey, LeaseStore, OwnerId};

async fn find(store: &dyn LeaseStore, key: &LeaseKey) -> Lease {
    store.list().await.unwrap().into_iter().find(|lease| lease.key == *key).unwrap()
}

pub(crate) async fn check(store: &dyn LeaseStore) {
    store.prepare().await.unwrap();
    store.prepare().await.unwrap();
    let key = LeaseKey::parse("1:r$1$t$2026-01-02T03_04_05.678:1:s").unwrap();
    let (me, other) = (OwnerId::named("me"), OwnerId::named("other"));
    let lost = Err(LeaseError::Lost(key.clone()));
    let new = Lease { parents: BTreeSet::from(["parent".into()]), ..Lease::new(key.clone()) };
    assert_eq!(store.create(&new).await, Ok(true));
    assert_eq!(store.create(&Lease { checkpoint: Checkpoint::ShardEnd, ..new.clone() }).await, Ok(false));
    let read = find(store, &key).await;
    assert_eq!(read, new);

    // One of two takers wins.
    let mut mine = store.take(&read, &me).await.unwrap();
    assert!(matches!(store.take(&read, &other).await, Err(LeaseError::Lost(_))));
    store.renew(&mut mine).await.unwrap();
    let at = Checkpoint::At("1234567890123456789012345678901234567890".parse().unwrap());
    store.checkpoint(&mut mine, &at, &BTreeSet::new()).await.unwrap();
    let read = find(store, &key).await;
    assert_eq!((read.checkpoint, read.counter, read.owner.as_ref()), (at, 3, Some(&me)));
    assert_eq!((read.switches, &read.parents), (0, &new.parents));

    // Another owner takes it: the old one can write nothing any more.
    let mut theirs = store.take(&read, &other).await.unwrap();
    assert_eq!(theirs.taken_at(), at);
    assert_eq!(find(store, &key).await.switches, 1);
    assert_eq!(store.checkpoint(&mut mine, &Checkpoint::ShardEnd, &BTreeSet::new()).await, lost);
    assert_eq!(store.renew(&mut mine).await, lost);
    assert_eq!(store.release(mine).await, lost);
    assert_eq!(find(store, &key).await.checkpoint, at);

    // A third one asks for it: whoever holds it goes on until it gives the lease up, and the asker has it then.
    let third = OwnerId::named("third");
    assert_eq!(store.ask(&read, &third).await, Ok(false), "it has another owner by now");
    let before = find(store, &key).await;
    assert_eq!(store.ask(&before, &third).await, Ok(true));
    assert_eq!(store.ask(&before, &me).await, Ok(false), "it is asked for already");
    let asked = find(store, &key).await;
    assert_eq!((asked.owner.as_ref(), asked.leaving.as_ref()), (Some(&third), Some(&other)));
    assert_eq!((asked.holder(), asked.counter), (Some(&other), before.counter));
    assert_eq!(store.ask(&asked, &me).await, Ok(false), "it is asked for already");
    assert!(matches!(store.take(&before, &me).await, Err(LeaseError::Lost(_))), "it is not as it was read");
    // A request is taken back by whoever made it, and nobody else.
    assert_eq!(store.withdraw(&asked, &me).await, Ok(false), "it is not this one's request");
    assert_eq!(store.withdraw(&before, &third).await, Ok(false), "nobody had asked for it when it was read");
    assert_eq!(store.withdraw(&asked, &third).await, Ok(true));
    assert_eq!(find(store, &key).await, before);
    assert_eq!(store.withdraw(&asked, &third).await, Ok(false), "it is taken back already");
    assert_eq!(store.ask(&before, &third).await, Ok(true));
    assert!(!theirs.trace().asked.is_cancelled());
    store.renew(&mut theirs).await.unwrap();
    assert!(theirs.trace().asked.is_cancelled(), "the holder learns of it by its next write");
    store.checkpoint(&mut theirs, &at, &BTreeSet::new()).await.unwrap();
    store.release(theirs).await.unwrap();
    let handed = find(store, &key).await;
    assert_eq!((handed.owner.as_ref(), handed.leaving.as_ref()), (Some(&third), None));

    // By force: the holder does not give it up.
    let mut slow = store.take(&handed, &third).await.unwrap();
    assert_eq!(store.ask(&find(store, &key).await, &me).await, Ok(true));
    let mut theirs = store.take(&find(store, &key).await, &me).await.unwrap();
    assert_eq!(store.renew(&mut slow).await, lost);
    assert_eq!(store.checkpoint(&mut slow, &Checkpoint::ShardEnd, &BTreeSet::new()).await, lost);
    assert_eq!(store.release(slow).await, lost);
    let taken = find(store, &key).await;
    assert_eq!((taken.owner.as_ref(), taken.leaving.as_ref()), (Some(&me), None));

    // A holder that has learned of a request frees its lease, though the request was taken back meanwhile.
    assert_eq!(store.ask(&taken, &third).await, Ok(true));
    store.renew(&mut theirs).await.unwrap();
    assert_eq!(store.withdraw(&find(store, &key).await, &third).await, Ok(true));
    store.renew(&mut theirs).await.unwrap();
    store.release(theirs).await.unwrap();
    let freed = find(store, &key).await;
    assert_eq!((freed.owner.as_ref(), freed.leaving.as_ref()), (None, None));
    let mut theirs = store.take(&freed, &me).await.unwrap();

    let children = BTreeSet::from(["x".into(), "y".into()]);
    store.checkpoint(&mut theirs, &Checkpoint::ShardEnd, &children).await.unwrap();
    store.release(theirs).await.unwrap();
    let ended = find(store, &key).await;
    assert_eq!((ended.checkpoint, ended.owner.as_ref(), &ended.children), (Checkpoint::ShardEnd, None, &children));
    assert_eq!(store.ask(&ended, &third).await, Ok(false), "it has ended");
    assert_eq!(store.delete(&read).await, lost);
    store.delete(&ended).await.unwrap();
    assert_eq!(store.list().await.unwrap(), []);
}
