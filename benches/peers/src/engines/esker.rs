//! esker, with its defaults but for memory and durability.

use std::path::Path;

use anyhow::Result;
use esker::Cursor;
use esker::Db;
use esker::Durability;
use esker::Options;
use esker::WriteBatch;

use super::Engine;
use super::Reader;
use super::Setup;
use super::touch;
use crate::keys::Key;

pub(super) struct Esker {
    db: Db,
}

impl Esker {
    pub(super) fn open(dir: &Path, setup: &Setup) -> Result<Esker> {
        let durability = if setup.sync { Durability::Sync } else { Durability::Os };
        let db = Options::new()
            .memory_budget(setup.memory_bytes)
            .memtable_bytes(setup.memtable_bytes)
            .durability(durability)
            .open(dir)?;
        Ok(Esker { db })
    }
}

impl Engine for Esker {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.db.put(key, value)?)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        Ok(self.db.delete(key)?)
    }

    fn write_batch(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = WriteBatch::new();
        for (key, value) in entries {
            batch.put(&self.db, key, value);
        }
        Ok(self.db.write(batch)?)
    }

    fn settle(&self) -> Result<()> {
        self.db.flush()?;
        super::wait_until_idle(|| self.db.stats().background.running > 0);
        Ok(())
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Reads { db: &self.db, cursor: None }))
    }
}

struct Reads<'a> {
    db: &'a Db,
    cursor: Option<Cursor>,
}

impl Reader for Reads<'_> {
    fn get(&mut self, key: &[u8]) -> Result<bool> {
        let value = self.db.get(key)?;
        Ok(value.is_some_and(|value| {
            touch(key, &value);
            true
        }))
    }

    fn multi_get(&mut self, keys: &[Key]) -> Result<u64> {
        let mut found = 0;
        for (key, value) in keys.iter().zip(self.db.multi_get(keys)?) {
            if let Some(value) = value {
                touch(key, &value);
                found += 1;
            }
        }
        Ok(found)
    }

    fn scan(&mut self, from: &[u8], limit: u64) -> Result<u64> {
        let cursor = self.cursor.get_or_insert_with(|| self.db.cursor());
        let mut entries = 0;
        let mut valid = cursor.seek(from)?;
        while valid {
            touch(cursor.key().unwrap_or_default(), cursor.value().unwrap_or_default());
            entries += 1;
            if entries == limit {
                break;
            }
            valid = cursor.next()?;
        }
        Ok(entries)
    }

    fn walk(&mut self, forward: bool, go_on: &mut dyn FnMut() -> bool) -> Result<()> {
        let cursor = self.cursor.get_or_insert_with(|| self.db.cursor());
        let mut valid = if forward { cursor.seek_to_first()? } else { cursor.seek_to_last()? };
        while valid {
            touch(cursor.key().unwrap_or_default(), cursor.value().unwrap_or_default());
            if !go_on() {
                break;
            }
            valid = if forward { cursor.next()? } else { cursor.prev()? };
        }
        Ok(())
    }

    fn renew(&mut self) {
        self.cursor = None;
    }
}
