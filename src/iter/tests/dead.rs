//! Dead spans against a model: writers that look at them early or late, readers of any instant.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use proptest::prelude::*;

use crate::base::seqno::SeqNo;
use crate::base::value::ValueKind;
use crate::iter::DeadSpans;
use crate::iter::Merging;
use crate::iter::ReadAt;
use crate::iter::Visible;
use crate::iter::tests::sources::*;

#[derive(Clone, Debug)]
enum Act {
    /// So many keys in a row are put, or deleted.
    Put(u16, u16),
    Delete(u16, u16),
    /// A put gets its number, and looks at the spans now or when it becomes visible.
    Begin(u16, bool),
    /// All that was begun becomes visible.
    Publish,
    /// The keyspace gets a new view, as for an iterator.
    Answer,
    /// Reads everything so many numbers ago, forwards or backwards.
    Read(u64, bool),
    /// What a consumer reads.
    First,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (0..300_u16, 1..200_u16).prop_map(|(from, n)| Act::Put(from, n)),
        4 => (0..300_u16, 1..300_u16).prop_map(|(from, n)| Act::Delete(from, n)),
        3 => (0..300_u16, any::<bool>()).prop_map(|(key, early)| Act::Begin(key, early)),
        2 => Just(Act::Publish),
        6 => Just(Act::Answer),
        2 => Just(Act::First),
        6 => (prop_oneof![4 => Just(0), 1 => 0..400_u64], any::<bool>())
            .prop_map(|(ago, backward)| Act::Read(ago, backward)),
    ]
}

/// A keyspace whose writers do what those of the engine do.
#[derive(Default)]
struct World {
    entries: Vec<Entry>,
    dead: Arc<DeadSpans>,
    last: u64,
    visible: u64,
    /// Keys of writes that are not visible yet and have not looked at the spans.
    late: Vec<[u8; 2]>,
}

impl World {
    fn write(&mut self, key: [u8; 2], kind: ValueKind) {
        self.last += 1;
        self.entries.push(entry(&key, self.last, kind, &self.last.to_be_bytes()));
    }

    fn publish(&mut self) {
        for key in self.late.drain(..) {
            self.dead.note_write(&key);
        }
        self.visible = self.last;
    }

    fn run(&mut self, from: u16, count: u16, kind: ValueKind) {
        for n in from..from + count {
            self.write(n.to_be_bytes(), kind);
            if kind == ValueKind::Put {
                self.late.push(n.to_be_bytes());
            }
        }
        self.publish();
    }

    fn answer(&self) {
        if let Some(id) = self.dead.asking() {
            self.dead.answer(id, SeqNo::new(self.last));
        }
    }

    fn open(&self, seqno: u64, fuse: &Fuse) -> Visible<Merging<VecIter>> {
        let mut parts = [const { Vec::new() }; 2];
        for (n, entry) in self.entries.iter().enumerate() {
            parts[n / 7 % 2].push(entry.clone());
        }
        let sources = parts.map(|part| VecIter::new(part, fuse.clone()));
        let dead = Some(self.dead.clone());
        let (seqno, first_expiry) = (SeqNo::new(seqno), None);
        let at = ReadAt { seqno, now_ms: 0, first_expiry, fold: None, dead, blobs: None };
        Visible::new(Merging::new(sources.into()), at, Bound::Unbounded, Bound::Unbounded)
    }

    fn model(&self, seqno: u64) -> Vec<Vec<u8>> {
        let mut map = BTreeMap::new();
        for (key, _) in self.entries.iter().filter(|(key, _)| key.trailer.seqno().get() <= seqno) {
            map.insert(key.user.clone(), key.trailer.kind() == Some(ValueKind::Put));
        }
        map.into_iter().filter(|(_, lives)| *lives).map(|(key, _)| key).collect()
    }

