//! Values that all readers of a process share.

use std::sync::Arc;

use ringtide::{LocalTier, ReadOptions, Space};
use std::time::Duration;

use super::super::support::{Server, until};
use super::{MINUTE, Tier, key, run};

#[tokio::test]
async fn a_value_is_decoded_once_for_all_who_find_it_in_memory() {
    let server = Server::start().await;
    let mut tier = Tier::new(&server, LocalTier::Tracked(MINUTE)).await;
    tier.put(1, 10).await;
    assert_eq!(tier.read(1).await, 10);
    let rendered = tier.space.key(1).unwrap();
    let none = || async { Ok::<_, std::io::Error>(None) };
    let first = tier.space.get_or_load_shared(1, none).await.unwrap().unwrap();
    let again = tier.space.get_or_load_shared(&rendered, none).await.unwrap().unwrap();
    assert_eq!(*first, 10);
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(tier.hits(), 2);
    assert_eq!(tier.read(1).await, 10, "owned values are decoded from the same copy");
    assert_eq!(tier.hits(), 3);

    tier.put(1, 11).await;
    until("the new value", async || {
        tier.space.get_or_load_shared(&rendered, none).await.unwrap().as_deref() == Some(&11)
    })
    .await;
    assert_eq!(*first, 10, "what was handed out stays as it is");
}

#[tokio::test]
async fn an_entry_asked_for_as_another_type_is_never_taken_for_the_first() {
    let server = Server::start().await;
    let mut tier = Tier::new(&server, LocalTier::Bounded(MINUTE)).await;
    tier.put(1, 10).await;
    assert_eq!(tier.read(1).await, 10);
    let signed: Space<i128> = tier.cache.space("item").unwrap();
    let words: Space<String> = tier.cache.space("item").unwrap();
    for _ in 0..3 {
        let number = tier.space.get_or_load_shared(1, || async { Ok::<_, std::io::Error>(None) }).await.unwrap();
        assert_eq!(number.as_deref(), Some(&10));
        let other = signed.get_or_load_shared(1, || async { Ok::<_, std::io::Error>(None) }).await.unwrap();
        assert_eq!(other.as_deref(), Some(&10));
    }
    // What cannot be read as the type asked for is loaded, as it would be without the memory.
    let word = words.get_or_load_shared(1, || async { Ok::<_, std::io::Error>(Some("ten".to_owned())) });
    assert_eq!(word.await.unwrap().as_deref().map(String::as_str), Some("ten"));
}

#[tokio::test]
async fn absences_deadlines_and_misses_are_those_of_owned_reads() {
    let server = Server::start().await;
    let mut tier = Tier::new(&server, LocalTier::Bounded(MINUTE)).await;
    let hurried = tier.space.with(ReadOptions::new().timeout(Duration::from_millis(50)));
    let late = hurried.get_or_load_shared(1, || async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok::<_, std::io::Error>(Some(1))
    });
    assert!(matches!(late.await, Err(ringtide::Error::DeadlineExceeded { .. })));

    let none = || async { Ok::<_, std::io::Error>(None) };
    assert_eq!(tier.space.get_or_load_shared(2, none).await.unwrap(), None);
    until("the fill", async || server.exists(&key(2)).await).await;
    assert_eq!(tier.space.get_or_load_shared(2, none).await.unwrap(), None);
    let hits = tier.hits();
    run(&mut tier.writer, &["UNLINK", &key(2)]).await;
    assert_eq!(tier.space.get_or_load_shared(2, || async { Ok::<_, std::io::Error>(Some(3)) }).await.unwrap(), None);
    assert_eq!(tier.hits(), hits + 1, "that the item does not exist is kept too");
}
