//! Memory for blocks, in chunks of 2 MiB that the system may put on huge pages: a read of a block
//! that lies anywhere among many waits for the page tables as well, and those of huge pages stay in
//! the processor's caches.
//!
//! A chunk is cut into spans, a span into slots of equal length, so that what one block leaves fits
//! the next. A block gets the lowest free slot of its length or of one a little longer: so blocks
//! that are loaded one after the other lie one behind the other, which is worth a third of a scan's
//! time, and what lies high becomes empty. A chunk without blocks goes back to the system, unless
//! few spans are empty beside its own. There is one pool for the process, as there is one allocator:
//! memory that one thread or cache leaves serves all others.
//!
//! Blocks that are evicted leave from anywhere, so when caches may hold less, hardly any chunk becomes
//! empty by that. So the pool knows how much all caches may hold, and which chunks are the sparsest:
//! their blocks go as well ([`surplus`]), and what caches may hold beside comes into the free slots.
//!
//! The first chunks are not on huge pages: of those the system hands out what is touched, so that a
//! small cache costs no more than it holds. A chunk on a huge page is cleared as a whole when it is
//! first touched, which takes as long as a hundred reads of the disk where the host of a virtual
//! machine has to find the memory first: so one chunk is touched beforehand ([`prepare`]), on a
//! thread on which no reader waits.
//!
//! Who has a slot is noted beside the chunks, never in them: there is no unsafe code here.

use std::collections::BTreeSet;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use memmap2::MmapMut;
use memmap2::MmapRaw;

/// Slots are odd multiples of this: they begin on a cache line, and their first lines, which all
/// reads touch, in all sets of the processor's caches alike.
pub(super) const UNIT: usize = 64;
/// The longest slot, in units. A span has eight of them.
pub(super) const UNITS_MAX: u32 = (SPAN_LEN / 8 / UNIT) as u32 - 1;
/// The shortest slot, in units.
const UNITS_MIN: u32 = 3;
const CHUNK_LEN: usize = 2 << 20;
/// The least that the system hands out.
const PAGE_LEN: usize = 4 << 10;
const SPAN_LEN: usize = 256 << 10;
const SPANS: usize = CHUNK_LEN / SPAN_LEN;
/// So many chunks are on pages of the usual size.
const SMALL_CHUNKS: usize = 4;
/// The next chunk is made ready when so many spans are left: some hundred blocks before it is needed,
/// and so late that a cache which stops to grow hardly ever has one for nothing.
const SPANS_LEFT: usize = 2;
/// The part of all spans that may be empty without a chunk's going back: blocks of files that are
/// gone leave before those of new ones come.
const EMPTY: usize = 16;
/// The part by which chunks may exceed what caches may hold: slots are a little longer than blocks, and
/// it takes milliseconds to look which blocks lie in a chunk.
const SURPLUS: u64 = 32;
/// The part of a slot that may stay unused, and the same while one in `SPARSE` bytes is free.
const WASTE: u32 = 32;
const WASTE_IF_SPARSE: u32 = 8;
const SPARSE: usize = 16;

/// The system's own kind of lock: blocks go at times when a simulated one cannot be taken.
static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// See [`is_spare_due`].
static SPARE_DUE: AtomicBool = AtomicBool::new(false);

/// A slot of `units` or a few more, and how many it has; none if the system has no memory to give.
/// Requires: `units` is at most [`UNITS_MAX`].
pub(super) fn take(units: u32) -> Option<(NonNull<u8>, u32)> {
    lock(&POOL).take(units)
}

/// Takes back the slot at `address`.
pub(super) fn give(address: usize) {
    let chunk = lock(&POOL).give(address);
    // It is unmapped when nobody waits for the lock.
    drop(chunk);
}

/// From now on caches may hold so many bytes more, or less.
pub(super) fn allow(more: u64, less: u64) {
    let mut pool = lock(&POOL);
    // Each cache takes back what it has added, so the sum is right in the end.
    pool.allowed = pool.allowed.wrapping_add(more).wrapping_sub(less);
}

/// Do all chunks together take more memory than caches may hold?
pub(super) fn has_surplus() -> bool {
    lock(&POOL).surplus() > 0
}

/// The addresses of the chunks, ascending, that are to be left because all together take more memory
/// than caches may hold: the sparsest. They go back to the system once they have no blocks.
pub(super) fn surplus() -> Vec<Range<usize>> {
    lock(&POOL).sparsest()
}

