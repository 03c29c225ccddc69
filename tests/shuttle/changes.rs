//! Followers of the change feed: each sees every batch, and none sleeps through the last one.

use std::sync::Arc;
use std::time::Duration;

use esker::Changes;
use esker::Db;
use esker::Durability;
use esker::Error;
use esker::SeqNo;
use esker::WriteBatch;
use esker::fs::MemFs;

use crate::world::join;
use crate::world::one_in;
use crate::world::open;
use crate::world::spawn;
use crate::world::tiny;
use crate::world::value;

const WRITERS: usize = 2;
const BATCHES: u8 = 3;

/// Reads up to `last`; nothing but a wake-up lets it go on.
fn follow(mut changes: Changes, db: &Db, last: SeqNo) {
    let mut seqno = SeqNo::ZERO;
    while seqno < last {
        let batch = changes.next_timeout(Duration::MAX).unwrap().unwrap();
        assert_eq!(batch.first_seqno(), seqno.plus(1));
        assert_eq!(batch.len(), 2);
        seqno = batch.last_seqno();
        assert!(db.seqno() >= seqno);
    }
    assert_eq!(changes.lag(), 0);
}

/// Writers of different durability, flushes, and two that follow: one what is durable, one all.
pub(crate) fn followers_beside_writers() {
    let fs = MemFs::new();
    let db = open(&tiny(fs).log_retention(u64::MAX, Duration::MAX));
    let len = if one_in(2) { 20 } else { 600 };
    let last = SeqNo::new(2 * WRITERS as u64 * u64::from(BATCHES));
    let followers = [false, true].map(|unsynced| {
        let db = db.clone();
        let changes = db.changes_since(SeqNo::ZERO).unwrap().unsynced(unsynced);
        spawn(move || follow(changes, &db, last))
    });
    let writers = [Durability::Sync, Durability::Os].map(|durability| {
        let db = db.clone();
        spawn(move || {
            for count in 1..=BATCHES {
                let mut batch = WriteBatch::new();
                batch.put(&db, "one", value(count, len)).put(&db, "other", value(count, len));
                batch.durability(durability);
                db.write(batch).unwrap();
            }
            // So that all of it becomes durable.
            db.sync().unwrap();
        })
    });
    join(writers);
    join(followers);
    db.close().unwrap();
}

/// A close, at whatever moment, ends the wait of who follows.
pub(crate) fn followers_at_a_close() {
    let db = open(&tiny(MemFs::new()));
    let changes = db.changes_since(SeqNo::ZERO).unwrap();
    let mut changes = changes.unsynced(one_in(2));
    let follower = spawn(move || {
        loop {
            match changes.next_timeout(Duration::MAX) {
                Ok(batch) => assert_eq!(batch.unwrap().len(), 1),
                Err(Error::Closed) => break,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let writer = Arc::new(db.clone());
    let writer = spawn(move || match writer.put("k", "v") {
        Ok(()) | Err(Error::Closed) => {}
        Err(error) => panic!("{error}"),
    });
    db.close().unwrap();
    join([follower, writer]);
}
