//! Reads that pay for compactions: what they lose because a keyspace lies in several sorted runs is
//! added up, and once that exceeds the price of merging runs, they are merged.
//!
//! So a database that is loaded and then read comes to rest in one run, whatever the sizes of its
//! levels, and one that is not read stays as it is. (LevelDB compacts a file after so many seeks
//! in vain; here both sides are counted in one currency, bytes that a compaction moves in the time.)
//!
//! *When.* The compaction lane looks at the bills every second, and after each job. What it could do
//! for readers and they have not paid yet, it leaves as the view's *price*; the read that makes the
//! bill reach that wakes the lane, once per view. So a merge follows what pays for it at once, and a
//! lane that finds nothing to do, because a file is busy, say, is not woken again.
//!
//! *Bounds.* A merge is paid by the reads of one view, and takes its price off their bill; every flush
//! and every compaction begins with a new one. So it takes nothing from those who write much: their
//! flushes come before any bill has grown. Only a flush that was made for readers hands the bill on,
//! to the view that it ends in and no further: it writes what would be written anyway, and was made
//! so that the merge can follow. A merge runs only if the smaller part is at least 1/[`SHARE`] of the
//! larger, whoever has paid how much: so a byte that was written is rewritten for readers [`SHARE`]
//! times at most. A memtable is written for readers only after [`QUIET`] without any write, and if it
//! is that large; small files would cost them more than it does.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::base::seqno::SeqNo;
use crate::base::sync::Mutex;
use crate::compaction::picker;
use crate::engine::Core;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::keyspaces::ReadView;
use crate::engine::scheduler::CompactionJob;
use crate::engine::scheduler::Jobs;

/// A seek loses some 0.7 µs for each further run; a compaction moves so many bytes meanwhile.
const SEEK_BYTES: u64 = 256;
/// A point read loses less: a filter rules most runs out.
const GET_BYTES: u64 = 16;
/// And a step over an entry that is dead, with the versions beneath it.
const DEAD_BYTES: u64 = 48;
/// One read of so many is counted, for all of them.
const SAMPLE: u32 = 64;
/// How long nobody must have written before a memtable is written for readers.
const QUIET: Duration = Duration::from_secs(1);
/// See above.
pub(crate) const SHARE: u64 = 32;

/// Nothing is offered to the readers of a view.
const NO_PRICE: u64 = u64::MAX;
/// Their price was reached, and the lane woken.
const REACHED: u64 = u64::MAX - 1;

/// What reads of one view have lost so far, in bytes, and what they can get for it.
#[derive(Debug)]
pub(crate) struct ReadCost {
    bytes: AtomicU64,
    /// The lane is woken when `bytes` comes to this.
    price: AtomicU64,
    /// The view waits for a flush that was made for readers.
    is_for_flush: bool,
    jobs: Arc<Jobs>,
}

impl ReadCost {
    pub(crate) fn new(jobs: Arc<Jobs>) -> ReadCost {
        ReadCost {
            bytes: AtomicU64::new(0),
            price: AtomicU64::new(NO_PRICE),
            is_for_flush: false,
            jobs,
        }
    }

    /// Of the next view.
    pub(crate) fn anew(&self) -> ReadCost {
        ReadCost::new(self.jobs.clone())
    }

    /// Of the next view, in which a memtable is sealed because reads have paid for that.
    pub(crate) fn for_paid_flush(&self) -> ReadCost {
        let bytes = AtomicU64::new(self.bytes());
        ReadCost { bytes, is_for_flush: true, ..self.anew() }
    }

    /// Of the next view, in which a flush has ended.
    pub(crate) fn after_flush(&self) -> ReadCost {
        let bytes = if self.is_for_flush { self.bytes() } else { 0 };
        ReadCost { bytes: AtomicU64::new(bytes), ..self.anew() }
    }

