use super::*;

fn key(n: usize) -> LeaseKey {
    LeaseKey::parse(&format!("1:r$1$t$l:1:shardId-{n:04}")).unwrap()
}

fn worker(n: usize) -> OwnerId {
    OwnerId::named(&format!("w{n}"))
}

fn held(counts: &[usize]) -> Vec<InPlay> {
    let owners = counts.iter().enumerate().flat_map(|(n, count)| std::iter::repeat_n(worker(n), *count));
    owners.enumerate().map(|(n, owner)| InPlay { key: key(n), stand: Stand::Held(owner) }).collect()
}

fn of(in_play: &[InPlay], n: usize) -> usize {
    in_play.iter().filter(|lease| matches!(&lease.stand, Stand::Held(owner) if *owner == worker(n))).count()
}

#[test]
fn nobody_asks_where_the_shares_differ_by_one() {
    for counts in [&[2, 2, 2][..], &[3, 2, 2], &[1, 0], &[0, 0, 1], &[5]] {
        for n in 0..counts.len() {
            let asked = to_ask_for(&held(counts), &worker(n), &mut fastrand::Rng::with_seed(1));
            assert_eq!(asked, [], "{counts:?} as {n}");
        }
    }
}

#[test]
fn who_has_none_asks_for_one_and_who_lacks_many_for_half() {
    let asked = |counts: &[usize], n| to_ask_for(&held(counts), &worker(n), &mut fastrand::Rng::with_seed(1)).len();
    assert_eq!(asked(&[100, 0], 1), 1);
    assert_eq!(asked(&[99, 1], 1), 25);
    assert_eq!(asked(&[4, 2, 2], 1), 1, "above the ceiling");
    assert_eq!(asked(&[99, 1], 0), 0);
}

#[test]
fn free_leases_come_before_those_of_others() {
    let mut in_play = held(&[4, 1]);
    in_play.push(InPlay { key: key(9), stand: Stand::Free });
    assert_eq!(to_ask_for(&in_play, &worker(1), &mut fastrand::Rng::with_seed(1)), []);
    let share = Share::of(&in_play, &worker(1));
    assert_eq!((share.leases, share.workers, share.mine, share.free), (6, 2, 1, 1));
    assert!(share.has_room() && !Share::of(&in_play, &worker(0)).has_room());
}

#[test]
fn a_request_counts_for_who_made_it_and_is_not_repeated() {
    let mut in_play = held(&[4]);
    in_play[0].stand = Stand::Asked { by: worker(1), holder: worker(0) };
    assert_eq!(Share::of(&in_play, &worker(1)).mine, 1);
    for seed in 0..20 {
        let asked = to_ask_for(&in_play, &worker(2), &mut fastrand::Rng::with_seed(seed));
        assert!(asked.len() == 1 && asked[0] != in_play[0].key, "{asked:?}");
    }
    in_play[1].stand = Stand::Asked { by: worker(1), holder: worker(0) };
    assert_eq!(to_ask_for(&in_play, &worker(1), &mut fastrand::Rng::with_seed(1)), [], "two of four");
}

/// Workers look in random order, some at what the others saw a while ago; requests are granted after a while.
#[test]
fn any_number_of_workers_comes_to_equal_shares_and_then_rests() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (workers, leases) = (random.usize(1..9), random.usize(0..60));
        let mut in_play: Vec<InPlay> = (0..leases)
            .map(|n| InPlay { key: key(n), stand: Stand::Held(worker(random.usize(0..1 + workers / 2))) })
            .collect();
        let mut seen = vec![in_play.clone(); workers];
        let (mut quiet, mut moves, mut rounds) = (0, 0, 0);
        while quiet < workers * 100 {
            rounds += 1;
            assert!(rounds < 100_000, "seed {seed}: it never comes to rest");
            let n = random.usize(0..workers);
            if random.bool() {
                seen[n].clone_from(&in_play);
            }
            let asked = to_ask_for(&seen[n], &worker(n), &mut random);
            quiet += 1;
            for key in asked {
                let lease = in_play.iter_mut().find(|lease| lease.key == key).unwrap();
                let before = seen[n].iter().find(|lease| lease.key == key).unwrap();
                // The condition of the write.
                if let (Stand::Held(holder), true) = (&lease.stand, lease.stand == before.stand) {
                    lease.stand = Stand::Asked { by: worker(n), holder: holder.clone() };
                    (moves, quiet) = (moves + 1, 0);
                }
            }
            for lease in &mut in_play {
                if let Stand::Asked { by, .. } = &lease.stand
                    && random.u8(0..4) == 0
                {
                    lease.stand = Stand::Held(by.clone());
                    quiet = 0;
                }
            }
        }
        let counts: Vec<usize> = (0..workers).map(|n| of(&in_play, n)).collect();
        let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
        assert!(most - least <= 1, "seed {seed}: {counts:?}");
        assert!(moves <= leases * 2, "seed {seed}: {moves} moves of {leases} leases");
    }
}
