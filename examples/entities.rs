//! Entities with any number of attributes, indexed by each: `cargo run --release --example entities`.
//!
//! What is known of an entity is a set of facts: in this month, this attribute has this value (the
//! entity–attribute–value model). Attributes come into being when they are first used; an entity may
//! have thousands.
//!
//! ```text
//! facts    month entity attribute        -> value
//! index    month attribute value entity  -> nothing
//! names    name -> attribute
//! ```
//!
//! All numbers in keys are big-endian, so that their order is that of the bytes. A fact and its place in
//! the index are written by one transaction, together with the removal of the place that the value
//! before had: so the index is never out of step. The month comes first in every key, so that a month
//! goes as a range.
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Range;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use esker::Db;
use esker::Durability;
use esker::Isolation;
use esker::Iter;
use esker::Keyspace;
use esker::Options;
use esker::Update;
use esker::WriteBatch;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Facts that are asked for at once.
const LOOK_UP_BATCH: usize = 256;

struct Entities {
    db: Db,
    facts: Keyspace,
    index: Keyspace,
    names: Keyspace,
    /// What is known of `names`.
    known: BTreeMap<String, u32>,
}

/// The attribute has a value in this range.
struct Filter {
    attribute: u32,
    values: RangeInclusive<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    facts: u64,
    total: i64,
    most: i64,
}

/// In the order of the numbers, negative ones first.
fn ordered(value: i64) -> [u8; 8] {
    (value ^ i64::MIN).to_be_bytes()
}

fn from_ordered(bytes: &[u8]) -> i64 {
    bytes.try_into().map_or(0, i64::from_be_bytes) ^ i64::MIN
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_be_bytes)
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

fn fact_key(month: u32, entity: u64, attribute: u32) -> Vec<u8> {
    [&month.to_be_bytes()[..], &entity.to_be_bytes(), &attribute.to_be_bytes()].concat()
}

fn index_key(month: u32, attribute: u32, value: i64, entity: u64) -> Vec<u8> {
    let [month, attribute] = [month, attribute].map(u32::to_be_bytes);
    [&month[..], &attribute, &ordered(value), &entity.to_be_bytes()].concat()
}

impl Entities {
    fn open(path: &Path) -> Result<Entities> {
        let db = Options::new().durability(Durability::Os).open(path)?;
        let keyspace = |name| db.keyspace(name);
        let (facts, index, names) = (keyspace("facts")?, keyspace("index")?, keyspace("names")?);
        let known = names.prefix("/").map(|entry| {
            let (name, number) = entry?;
            Ok((String::from_utf8_lossy(&name[1..]).into_owned(), u32_of(&number)))
        });
        let known = known.collect::<esker::Result<_>>()?;
        Ok(Entities { db, facts, index, names, known })
    }

    /// The number of an attribute, which is made if there is none of this name.
    fn attribute(&mut self, name: &str) -> Result<u32> {
        if let Some(number) = self.known.get(name) {
            return Ok(*number);
        }
        let count = |value: Option<&[u8]>| value.map_or(0, u32_of);
        let next = self.names.fetch_update("count", |value| {
            Update::Put((count(value) + 1).to_be_bytes().to_vec())
        })?;
        let next = count(next.as_deref());
        // Somebody else may have made it meanwhile; then the number just taken stays unused.
        let made = self.names.put_if_absent(format!("/{name}"), next.to_be_bytes())?;
        let number = made.map_or(next, |made| u32_of(&made));
        self.known.insert(name.to_owned(), number);
        Ok(number)
    }

    /// Sets attributes of an entity in a month, all or none.
    fn set(&self, month: u32, entity: u64, values: &[(u32, i64)]) -> Result<()> {
        Ok(self.db.transact_with(Isolation::Snapshot, |txn| {
            for (attribute, value) in values {
                let key = fact_key(month, entity, *attribute);
                if let Some(old) = txn.get(&self.facts, &key)? {
                    let old = from_ordered(&old);
                    txn.delete(&self.index, index_key(month, *attribute, old, entity))?;
                }
                txn.put(&self.facts, key, ordered(*value))?;
                txn.put(&self.index, index_key(month, *attribute, *value, entity), [])?;
            }
            Ok(())
        })?)
    }

    /// All attributes of an entity in a month.
    fn entity(&self, month: u32, entity: u64) -> Result<BTreeMap<u32, i64>> {
        let prefix = [&month.to_be_bytes()[..], &entity.to_be_bytes()].concat();
        let facts = self.facts.prefix(prefix).map(|entry| {
            let (key, value) = entry?;
            Ok((u32_of(&key[12..]), from_ordered(&value)))
        });
        Ok(facts.collect::<esker::Result<_>>()?)
    }