/// Notes that the blocks that lay there have left: what is too much still, others hold on to.
pub(super) fn note_left() {
    let mut pool = lock(&POOL);
    pool.held = pool.excess().saturating_sub(pool.slack());
}

/// True once whenever it is time for somebody to [`prepare`] a chunk.
pub(super) fn is_spare_due() -> bool {
    SPARE_DUE.load(Relaxed) && SPARE_DUE.swap(false, Relaxed)
}

/// Makes the chunk ready that is needed next, if it is time. May take milliseconds, for which nobody
/// else waits.
pub(super) fn prepare() {
    prepare_in(&POOL);
}

fn prepare_in(pool: &Mutex<Pool>) {
    if lock(pool).wants_spare() {
        let spare = Chunk::new(Pages::Touched);
        let surplus = std::mem::replace(&mut lock(pool).spare, spare);
        // There is one if two did it at once. It is unmapped when nobody waits for the lock.
        drop(surplus);
    }
}

fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Pool {
    /// By address.
    chunks: Vec<Chunk>,
    /// The next one, which has been touched.
    spare: Option<Chunk>,
    /// Spans that have a free slot: units of a slot, and address.
    open: BTreeSet<(u32, usize)>,
    /// Addresses of spans without slots.
    empty: BTreeSet<usize>,
    /// Units in slots that are taken.
    taken: usize,
    /// Bytes that all caches together may hold.
    allowed: u64,
    /// Bytes of chunks that were too much and could not be left.
    held: u64,
}

struct Chunk {
    /// The address of the first span.
    start: usize,
    /// Where that is in the mapping.
    offset: usize,
    mapping: MmapRaw,
    spans: [Span; SPANS],
}

/// What a chunk lies on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// Of the usual size.
    Small,
    /// Huge ones, if the system has them.
    Huge,
    /// The same, and they are there already.
    Touched,
}

/// Slots of equal length, or none.
#[derive(Default)]
struct Span {
    /// Of a slot; 0 if there are none.
    units: u32,
    taken: u32,
    /// A bit for each slot that is free.
    free: Vec<u64>,
}

impl Span {
    fn cut(&mut self, units: u32) {
        let slots = SPAN_LEN / (units as usize * UNIT);
        self.units = units;
        self.free.clear();
        self.free.resize(slots / 64, u64::MAX);
        if !slots.is_multiple_of(64) {
            self.free.push((1 << (slots % 64)) - 1);
        }
    }

    /// The number of a slot that was free.
    fn take(&mut self) -> Option<usize> {
        let (n, word) = self.free.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        self.taken += 1;
        Some(n * 64 + bit as usize)
    }

    fn is_full(&self) -> bool {
        self.free.iter().all(|word| *word == 0)
    }

    fn give(&mut self, slot: usize) {
        if let Some(word) = self.free.get_mut(slot / 64) {
            debug_assert!(*word >> (slot % 64) & 1 == 0, "a slot is free twice");
            *word |= 1 << (slot % 64);
            self.taken -= 1;
        }
    }
}

impl Chunk {
    fn new(pages: Pages) -> Option<Chunk> {
        let mapping = MmapMut::map_anon(CHUNK_LEN).ok()?;
        if mapping.as_ptr().addr().is_multiple_of(CHUNK_LEN) {
            return Some(Chunk::of(mapping, pages));
        }
        // Of twice the length some part lies right. The rest is never touched.
        drop(mapping);
        Some(Chunk::of(MmapMut::map_anon(2 * CHUNK_LEN).ok()?, pages))
    }

    fn of(mut mapping: MmapMut, pages: Pages) -> Chunk {
        let start = mapping.as_ptr().addr().next_multiple_of(CHUNK_LEN);
        let offset = start - mapping.as_ptr().addr();
        #[cfg(target_os = "linux")]
        if pages != Pages::Small && !cfg!(miri) {
            // Without them it works as well.
            let _ = mapping.advise_range(memmap2::Advice::HugePage, offset, CHUNK_LEN);
        }
        if pages == Pages::Touched {
            let bytes = mapping.get_mut(offset..offset + CHUNK_LEN).unwrap_or_default();
            bytes.chunks_mut(PAGE_LEN).filter_map(<[u8]>::first_mut).for_each(|byte| *byte = 0);
        }
        Chunk { start, offset, mapping: MmapRaw::from(mapping), spans: Default::default() }
    }

