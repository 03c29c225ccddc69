//! redb: one write transaction per put. Without sync its commits are `Durability::None`, which a
//! later synced commit makes last and nothing else: it promises less than the others then.

use std::path::Path;

use anyhow::Result;
use redb::Database;
use redb::Durability;
use redb::ReadOnlyTable;
use redb::ReadableDatabase;
use redb::TableDefinition;
use redb::WriteTransaction;

use super::Engine;
use super::Reader;
use super::Setup;
use super::touch;
use crate::keys::Key;

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("default");

pub(super) struct Redb {
    db: Database,
    sync: bool,
}

impl Redb {
    pub(super) fn open(dir: &Path, setup: &Setup) -> Result<Redb> {
        let mut builder = Database::builder();
        builder.set_cache_size(setup.memory_bytes);
        let db = builder.create(dir.join("data.redb"))?;
        let create = db.begin_write()?;
        create.open_table(TABLE)?;
        create.commit()?;
        Ok(Redb { db, sync: setup.sync })
    }

    fn begin(&self) -> Result<WriteTransaction> {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(if self.sync { Durability::Immediate } else { Durability::None })?;
        Ok(txn)
    }
}

impl Engine for Redb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let txn = self.begin()?;
        txn.open_table(TABLE)?.insert(key, value)?;
        Ok(txn.commit()?)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        let txn = self.begin()?;
        txn.open_table(TABLE)?.remove(key)?;
        Ok(txn.commit()?)
    }

    fn write_batch(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        let txn = self.begin()?;
        let mut table = txn.open_table(TABLE)?;
        for (key, value) in entries {
            table.insert(&**key, *value)?;
        }
        drop(table);
        Ok(txn.commit()?)
    }

    fn settle(&self) -> Result<()> {
        // An empty durable commit makes those before it durable.
        Ok(self.db.begin_write()?.commit()?)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Reads { db: &self.db, table: None }))
    }
}

struct Reads<'a> {
    db: &'a Database,
    table: Option<ReadOnlyTable<&'static [u8], &'static [u8]>>,
}

impl Reads<'_> {
    /// The table in a transaction that stays open until the next renewal.
    fn table(&mut self) -> Result<&ReadOnlyTable<&'static [u8], &'static [u8]>> {
        if self.table.is_none() {
            self.table = Some(self.db.begin_read()?.open_table(TABLE)?);
        }
        self.table.as_ref().ok_or_else(|| anyhow::anyhow!("no table"))
    }
}

impl Reader for Reads<'_> {
    fn get(&mut self, key: &[u8]) -> Result<bool> {
        let value = self.table()?.get(key)?;
        Ok(value.is_some_and(|value| {
            touch(key, value.value());
            true
        }))
    }

    fn scan(&mut self, from: &[u8], limit: u64) -> Result<u64> {
        let mut entries = 0;
        for entry in self.table()?.range(from..)? {
            let (key, value) = entry?;
            touch(key.value(), value.value());
            entries += 1;
            if entries == limit {
                break;
            }
        }
        Ok(entries)
    }

    fn walk(&mut self, forward: bool, go_on: &mut dyn FnMut() -> bool) -> Result<()> {
        let mut range = self.table()?.range::<&[u8]>(..)?;
        while let Some(entry) = if forward { range.next() } else { range.next_back() } {
            let (key, value) = entry?;
            touch(key.value(), value.value());
            if !go_on() {
                break;
            }
        }
        Ok(())
    }

    fn renew(&mut self) {
        self.table = None;
    }
}
