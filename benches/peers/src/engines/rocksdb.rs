//! RocksDB: lz4 on every level, blocks of 4 KiB, a bloom filter of 10 bits per key, two background
//! jobs. Gets are pinned, many keys are read by one batched call, scans use the raw iterator.

use std::path::Path;

use anyhow::Result;
use rocksdb::BlockBasedOptions;
use rocksdb::Cache;
use rocksdb::ColumnFamilyDescriptor;
use rocksdb::DB;
use rocksdb::DBCompressionType;
use rocksdb::DBRawIterator;
use rocksdb::Options;
use rocksdb::WaitForCompactOptions;
use rocksdb::WriteBatch;
use rocksdb::WriteBufferManager;
use rocksdb::WriteOptions;

use super::Engine;
use super::Reader;
use super::Setup;
use super::touch;
use crate::keys::Key;

const DEFAULT: &str = "default";

pub(super) struct Rocksdb {
    db: DB,
    writes: WriteOptions,
}

impl Rocksdb {
    pub(super) fn open(dir: &Path, setup: &Setup) -> Result<Rocksdb> {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_size(4096);
        blocks.set_bloom_filter(10.0, false);
        // Memtables are charged to the cache, so that both have one bound.
        let cache = Cache::new_lru_cache(setup.memory_bytes);
        let half = setup.memory_bytes / 2;
        let memtables =
            WriteBufferManager::new_write_buffer_manager_with_cache(half, false, cache.clone());
        blocks.set_block_cache(&cache);
        let mut options = Options::default();
        options.set_write_buffer_manager(&memtables);
        options.create_if_missing(true);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(setup.memtable_bytes);
        options.set_max_background_jobs(2);
        options.set_block_based_table_factory(&blocks);
        let mut writes = WriteOptions::default();
        writes.set_sync(setup.sync);
        // By its name, so that there is a handle for batched gets.
        let default = ColumnFamilyDescriptor::new(DEFAULT, options.clone());
        let db = DB::open_cf_descriptors(&options, dir, [default])?;
        Ok(Rocksdb { db, writes })
    }
}

impl Engine for Rocksdb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.db.put_opt(key, value, &self.writes)?)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        Ok(self.db.delete_opt(key, &self.writes)?)
    }

    fn write_batch(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in entries {
            batch.put(key, value);
        }
        Ok(self.db.write_opt(batch, &self.writes)?)
    }

    fn settle(&self) -> Result<()> {
        let mut options = WaitForCompactOptions::default();
        options.set_flush(true);
        Ok(self.db.wait_for_compact(&options)?)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Reads { db: &self.db, iter: None }))
    }
}

struct Reads<'a> {
    db: &'a DB,
    iter: Option<DBRawIterator<'a>>,
}

impl Reader for Reads<'_> {
    fn get(&mut self, key: &[u8]) -> Result<bool> {
        let value = self.db.get_pinned(key)?;
        Ok(value.is_some_and(|value| {
            touch(key, &value);
            true
        }))
    }

    fn multi_get(&mut self, keys: &[Key]) -> Result<u64> {
        let Some(default) = self.db.cf_handle(DEFAULT) else {
            anyhow::bail!("no default column family");
        };
        let mut found = 0;
        for (key, value) in keys.iter().zip(self.db.batched_multi_get_cf(&default, keys, false)) {
            if let Some(value) = value? {
                touch(key, &value);
                found += 1;
            }
        }
        Ok(found)
    }

    fn scan(&mut self, from: &[u8], limit: u64) -> Result<u64> {
        let iter = self.iter.get_or_insert_with(|| self.db.raw_iterator());
        let mut entries = 0;
        iter.seek(from);
        while let Some((key, value)) = iter.item() {
            touch(key, value);
            entries += 1;
            if entries == limit {
                break;
            }
            iter.next();
        }
        iter.status()?;
        Ok(entries)
    }

    fn walk(&mut self, forward: bool, go_on: &mut dyn FnMut() -> bool) -> Result<()> {
        let iter = self.iter.get_or_insert_with(|| self.db.raw_iterator());
        if forward {
            iter.seek_to_first();
        } else {
            iter.seek_to_last();
        }
        while let Some((key, value)) = iter.item() {
            touch(key, value);
            if !go_on() {
                break;
            }
            if forward {
                iter.next();
            } else {
                iter.prev();
            }
        }
        Ok(iter.status()?)
    }

    fn renew(&mut self) {
        self.iter = None;
    }
}