    /// Units in slots that are taken.
    fn taken(&self) -> usize {
        self.spans.iter().map(|span| (span.taken * span.units) as usize).sum()
    }

    fn spans(&self) -> impl Iterator<Item = usize> {
        let start = self.start;
        (0..SPANS).map(move |n| start + n * SPAN_LEN)
    }
}

impl Pool {
    const fn new() -> Pool {
        Pool {
            chunks: Vec::new(),
            spare: None,
            open: BTreeSet::new(),
            empty: BTreeSet::new(),
            taken: 0,
            allowed: 0,
            held: 0,
        }
    }

    /// Bytes by which chunks exceed what caches may hold.
    fn excess(&self) -> u64 {
        ((self.chunks.len() * CHUNK_LEN) as u64).saturating_sub(self.allowed)
    }

    /// How many are not worth the trouble.
    fn slack(&self) -> u64 {
        (self.allowed / SURPLUS).max(2 * CHUNK_LEN as u64)
    }

    /// Bytes of chunks that are to be left.
    fn surplus(&self) -> u64 {
        let excess = self.excess();
        if excess > self.slack() + self.held { excess } else { 0 }
    }

    fn sparsest(&self) -> Vec<Range<usize>> {
        let count = self.surplus() as usize / CHUNK_LEN;
        if count == 0 {
            return Vec::new();
        }
        let mut chunks: Vec<(usize, usize)> =
            self.chunks.iter().map(|chunk| (chunk.taken(), chunk.start)).collect();
        chunks.sort_unstable();
        chunks.truncate(count);
        let mut chunks: Vec<_> =
            chunks.into_iter().map(|(_, start)| start..start + CHUNK_LEN).collect();
        chunks.sort_unstable_by_key(|chunk| chunk.start);
        chunks
    }

    fn wants_spare(&self) -> bool {
        let is_next_huge = self.chunks.len() >= SMALL_CHUNKS;
        is_next_huge && self.spare.is_none() && self.empty.len() <= SPANS_LEFT
    }

    /// The number of the chunk that `address` lies in.
    fn chunk_at(&self, address: usize) -> Option<usize> {
        self.chunks.partition_point(|chunk| chunk.start <= address).checked_sub(1)
    }

    fn take(&mut self, units: u32) -> Option<(NonNull<u8>, u32)> {
        let units = units.max(UNITS_MIN) | 1;
        let found = self.find(units, WASTE).or_else(|| {
            let spans = self.chunks.len() * SPANS - self.empty.len();
            let free = spans * (SPAN_LEN / UNIT) - self.taken;
            let is_sparse = free * SPARSE > spans * (SPAN_LEN / UNIT);
            is_sparse.then(|| self.find(units, WASTE_IF_SPARSE)).flatten()
        });
        let (units, address) = match found {
            Some(found) => found,
            None => (units, self.open(units)?),
        };
        let n = self.chunk_at(address)?;
        let chunk = self.chunks.get_mut(n)?;
        let span = chunk.spans.get_mut((address - chunk.start) / SPAN_LEN)?;
        let slot = address + span.take()? * units as usize * UNIT;
        if span.is_full() {
            self.open.remove(&(units, address));
        }
        self.taken += units as usize;
        let at = chunk.mapping.as_mut_ptr().wrapping_add(chunk.offset + slot - chunk.start);
        NonNull::new(at).map(|at| (at, units))
    }

    /// A span whose free slots have `units`, or more by one in `waste`.
    fn find(&self, units: u32, waste: u32) -> Option<(u32, usize)> {
        self.open.range((units, 0)..=(units + units / waste, usize::MAX)).next().copied()
    }

    /// The address of a span that is cut into slots of `units`.
    fn open(&mut self, units: u32) -> Option<usize> {
        if self.empty.is_empty() {
            let chunk = if self.chunks.len() < SMALL_CHUNKS {
                Chunk::new(Pages::Small)
            } else {
                self.spare.take().or_else(|| Chunk::new(Pages::Huge))
            }?;
            self.empty.extend(chunk.spans());
            let n = self.chunks.partition_point(|other| other.start < chunk.start);
            self.chunks.insert(n, chunk);
        }
        let address = self.empty.pop_first()?;
        if self.wants_spare() {
            SPARE_DUE.store(true, Relaxed);
        }
        let n = self.chunk_at(address)?;
        let chunk = self.chunks.get_mut(n)?;
        chunk.spans.get_mut((address - chunk.start) / SPAN_LEN)?.cut(units);
        self.open.insert((units, address));
        Some(address)
    }