    fn add(&self, bytes: u64) {
        let bytes = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        let price = self.price.load(Relaxed);
        if bytes >= price && self.price.compare_exchange(price, REACHED, Relaxed, Relaxed).is_ok() {
            self.jobs.notify_compaction();
        }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Is `price` paid? If it is not, the lane is woken when it is.
    fn covers(&self, price: u64) -> bool {
        let is_paid = self.bytes() >= price;
        if !is_paid {
            let lower = |asked: u64| (asked != REACHED && price < asked).then_some(price);
            // An error says that the lane was woken, or will be for less.
            let _ = self.price.fetch_update(Relaxed, Relaxed, lower);
        }
        is_paid
    }

    /// Takes `price` off the bill, if it covers that.
    fn take(&self, price: u64) -> bool {
        self.covers(price)
            && self.bytes.fetch_update(Relaxed, Relaxed, |bytes| bytes.checked_sub(price)).is_ok()
    }
}

/// Is this read one that is counted? Shares no cache line between threads.
#[inline]
fn is_sampled() -> bool {
    thread_local! {
        static READS: Cell<u32> = const { Cell::new(0) };
    }
    if cfg!(esker_shuttle) {
        // What threads have read must not live on into the next execution.
        return true;
    }
    READS.with(|reads| {
        reads.set(reads.get().wrapping_add(1));
        reads.get().is_multiple_of(SAMPLE)
    })
}

impl ReadView {
    /// Notes a point read.
    #[inline]
    pub(crate) fn note_get(&self) {
        if is_sampled() {
            self.cost.add(u64::from(SAMPLE) * GET_BYTES * self.further_runs());
            self.active.note_gets(u64::from(SAMPLE));
        }
    }

    /// Notes a seek, or the beginning of a scan.
    #[inline]
    pub(crate) fn note_seek(&self) {
        if is_sampled() {
            self.cost.add(u64::from(SAMPLE) * SEEK_BYTES * self.further_runs());
        }
    }

    /// Notes that a scan has stepped over dead entries.
    pub(crate) fn note_dead(&self, steps: u64) {
        if steps > 0 {
            self.cost.add(DEAD_BYTES * steps);
        }
    }

    #[cold]
    fn further_runs(&self) -> u64 {
        self.runs().saturating_sub(1) as u64
    }

    /// In how many sorted runs the entries lie.
    pub(crate) fn runs(&self) -> usize {
        let files: usize = self.version.levels()[1..].iter().map(|l| l.files.len().min(1)).sum();
        let level0 = self.version.level(0).files.len();
        let memtables = self.sealed.len() + usize::from(!self.active.is_empty());
        memtables + level0 + files
    }
}

/// Since when nobody has written.
#[derive(Debug, Default)]
pub(crate) struct Quiet(Mutex<(SeqNo, Duration)>);

impl Quiet {
    /// For how long `seqno` has been the last one, as far as anybody asked.
    pub(crate) fn lasted(&self, seqno: SeqNo, now: Duration) -> Duration {
        let mut quiet = self.0.lock();
        if quiet.0 != seqno {
            *quiet = (seqno, now);
        }
        now.saturating_sub(quiet.1)
    }
}

impl Core {
    /// For how long nobody has written, as far as anybody asked.
    pub(crate) fn quiet_for(&self) -> Duration {
        self.quiet.lasted(self.visible(), self.clock.monotonic())
    }

    /// A compaction that reads have paid for, if there is one. Seals memtables if reads have paid
    /// for their flush.
    pub(crate) fn next_paid_compaction(&self) -> Option<CompactionJob<'_>> {
        let states = self.keyspaces.all();
        if self.quiet_for() >= QUIET {
            for state in &states {
                self.flush_if_paid(state);
                self.flush_if_ranged(state);
            }
        }
        self.claim(|context| {
            states.iter().find_map(|state| {
                // Loaded while no job can begin or end: its files are there.
                let view = state.view_full();
                let plan = picker::pick_for_reads(&view.version, context, SHARE)?;
                view.cost.take(plan.input_bytes()).then(|| (state.clone(), plan))
            })
        })
    }

