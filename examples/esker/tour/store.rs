//! The big database of the tour, with what must be in it.

use esker::Db;
use esker::Durability;
use esker::Snapshot;
use esker::WriteBatch;

use crate::data;
use crate::data::Random;
use crate::failure::Result;
use crate::latency::Latency;
use crate::progress::Bar;
use crate::text;

/// Marks a record as deleted.
const DELETED: u8 = 0x80;
const KEY_LEN: u64 = 16;
/// Entries per timed scan.
pub(crate) const SCAN_LEN: usize = 100;

/// A database of `generations.len()` records, all of whose contents follow from the seed and each
/// record's generation: how often it was written.
pub(crate) struct Store {
    pub(crate) db: Db,
    seed: u64,
    generations: Vec<u8>,
    durability: Durability,
}

/// How reads compare to what must be there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) right: u64,
    pub(crate) wrong: u64,
}

impl Tally {
    fn count(&mut self, right: bool) {
        if right {
            self.right += 1;
        } else {
            self.wrong += 1;
        }
    }

    pub(crate) fn to_text(&self, noun: &str) -> String {
        format!(
            "{}, {} wrong",
            text::plural(self.right + self.wrong, noun),
            text::count(self.wrong)
        )
    }
}

impl Store {
    pub(crate) fn new(db: Db, seed: u64, durability: Durability) -> Store {
        Store { db, seed, generations: Vec::new(), durability }
    }

    fn put(&self, index: u64, generation: u8, value: &mut Vec<u8>) -> Result<()> {
        data::value(self.seed, index, generation, value);
        self.db.put(data::key(index), value)?;
        Ok(())
    }

    /// Writes records 0 to `records` in random order, each a write of its own.
    pub(crate) fn load(&mut self, records: u64, bar: &mut Bar, puts: &mut Latency) -> Result<()> {
        let mut value = Vec::new();
        self.generations = vec![1; records as usize];
        for index in data::shuffled(records, self.seed) {
            data::value(self.seed, index, 1, &mut value);
            let key = data::key(index);
            puts.time(|| self.db.put(key, &value))?;
            bar.tick();
        }
        Ok(())
    }

    /// Picks each record with the chance `percent`/100.
    fn picks(&self, percent: u64, salt: u64) -> impl Iterator<Item = u64> + use<> {
        let seed = self.seed ^ data::mix(salt);
        let len = self.generations.len() as u64;
        data::shuffled(len, seed)
            .filter(move |index| data::mix(seed ^ data::mix(*index)) % 100 < percent)
    }

    /// Overwrites a part of the records in random order; returns how many.
    pub(crate) fn overwrite(&mut self, percent: u64, bar: &mut Bar) -> Result<u64> {
        let mut value = Vec::new();
        let mut overwritten = 0;
        for index in self.picks(percent, 1) {
            let generation = self.generations[index as usize] + 1;
            self.put(index, generation, &mut value)?;
            self.generations[index as usize] = generation;
            overwritten += 1;
            bar.tick();
        }
        Ok(overwritten)
    }

    /// Deletes a part of the records, in batches; returns how many.
    pub(crate) fn delete(&mut self, percent: u64, bar: &mut Bar) -> Result<u64> {
        let mut deleted = 0;
        let picks: Vec<u64> = self.picks(percent, 2).collect();
        for chunk in picks.chunks(100) {
            let mut batch = WriteBatch::new();
            for &index in chunk {
                batch.delete(&self.db, data::key(index));
                self.generations[index as usize] |= DELETED;
                bar.tick();
            }
            batch.durability(self.durability);
            self.db.write(batch)?;
            deleted += chunk.len() as u64;
        }
        Ok(deleted)
    }

    fn live(&self, from: u64, to: u64) -> impl DoubleEndedIterator<Item = u64> {
        (from..to).filter(|index| self.generations[*index as usize] & DELETED == 0)
    }

    /// Is this entry record `index` as it must be?
    fn is_right(
        &self,
        index: u64,
        entry: &(esker::Key, esker::Value),
        value: &mut Vec<u8>,
    ) -> bool {
        data::value(self.seed, index, self.generations[index as usize], value);
        entry.0 == data::key(index) && entry.1 == *value
    }