    fn walk(&self, month: u32, filter: &Filter) -> Iter {
        let from = index_key(month, filter.attribute, *filter.values.start(), 0);
        let to = index_key(month, filter.attribute, *filter.values.end(), u64::MAX);
        self.index.range(from..=to)
    }

    /// The entities that pass all filters in a month, in order. All filters are walked through in step,
    /// until the one with the fewest entities ends; what it has found is looked up for the others.
    fn find(&self, month: u32, filters: &[Filter]) -> Result<Vec<u64>> {
        let mut walks: Vec<_> =
            filters.iter().map(|filter| (self.walk(month, filter), Vec::new())).collect();
        let fewest = 'all: loop {
            if walks.is_empty() {
                return Ok(Vec::new());
            }
            for (index, (walk, found)) in walks.iter_mut().enumerate() {
                match walk.next() {
                    Some(entry) => found.push(u64_of(&entry?.0[16..])),
                    None => break 'all index,
                }
            }
        };
        let mut entities = walks.swap_remove(fewest).1;
        entities.sort_unstable();
        for (index, filter) in filters.iter().enumerate() {
            if index != fewest {
                entities = self.passing(month, &entities, filter)?;
            }
        }
        Ok(entities)
    }

    fn passing(&self, month: u32, entities: &[u64], filter: &Filter) -> Result<Vec<u64>> {
        let mut passing = Vec::new();
        for some in entities.chunks(LOOK_UP_BATCH) {
            let keys = some.iter().map(|entity| fact_key(month, *entity, filter.attribute));
            for (entity, value) in some.iter().zip(self.facts.multi_get(keys)?) {
                if value.is_some_and(|value| filter.values.contains(&from_ordered(&value))) {
                    passing.push(*entity);
                }
            }
        }
        Ok(passing)
    }

    /// Adds up the facts of some months by attribute. They stream past: nothing is kept but the sums.
    fn sums(&self, months: Range<u32>) -> Result<BTreeMap<u32, Sum>> {
        let mut sums: BTreeMap<u32, Sum> = BTreeMap::new();
        let mut cursor = self.facts.cursor();
        let end = months.end.to_be_bytes();
        let mut valid = cursor.seek(months.start.to_be_bytes())?;
        while let (true, Some(key), Some(value)) = (valid, cursor.key(), cursor.value()) {
            if key >= &end[..] {
                break;
            }
            let value = from_ordered(value);
            let sum =
                sums.entry(u32_of(&key[12..])).or_insert(Sum { most: value, ..Sum::default() });
            *sum =
                Sum { facts: sum.facts + 1, total: sum.total + value, most: sum.most.max(value) };
            valid = cursor.next()?;
        }
        Ok(sums)
    }

    /// Forgets a month, however much there is of it, by one small write.
    fn drop_month(&self, month: u32) -> Result<()> {
        let mut batch = WriteBatch::new();
        for keyspace in [&self.facts, &self.index] {
            batch.delete_prefix(keyspace, month.to_be_bytes());
        }
        Ok(self.db.write(batch)?)
    }
}

/// How much there is.
#[derive(Clone, Copy)]
struct Size {
    months: u32,
    entities: u64,
    /// Of those that an entity may have, how many each has in a month.
    attributes: u32,
    each: u32,
}