    fn read(&self, seqno: u64, backward: bool) -> Vec<Vec<u8>> {
        let mut iter = self.open(seqno, &Fuse::never());
        let mut found = Vec::new();
        if backward {
            iter.seek_to_last().unwrap();
        } else {
            iter.seek_to_first().unwrap();
        }
        while iter.valid() {
            found.push(iter.user_key().to_vec());
            if backward { iter.prev().unwrap() } else { iter.next().unwrap() }
        }
        if backward {
            found.reverse();
        }
        found
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Put(from, count) => self.run(from, count, ValueKind::Put),
            Act::Delete(from, count) => self.run(from, count, ValueKind::Delete),
            Act::Begin(key, early) => {
                let key = key.to_be_bytes();
                self.write(key, ValueKind::Put);
                if early {
                    self.dead.note_write(&key);
                } else {
                    self.late.push(key);
                }
            }
            Act::Publish => self.publish(),
            Act::Answer => self.answer(),
            Act::Read(ago, backward) => {
                let seqno = self.visible.saturating_sub(ago);
                assert_eq!(self.read(seqno, backward), self.model(seqno));
            }
            Act::First => {
                let mut iter = self.open(self.visible, &Fuse::never());
                iter.seek_to_first().unwrap();
                let first = iter.valid().then(|| iter.user_key().to_vec());
                assert_eq!(first.as_ref(), self.model(self.visible).first());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn readers_of_any_instant_miss_nothing(acts in prop::collection::vec(act(), 5..60)) {
        let mut world = World::default();
        acts.iter().for_each(|act| world.act(act));
        world.publish();
        for seqno in (0..=world.visible).rev().step_by(1 + world.visible as usize / 20) {
            prop_assert_eq!(world.read(seqno, false), world.model(seqno));
            prop_assert_eq!(world.read(seqno, true), world.model(seqno));
        }
    }
}

/// Operations on sources that it takes to find the first entry, or the last.
fn cost(world: &World, backward: bool) -> u64 {
    let fuse = Fuse::never();
    let mut iter = world.open(world.visible, &fuse);
    fuse.set(u64::MAX);
    if backward {
        iter.seek_to_last().unwrap();
    } else {
        iter.seek_to_first().unwrap();
    }
    assert!(iter.valid());
    fuse.spent()
}

#[test]
fn the_front_of_a_queue_costs_the_same_however_much_was_popped() {
    let mut world = World::default();
    world.run(0, 50, ValueKind::Put);
    for n in 50..1500 {
        world.run(n, 1, ValueKind::Put);
        world.answer();
        assert!(cost(&world, false) < 250, "at {n}: {}", cost(&world, false));
        world.run(n - 50, 1, ValueKind::Delete);
        if n % 100 == 0 {
            // Back into what is dead: taken first, and dead again.
            let again = n / 2;
            world.run(again, 1, ValueKind::Put);
            let mut iter = world.open(world.visible, &Fuse::never());
            iter.seek_to_first().unwrap();
            assert_eq!(iter.user_key(), again.to_be_bytes());
            world.run(again, 1, ValueKind::Delete);
        }
    }
}

#[test]
fn the_top_of_a_stack_costs_the_same_however_much_was_popped() {
    let mut world = World::default();
    world.run(0, 1000, ValueKind::Put);
    for n in (1..1000).rev() {
        world.run(n, 1, ValueKind::Delete);
        world.answer();
        assert!(cost(&world, true) < 250, "at {n}: {}", cost(&world, true));
    }
    // And from the front.
    world.run(0, 1, ValueKind::Delete);
    world.run(2000, 1, ValueKind::Put);
    assert!(cost(&world, false) < 250);
}

/// One who reads as of earlier steps over everything, and is told nothing wrong.
#[test]
fn what_was_proven_later_is_not_used_for_an_earlier_instant() {
    let mut world = World::default();
    world.run(0, 300, ValueKind::Put);
    let before = world.visible;
    world.run(0, 299, ValueKind::Delete);
    for _ in 0..3 {
        world.answer();
        assert_eq!(world.read(world.visible, false).len(), 1);
    }
    assert!(cost(&world, false) < 100);
    assert_eq!(world.read(before, false).len(), 300);
    assert_eq!(world.read(before, true).len(), 300);
}