    /// Has the memtable written if it has range tombstones over what is in files: only then can these
    /// give back their space.
    fn flush_if_ranged(&self, state: &KeyspaceState) {
        let view = state.view_full();
        if view.active.has_ranges() && view.version.deepest().is_some() {
            self.seal_active(|last| state.seal(last));
        }
    }

    fn seal_active(&self, seal: impl FnOnce(SeqNo) -> bool) {
        let append = self.commit.append_lock();
        seal(append.last_seqno());
        drop(append);
        self.jobs.notify_flush();
    }

    /// Has the memtable written if that is paid for, and it is large enough to be merged with the
    /// files afterwards.
    fn flush_if_paid(&self, state: &KeyspaceState) {
        let view = state.view_full();
        let bytes = view.active.bytes() as u64;
        let files: u64 = view.version.files().map(|file| file.meta.bytes).sum();
        if bytes >= files / SHARE && !view.active.is_empty() && view.cost.covers(bytes) {
            self.seal_active(|last| state.seal_for_readers(last));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::clock::Clock;
    use crate::base::options::Config;
    use crate::base::value::ValueKind;
    use crate::engine::Engine;
    use crate::fs::Fs;
    use crate::fs::MemFs;

    const KEYS: u32 = 1000;

    /// A clock that stands still until it is moved.
    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.load(Relaxed))
        }

        fn wall_ms(&self) -> u64 {
            self.0.load(Relaxed)
        }