    /// A chunk without blocks if too many spans are empty: the spare, or else the highest.
    fn give(&mut self, address: usize) -> Option<Chunk> {
        let n = self.chunk_at(address)?;
        let chunk = self.chunks.get_mut(n)?;
        let start = chunk.start + (address - chunk.start) / SPAN_LEN * SPAN_LEN;
        let span = chunk.spans.get_mut((start - chunk.start) / SPAN_LEN)?;
        let units = span.units;
        span.give((address - start) / (units as usize * UNIT));
        self.taken -= units as usize;
        if span.taken > 0 {
            self.open.insert((units, start));
            return None;
        }
        *span = Span::default();
        self.open.remove(&(units, start));
        self.empty.insert(start);
        let kept = (self.chunks.len() * SPANS / EMPTY).max(2 * SPANS);
        if self.empty.len() < kept && self.surplus() == 0 {
            return None;
        }
        if self.spare.is_some() {
            return self.spare.take();
        }
        let is_empty = |chunk: &Chunk| chunk.spans.iter().all(|span| span.units == 0);
        let chunk = self.chunks.remove(self.chunks.iter().rposition(is_empty)?);
        for start in chunk.spans() {
            self.empty.remove(&start);
        }
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Of 4 KiB and a header.
    const TYPICAL: u32 = 65;

    fn take(pool: &mut Pool, units: u32) -> usize {
        pool.take(units).unwrap().0.addr().get()
    }

    #[test]
    fn blocks_that_come_together_lie_together() {
        let mut pool = Pool::new();
        let slots: Vec<usize> = (0..400).map(|_| take(&mut pool, TYPICAL)).collect();
        assert!(slots.iter().all(|slot| slot % UNIT == 0));
        // They leave in another order than they came.
        (0..400).for_each(|n| assert!(pool.give(slots[n * 77 % 400]).is_none()));
        let again: Vec<usize> = (0..400).map(|_| take(&mut pool, TYPICAL)).collect();
        assert_eq!(again, slots);
        assert!(again.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(pool.chunks.len(), 1);
    }

    #[test]
    fn a_slot_is_hardly_longer_than_the_block() {
        let mut pool = Pool::new();
        for units in (1..=UNITS_MAX).rev() {
            let (_, slot) = pool.take(units).unwrap();
            let wanted = units.max(UNITS_MIN) | 1;
            assert!((wanted..=wanted + wanted / WASTE_IF_SPARSE).contains(&slot));
        }
    }

    #[test]
    fn blocks_of_another_length_fill_what_others_left() {
        let mut pool = Pool::new();
        let slots: Vec<usize> = (0..8000).map(|_| take(&mut pool, TYPICAL)).collect();
        let chunks = pool.chunks.len();
        slots.iter().skip(1).step_by(2).for_each(|slot| assert!(pool.give(*slot).is_none()));
        (0..3000).for_each(|_| assert!(pool.take(TYPICAL - 4).is_some()));
        assert_eq!(pool.chunks.len(), chunks);
    }

    #[test]
    fn chunks_without_blocks_go_back() {
        let mut pool = Pool::new();
        let slots: Vec<usize> = (0..8000).map(|_| take(&mut pool, TYPICAL)).collect();
        let chunks = pool.chunks.len();
        assert!(chunks > SMALL_CHUNKS + 2);
        let gone = slots.iter().filter(|slot| pool.give(**slot).is_some()).count();
        assert_eq!((gone, pool.chunks.len()), (chunks - 1, 1));
        assert_eq!((pool.taken, pool.open.len(), pool.empty.len()), (0, 0, SPANS));
    }

    #[test]
    fn a_spare_is_wanted_when_the_last_huge_chunk_is_nearly_used() {
        let mut pool = Pool::new();
        let mut slots = Vec::new();
        while !pool.wants_spare() {
            slots.push(take(&mut pool, TYPICAL));
        }
        assert_eq!((pool.chunks.len(), pool.empty.len()), (SMALL_CHUNKS, SPANS_LEFT));
        pool.spare = Chunk::new(Pages::Touched);
        let start = pool.spare.as_ref().unwrap().start;
        while pool.spare.is_some() {
            assert!(!pool.wants_spare());
            slots.push(take(&mut pool, TYPICAL));
        }
        assert_eq!((pool.chunks.len(), pool.empty.len()), (SMALL_CHUNKS + 1, SPANS - 1));
        assert!(pool.chunks.iter().any(|chunk| chunk.start == start) && !pool.wants_spare());
        // What is not needed goes first.
        pool.spare = Chunk::new(Pages::Touched);
        let start = pool.spare.as_ref().unwrap().start;
        let gone = slots.into_iter().find_map(|slot| pool.give(slot)).unwrap();
        assert!(gone.start == start && pool.spare.is_none());
    }

    #[test]
    fn who_prepares_makes_a_spare_only_if_it_is_wanted() {
        let pool = Mutex::new(Pool::new());
        let spare = || lock(&pool).spare.as_ref().map(|chunk| chunk.start);
        prepare_in(&pool);
        assert_eq!(spare(), None);
        while !lock(&pool).wants_spare() {
            take(&mut lock(&pool), TYPICAL);
        }
        prepare_in(&pool);
        let made = spare();
        assert!(made.is_some());
        prepare_in(&pool);
        assert_eq!(spare(), made);
    }

    #[test]
    fn the_sparsest_chunks_are_surplus_when_caches_may_hold_less() {
        let mut pool = Pool::new();
        pool.allowed = 40 * CHUNK_LEN as u64;
        let mut slots: Vec<usize> = (0..16_000).map(|_| take(&mut pool, TYPICAL)).collect();
        let chunks = pool.chunks.len();
        assert!(chunks > 20 && pool.sparsest().is_empty());
        // All lose some blocks, and two more than others.
        let sparse: Vec<_> = [3, 7].map(|n| pool.chunks[n].start).into();
        let lies_in = |slot: &usize, starts: &[usize]| {
            starts.iter().any(|start| (*start..start + CHUNK_LEN).contains(slot))
        };
        slots.retain(|slot| {
            let part = if lies_in(slot, &sparse) { 2 } else { 7 };
            let stays = !(slot / UNIT).is_multiple_of(part);
            assert!(stays || pool.give(*slot).is_none());
            stays
        });
        assert_eq!(pool.chunks.len(), chunks);
        pool.allowed = (chunks as u64 - 2) * CHUNK_LEN as u64;
        assert_eq!(pool.surplus(), 0);
        pool.allowed -= CHUNK_LEN as u64;
        let surplus = pool.sparsest();
        assert_eq!(surplus.len(), 3);
        assert!(sparse.iter().all(|start| surplus.iter().any(|chunk| chunk.start == *start)));
        let starts: Vec<usize> = surplus.iter().map(|chunk| chunk.start).collect();
        let gone = slots.iter().filter(|slot| lies_in(slot, &starts));
        let freed = gone.filter(|slot| pool.give(**slot).is_some()).count();
        assert!(freed >= 1 && pool.chunks.len() == chunks - freed && pool.surplus() == 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 64 }))]
        #[test]
        fn slots_lie_apart(ops in prop::collection::vec((1..=UNITS_MAX, any::<u16>()), 1..400)) {
            let (mut pool, mut taken) = (Pool::new(), BTreeMap::new());
            for (units, what) in ops {
                // Lengths are alike, as a rule.
                let units = if what % 4 > 0 { TYPICAL + units % 8 } else { units };
                if what % 5 > 1 || taken.is_empty() {
                    let (at, got) = pool.take(units).unwrap();
                    prop_assert!(got >= units);
                    let (start, end) = (at.addr().get(), at.addr().get() + got as usize * UNIT);
                    let before = taken.range(..end).next_back();
                    prop_assert!(before.is_none_or(|(_, end)| *end <= start));
                    taken.insert(start, end);
                } else {
                    let slot = *taken.keys().nth(what as usize % taken.len()).unwrap();
                    taken.remove(&slot);
                    pool.give(slot);
                }
                let bytes: usize = taken.iter().map(|(start, end)| end - start).sum();
                prop_assert_eq!(pool.taken * UNIT, bytes);
            }
            taken.keys().for_each(|slot| drop(pool.give(*slot)));
            prop_assert_eq!((pool.taken, pool.chunks.len(), pool.empty.len()), (0, 1, SPANS));
        }
    }
}
