//! fjall, with its defaults (lz4 from the third level on, filters by level) but for memory.

use std::path::Path;

use anyhow::Result;
use fjall::Database;
use fjall::Guard;
use fjall::Keyspace;
use fjall::KeyspaceCreateOptions;
use fjall::PersistMode;

use super::Engine;
use super::Reader;
use super::Setup;
use super::touch;
use crate::keys::Key;

pub(super) struct Fjall {
    db: Database,
    keyspace: Keyspace,
    sync: bool,
}

impl Fjall {
    pub(super) fn open(dir: &Path, setup: &Setup) -> Result<Fjall> {
        let memtable_bytes = setup.memtable_bytes as u64;
        // One memtable is filled, one is written.
        let cache_bytes = setup.memory_bytes as u64 - 2 * memtable_bytes;
        let db = Database::builder(dir).cache_size(cache_bytes).open()?;
        let keyspace = db.keyspace("default", || {
            KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes)
        })?;
        Ok(Fjall { db, keyspace, sync: setup.sync })
    }

    fn persist(&self) -> Result<()> {
        if self.sync {
            self.db.persist(PersistMode::SyncData)?;
        }
        Ok(())
    }
}

impl Engine for Fjall {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.keyspace.insert(key, value)?;
        self.persist()
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.keyspace.remove(key)?;
        self.persist()
    }

    fn write_batch(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        let mode = if self.sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.db.batch().durability(Some(mode));
        for (key, value) in entries {
            batch.insert(&self.keyspace, &**key, *value);
        }
        Ok(batch.commit()?)
    }

    fn settle(&self) -> Result<()> {
        self.keyspace.rotate_memtable_and_wait()?;
        super::wait_until_idle(|| {
            self.db.active_compactions() > 0 || self.db.outstanding_flushes() > 0
        });
        Ok(())
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Reads { keyspace: &self.keyspace }))
    }
}

struct Reads<'a> {
    keyspace: &'a Keyspace,
}

fn touch_entry(entry: Guard) -> Result<()> {
    let (key, value) = entry.into_inner()?;
    touch(&key, &value);
    Ok(())
}

impl Reader for Reads<'_> {
    fn get(&mut self, key: &[u8]) -> Result<bool> {
        let value = self.keyspace.get(key)?;
        Ok(value.is_some_and(|value| {
            touch(key, &value);
            true
        }))
    }

    fn scan(&mut self, from: &[u8], limit: u64) -> Result<u64> {
        let mut entries = 0;
        for entry in self.keyspace.range(from..) {
            touch_entry(entry)?;
            entries += 1;
            if entries == limit {
                break;
            }
        }
        Ok(entries)
    }

    fn walk(&mut self, forward: bool, go_on: &mut dyn FnMut() -> bool) -> Result<()> {
        let mut iter = self.keyspace.iter();
        while let Some(entry) = if forward { iter.next() } else { iter.next_back() } {
            touch_entry(entry)?;
            if !go_on() {
                break;
            }
        }
        Ok(())
    }
}