    /// Scans the records `from..to` forwards, backwards, or from both ends to the middle.
    pub(crate) fn scan(&self, from: u64, to: u64, way: Way, bar: &mut Bar) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut expected = self.live(from, to);
        let mut entries = self.db.range(data::key(from)..data::key(to));
        let mut value = Vec::new();
        let mut forwards = way != Way::Backwards;
        loop {
            let (index, entry) = if forwards {
                (expected.next(), entries.next())
            } else {
                (expected.next_back(), entries.next_back())
            };
            if way == Way::FromBothEnds {
                forwards = !forwards;
            }
            bar.tick();
            match (index, entry.transpose()?) {
                (Some(index), Some(entry)) => {
                    tally.count(self.is_right(index, &entry, &mut value));
                }
                (None, None) => return Ok(tally),
                // One has more than the other.
                _ => {
                    tally.count(false);
                    return Ok(tally);
                }
            }
        }
    }

    /// Reads random records, there or deleted, and times it.
    pub(crate) fn random_reads(
        &self,
        reads: u64,
        bar: &mut Bar,
        gets: &mut Latency,
    ) -> Result<Tally> {
        let mut random = Random::new(self.seed ^ 3);
        let mut tally = Tally::default();
        let mut expected = Vec::new();
        for _ in 0..reads {
            let index = random.below(self.generations.len() as u64);
            let generation = self.generations[index as usize];
            let key = data::key(index);
            let value = gets.time(|| self.db.get(key))?;
            tally.count(if generation & DELETED == 0 {
                data::value(self.seed, index, generation, &mut expected);
                value.is_some_and(|value| value == expected)
            } else {
                value.is_none()
            });
            bar.tick();
        }
        Ok(tally)
    }

    /// Times scans of 100 entries from random places.
    pub(crate) fn random_scans(
        &self,
        scans: u64,
        bar: &mut Bar,
        times: &mut Latency,
    ) -> Result<Tally> {
        let mut random = Random::new(self.seed ^ 4);
        let len = self.generations.len() as u64;
        let mut tally = Tally::default();
        let mut value = Vec::new();
        for _ in 0..scans {
            let from = random.below(len);
            let key = data::key(from);
            let entries = times
                .time(|| self.db.range(key..).take(SCAN_LEN).collect::<esker::Result<Vec<_>>>())?;
            let mut expected = self.live(from, len).take(SCAN_LEN);
            let right = entries.iter().all(|entry| {
                expected.next().is_some_and(|index| self.is_right(index, entry, &mut value))
            });
            tally.count(right && expected.next().is_none());
            bar.tick();
        }
        Ok(tally)
    }

    /// Reads random records in a snapshot taken when each was in its first generation.
    pub(crate) fn reads_of(&self, snapshot: &Snapshot, reads: u64) -> Result<Tally> {
        let mut random = Random::new(self.seed ^ 5);
        let mut tally = Tally::default();
        let mut expected = Vec::new();
        for _ in 0..reads {
            let index = random.below(self.generations.len() as u64);
            data::value(self.seed, index, 1, &mut expected);
            let value = snapshot.get(data::key(index))?;
            tally.count(value.is_some_and(|value| value == expected));
        }
        Ok(tally)
    }

    /// Number of records, and bytes of their keys and values.
    pub(crate) fn live_size(&self) -> (u64, u64) {
        let mut value = Vec::new();
        let (mut records, mut bytes) = (0, 0);
        for index in self.live(0, self.generations.len() as u64) {
            data::value(self.seed, index, self.generations[index as usize], &mut value);
            records += 1;
            bytes += KEY_LEN + value.len() as u64;
        }
        (records, bytes)
    }

    /// Replaces the handle, after the database was closed and opened again.
    pub(crate) fn reopened(self, db: Db) -> Store {
        Store { db, ..self }
    }

    pub(crate) fn len(&self) -> u64 {
        self.generations.len() as u64
    }
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Forwards,
    Backwards,
    FromBothEnds,
}
