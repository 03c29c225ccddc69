//! sled, with its defaults but for the cache. Writes wait in a buffer of its own, which a thread
//! empties every 500 ms: it promises less than the others. Its flush does not sync the file.

use std::path::Path;

use anyhow::Result;
use sled::Batch;
use sled::Config;
use sled::Db;

use super::Engine;
use super::Reader;
use super::Setup;
use super::touch;
use crate::keys::Key;

pub(super) struct Sled {
    db: Db,
    sync: bool,
}

impl Sled {
    pub(super) fn open(dir: &Path, setup: &Setup) -> Result<Sled> {
        let db = Config::new().path(dir).cache_capacity(setup.memory_bytes as u64).open()?;
        Ok(Sled { db, sync: setup.sync })
    }

    fn sync(&self) -> Result<()> {
        if self.sync {
            self.db.flush()?;
        }
        Ok(())
    }
}

impl Engine for Sled {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.db.insert(key, value)?;
        self.sync()
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.db.remove(key)?;
        self.sync()
    }

    fn write_batch(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = Batch::default();
        for (key, value) in entries {
            batch.insert(&**key, *value);
        }
        self.db.apply_batch(batch)?;
        self.sync()
    }

    fn settle(&self) -> Result<()> {
        self.db.flush()?;
        Ok(())
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Reads { db: &self.db }))
    }
}

struct Reads<'a> {
    db: &'a Db,
}

impl Reader for Reads<'_> {
    fn get(&mut self, key: &[u8]) -> Result<bool> {
        let value = self.db.get(key)?;
        Ok(value.is_some_and(|value| {
            touch(key, &value);
            true
        }))
    }

    fn scan(&mut self, from: &[u8], limit: u64) -> Result<u64> {
        let mut entries = 0;
        for entry in self.db.range(from..) {
            let (key, value) = entry?;
            touch(&key, &value);
            entries += 1;
            if entries == limit {
                break;
            }
        }
        Ok(entries)
    }

    fn walk(&mut self, forward: bool, go_on: &mut dyn FnMut() -> bool) -> Result<()> {
        let mut iter = self.db.iter();
        while let Some(entry) = if forward { iter.next() } else { iter.next_back() } {
            let (key, value) = entry?;
            touch(&key, &value);
            if !go_on() {
                break;
            }
        }
        Ok(())
    }
}
