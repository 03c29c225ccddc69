//! LMDB, through heed: one write transaction per put, `MDB_NOSYNC` unless writes are to be synced,
//! never `MDB_WRITEMAP`. It has no cache of its own: pages of the file are the system's.

use std::ops::Bound;
use std::path::Path;

use anyhow::Result;
use heed::CommitOrAbort;
use heed::Database;
use heed::Env;
use heed::EnvFlags;
use heed::EnvOpenOptions;
use heed::RoTxn;
use heed::WithTls;
use heed::types::Bytes;

use super::Engine;
use super::Reader;
use super::Setup;
use super::touch;
use crate::keys::Key;

/// Room in the address space, not on disk.
const MAP_BYTES: usize = 128 << 30;

pub(super) struct Lmdb {
    env: Env,
    map: Database<'static, Bytes, Bytes>,
}

impl Lmdb {
    pub(super) fn open(dir: &Path, setup: &Setup) -> Result<Lmdb> {
        let mut flags = EnvFlags::empty();
        if !setup.sync {
            flags |= EnvFlags::NO_SYNC;
        }
        if setup.larger_than_memory {
            // What its documentation advises there.
            flags |= EnvFlags::NO_READ_AHEAD;
        }
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES);
        let env = open_env(&mut options, flags, dir)?;
        let create = env.write_txn()?;
        let map = env
            .create_databases_and_commit(create, |opener, txn| {
                opener.create_database(txn, None).map(CommitOrAbort::<_, ()>::Commit)
            })?
            .unwrap_commit();
        Ok(Lmdb { env, map })
    }
}

#[expect(
    unsafe_code,
    reason = "LMDB maps its file, and so heed leaves it to us that nobody else writes it"
)]
fn open_env(options: &mut EnvOpenOptions, flags: EnvFlags, dir: &Path) -> Result<Env> {
    // SAFETY: NO_SYNC risks the file after a power cut, not memory, and NO_READ_AHEAD nothing.
    let options = unsafe { options.flags(flags) };
    // SAFETY: the directory belongs to this process, which opens it once.
    Ok(unsafe { options.open(dir) }?)
}

impl Engine for Lmdb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        self.map.put(&mut txn, key, value)?;
        Ok(txn.commit()?)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        self.map.delete(&mut txn, key)?;
        Ok(txn.commit()?)
    }

    fn write_batch(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        for (key, value) in entries {
            self.map.put(&mut txn, key, value)?;
        }
        Ok(txn.commit()?)
    }

    fn settle(&self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Reads { lmdb: self, txn: None }))
    }
}

struct Reads<'a> {
    lmdb: &'a Lmdb,
    txn: Option<RoTxn<'a, WithTls>>,
}

impl<'a> Reads<'a> {
    /// The transaction that stays open until the next renewal.
    fn txn(&mut self) -> Result<&RoTxn<'a, WithTls>> {
        if self.txn.is_none() {
            self.txn = Some(self.lmdb.env.read_txn()?);
        }
        self.txn.as_ref().ok_or_else(|| anyhow::anyhow!("no transaction"))
    }
}

impl Reader for Reads<'_> {
    fn get(&mut self, key: &[u8]) -> Result<bool> {
        let map = self.lmdb.map;
        let value = map.get(self.txn()?, key)?;
        Ok(value.is_some_and(|value| {
            touch(key, value);
            true
        }))
    }

    fn scan(&mut self, from: &[u8], limit: u64) -> Result<u64> {
        let map = self.lmdb.map;
        let range = (Bound::Included(from), Bound::Unbounded);
        let mut entries = 0;
        for entry in map.range(self.txn()?, &range)? {
            let (key, value) = entry?;
            touch(key, value);
            entries += 1;
            if entries == limit {
                break;
            }
        }
        Ok(entries)
    }

    fn walk(&mut self, forward: bool, go_on: &mut dyn FnMut() -> bool) -> Result<()> {
        let map = self.lmdb.map;
        let txn = self.txn()?;
        if forward {
            walk_through(map.iter(txn)?, go_on)
        } else {
            walk_through(map.rev_iter(txn)?, go_on)
        }
    }

    fn renew(&mut self) {
        self.txn = None;
    }
}

fn walk_through<'t>(
    iter: impl Iterator<Item = heed::Result<(&'t [u8], &'t [u8])>>,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<()> {
    for entry in iter {
        let (key, value) = entry?;
        touch(key, value);
        if !go_on() {
            break;
        }
    }
    Ok(())
}