/// A number that looks random, the same for the same arguments.
fn mix(a: u64, b: u64) -> u64 {
    let n = (a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n ^ n >> 29
}

/// What an entity is given in a month.
fn facts_of(size: Size, month: u32, entity: u64) -> Vec<(u32, i64)> {
    let draw = |n: u32| {
        let seed = mix(entity << 8 | u64::from(month), u64::from(n));
        // Some attributes are those of most entities.
        let attribute = if n < 3 { n } else { seed as u32 % size.attributes };
        (attribute, i64::from((seed >> 32) as u32 % 2000) - 1000)
    };
    (0..size.each).map(draw).collect()
}

fn tell(what: &str, count: usize, took: Duration) -> Result<()> {
    let rate = count as f64 / took.as_secs_f64();
    Ok(writeln!(std::io::stdout(), "{what}: {count} in {took:.1?} ({rate:.0} a second)")?)
}

fn ingest(entities: &mut Entities, size: Size) -> Result<()> {
    let numbers: Vec<u32> = (0..size.attributes)
        .map(|n| entities.attribute(&format!("attribute {n}")))
        .collect::<Result<_>>()?;
    let (mut written, began) = (0, Instant::now());
    for month in 0..size.months {
        for entity in 0..size.entities {
            let mut facts = facts_of(size, month, entity);
            facts.iter_mut().for_each(|(attribute, _)| *attribute = numbers[*attribute as usize]);
            entities.set(month, entity, &facts)?;
            written += facts.len();
        }
    }
    tell("facts written with their index", written, began.elapsed())?;
    let all: Vec<_> = numbers.iter().map(|number| (*number, i64::from(*number))).collect();
    let began = Instant::now();
    entities.set(size.months, u64::MAX, &all)?;
    tell("attributes of one entity at once", all.len(), began.elapsed())
}

fn query(entities: &mut Entities, size: Size) -> Result<()> {
    let months = 0..size.months;
    let began = Instant::now();
    let sums = entities.sums(months.clone())?;
    let facts: u64 = sums.values().map(|sum| sum.facts).sum();
    tell("facts added up by attribute", facts as usize, began.elapsed())?;

    let began = Instant::now();
    let wide = entities.entity(size.months, u64::MAX)?;
    tell("attributes of one entity read", wide.len(), began.elapsed())?;

    let attributes = [0, 1, 2].map(|n| entities.attribute(&format!("attribute {n}")));
    let [a, b, c] = attributes;
    let filters = [
        Filter { attribute: a?, values: 0..=99 },
        Filter { attribute: b?, values: -500..=i64::MAX },
        Filter { attribute: c?, values: i64::MIN..=500 },
    ];
    let (mut found, mut latencies) = (0, Vec::new());
    for month in months.clone() {
        let began = Instant::now();
        found += entities.find(month, &filters)?.len();
        latencies.push(began.elapsed());
    }
    tell("entities that pass three filters", found, latencies.iter().sum())?;
    latencies.sort_unstable();
    let (median, worst) = (latencies[latencies.len() / 2], latencies[latencies.len() - 1]);
    writeln!(std::io::stdout(), "  a query of one month: p50 {median:.1?}, worst {worst:.1?}")?;

    let old = months.start..months.end / 2;
    let dropped: u64 = entities.sums(old.clone())?.values().map(|sum| sum.facts).sum();
    let began = Instant::now();
    for month in old.clone() {
        entities.drop_month(month)?;
    }
    tell("facts of old months dropped", dropped as usize, began.elapsed())?;
    let began = Instant::now();
    assert!(entities.sums(old)?.is_empty());
    let left: u64 = entities.sums(months)?.values().map(|sum| sum.facts).sum();
    assert_eq!(left, facts - dropped);
    tell("facts that are left added up", left as usize, began.elapsed())
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut entities = Entities::open(dir.path())?;
    let size = Size { months: 12, entities: 1_000, attributes: 5_000, each: 84 };
    ingest(&mut entities, size)?;
    query(&mut entities, size)?;
    entities.db.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn queries_say_what_the_facts_say() {
        let dir = tempfile::tempdir().unwrap();
        let size = Size { months: 4, entities: 60, attributes: 40, each: 20 };
        let mut entities = Entities::open(dir.path()).unwrap();
        ingest(&mut entities, size).unwrap();
        let model: BTreeMap<(u32, u64), BTreeMap<u32, i64>> = (0..size.months)
            .flat_map(|month| (0..size.entities).map(move |entity| (month, entity)))
            .map(|(month, entity)| {
                ((month, entity), facts_of(size, month, entity).into_iter().collect())
            })
            .collect();
        for ((month, entity), facts) in &model {
            assert_eq!(&entities.entity(*month, *entity).unwrap(), facts);
        }
        assert_eq!(entities.entity(size.months, u64::MAX).unwrap().len(), 40);
        for month in 0..size.months {
            let filters = [
                Filter { attribute: 1, values: -400..=i64::MAX },
                Filter { attribute: 7, values: i64::MIN..=300 },
            ];
            let found: BTreeSet<_> = entities.find(month, &filters).unwrap().into_iter().collect();
            let passes = |facts: &BTreeMap<u32, i64>| {
                let value = |filter: &Filter| facts.get(&filter.attribute).copied();
                filters.iter().all(|f| value(f).is_some_and(|value| f.values.contains(&value)))
            };
            let expected = (0..size.entities).filter(|entity| passes(&model[&(month, *entity)]));
            assert!(found.into_iter().eq(expected));
        }
        let indexed = entities.index.iter().count();
        assert_eq!(indexed, entities.facts.iter().count(), "no place of an old value is left");
        query(&mut entities, size).unwrap();
        drop(entities);
        let mut entities = Entities::open(dir.path()).unwrap();
        assert_eq!(entities.attribute("attribute 39").unwrap(), 39);
        assert!(entities.entity(0, 5).unwrap().is_empty());
        assert_eq!(entities.entity(3, 5).unwrap(), model[&(3, 5)]);
    }
}