        fn unique(&self) -> u64 {
            7
        }
    }

    /// A database without threads: what a lane would do happens when a test says so.
    struct Tree {
        engine: Arc<Engine>,
        state: Arc<KeyspaceState>,
        clock: Arc<Hand>,
    }

    impl Tree {
        fn new() -> Tree {
            let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
            let config = Config { background_threads: 0, ..Config::default() };
            let clock = Arc::new(Hand::default());
            let engine = Engine::open(Path::new("/db"), &config, &fs, clock.clone()).unwrap();
            Tree { state: engine.default_keyspace(), engine, clock }
        }

        fn write(&self) {
            for n in 0..KEYS {
                let (key, value) = (n.to_be_bytes(), [n as u8; 100]);
                self.engine.commit_one(&self.state, ValueKind::Put, &key, &value).unwrap();
            }
        }

        fn flush(&self) {
            self.engine.seal_all();
            assert!(self.engine.flush_next().unwrap());
        }

        /// One that has two files on level 0.
        fn of_two_files() -> Tree {
            let tree = Tree::new();
            for _ in 0..2 {
                tree.write();
                tree.flush();
            }
            assert!(tree.engine.run_one_job().is_ok_and(|ran| !ran));
            tree
        }

        fn bill(&self) -> u64 {
            self.state.view().cost.bytes()
        }

        /// Reads until the bill is `bytes` at least; how often the lane was woken for it.
        fn read_until(&self, bytes: u64) -> u64 {
            let before = self.engine.jobs.epoch();
            while self.bill() < bytes {
                assert!(self.engine.get(&self.state, None, b"none").unwrap().is_none());
            }
            self.engine.jobs.epoch() - before
        }

        fn files_bytes(&self) -> u64 {
            self.state.view().version.files().map(|file| file.meta.bytes).sum()
        }

        /// What happens when nobody has written for long enough.
        fn rest(&self) -> Option<CompactionJob<'_>> {
            let _ = self.engine.quiet.lasted(self.engine.visible(), self.clock.monotonic());
            self.clock.0.fetch_add(QUIET.as_millis() as u64, Relaxed);
            self.engine.next_paid_compaction()
        }
    }

    /// What one read that is counted adds.
    const STEP: u64 = SAMPLE as u64 * GET_BYTES;

    #[test]
    fn reads_that_have_paid_wake_the_lane_once() {
        let tree = Tree::of_two_files();
        let price = tree.files_bytes();
        assert!(price > 8 * STEP, "{price}");
        assert_eq!(tree.read_until(2 * STEP), 0);
        assert!(tree.engine.next_paid_compaction().is_none());
        assert_eq!(tree.read_until(price - STEP), 0, "it is not paid yet");
        assert_eq!(tree.read_until(price), 1, "it is paid");
        assert_eq!(tree.read_until(5 * price), 0, "the lane knows");
        let bill = tree.bill();
        let job = tree.engine.next_paid_compaction().unwrap();
        assert_eq!((job.plan.input_bytes(), tree.bill()), (price, bill - price));
        tree.engine.compact(job).unwrap();
        assert_eq!((tree.bill(), tree.state.view().further_runs()), (0, 0));
    }

    #[test]
    fn a_lane_that_declines_is_left_alone() {
        let tree = Tree::of_two_files();
        let price = tree.files_bytes();
        assert!(tree.engine.next_paid_compaction().is_none());
        assert_eq!(tree.read_until(price), 1);
        let busy = tree.engine.next_paid_compaction().unwrap();
        for _ in 0..3 {
            assert!(tree.engine.next_paid_compaction().is_none(), "its files are busy");
            assert_eq!(tree.read_until(tree.bill() + 2 * price), 0);
        }
        drop(busy);
        assert!(tree.engine.next_paid_compaction().is_some());
    }

    #[test]
    fn a_flush_for_readers_hands_their_bill_on() {
        let tree = Tree::new();
        tree.write();
        tree.flush();
        tree.write();
        let memtable = tree.state.view().active.bytes() as u64;
        assert!(tree.rest().is_none() && tree.state.sealed_count() == 0, "nobody has read");
        assert_eq!(tree.read_until(memtable), 1, "the flush is paid");
        tree.read_until(memtable + 2 * tree.files_bytes());
        let bill = tree.bill();
        assert!(tree.rest().is_none() && tree.state.sealed_count() == 1);
        assert!(tree.engine.flush_next().unwrap());
        assert_eq!(tree.bill(), bill);
        // Nobody has read meanwhile.
        let job = tree.engine.next_paid_compaction().unwrap();
        assert_eq!(job.plan.input_bytes(), tree.files_bytes());
        tree.engine.compact(job).unwrap();
        assert_eq!(tree.bill(), 0);
    }

    #[test]
    fn what_was_read_in_a_memtable_is_in_the_cache_once_it_is_written() {
        let tree = Tree::new();
        tree.write();
        tree.flush();
        assert_eq!(tree.engine.cache.len(), 0, "nobody has read");
        tree.write();
        for n in 0..KEYS {
            assert!(tree.engine.get(&tree.state, None, &n.to_be_bytes()).unwrap().is_some());
        }
        let misses = tree.engine.cache.misses();
        tree.flush();
        let (blocks, kept) = (tree.engine.cache.len(), tree.engine.cache.kept());
        assert!(blocks > 10 && kept == blocks, "{kept} of {blocks} blocks were kept");
        for n in 0..KEYS {
            assert!(tree.engine.get(&tree.state, None, &n.to_be_bytes()).unwrap().is_some());
        }
        assert_eq!((tree.engine.cache.misses(), tree.engine.cache.len()), (misses, blocks));
    }

    #[test]
    fn any_other_flush_begins_a_new_bill() {
        let tree = Tree::new();
        tree.write();
        tree.flush();
        tree.write();
        tree.read_until(1 << 20);
        assert!(tree.rest().is_none() && tree.state.sealed_count() == 1);
        // Somebody goes on writing, and fills the next memtable before the first one is flushed.
        tree.write();
        tree.flush();
        assert_eq!(tree.bill(), 0);
        assert!(tree.engine.next_paid_compaction().is_none());
    }
}
