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
//! their blocks go as well ([`shed`]), and what caches may hold beside comes into the free slots.
//!
//! The first chunks are not on huge pages: of those the system hands out what is touched, so that a
//! small cache costs no more than it holds. A chunk on a huge page is cleared as a whole when it is
//! first touched, which takes as long as a hundred reads of the disk where the host of a virtual
//! machine has to find the memory first: so one chunk is touched beforehand ([`prepare`]), on a
//! thread on which no reader waits. While processors have more to do than they can, a chunk on small
//! pages must do: a seventh of the work, and blocks that are loaded then are soon replaced.
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
/// and so late that a cache which stops to grow hardly ever has one for nothing. Earlier where that
/// was too late, since scans fill a chunk in the time that it takes to make one.
const SPANS_LEFT: usize = 2;
const SPANS_LEFT_MOST: usize = SPANS - 1;
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
    lock(&POOL).allow(more, less);
}

/// Do all chunks together take so much more memory than caches may hold that some should be left?
pub(super) fn has_surplus() -> bool {
    lock(&POOL).has_surplus()
}

/// If all chunks together take too much memory, has `vacate` take the blocks out of the sparsest,
/// which lie at these addresses, ascending, and gives back those that have no blocks.
pub(super) fn shed(vacate: impl FnOnce(&[Range<usize>])) {
    let (empty, sparsest) = {
        let mut pool = lock(&POOL);
        if !pool.has_surplus() {
            return;
        }
        (pool.take_surplus(), pool.sparsest())
    };
    // They are unmapped when nobody waits for the lock.
    drop(empty);
    if sparsest.is_empty() {
        return;
    }
    vacate(&sparsest);
    let empty = {
        let mut pool = lock(&POOL);
        let empty = pool.take_surplus();
        pool.left = pool.excess();
        empty
    };
    drop(empty);
}

/// True once whenever it is time for somebody to [`prepare`] a chunk.
pub(super) fn is_spare_due() -> bool {
    SPARE_DUE.load(Relaxed) && SPARE_DUE.swap(false, Relaxed)
}

/// Makes the chunk ready that is needed next, if it is time. May take milliseconds, for which nobody
/// else waits, unless it is to be `cheap`.
pub(super) fn prepare(cheap: bool) {
    prepare_in(&POOL, cheap);
}

fn prepare_in(pool: &Mutex<Pool>, cheap: bool) {
    let wants_spare = {
        let mut pool = lock(pool);
        pool.cheap = cheap;
        pool.wants_spare()
    };
    if wants_spare {
        let spare = Chunk::new(if cheap { Pages::Small } else { Pages::Touched });
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
    /// The next one, which has been touched or need not be.
    spare: Option<Chunk>,
    /// How many spans are left when it is made.
    spans_left: usize,
    /// Are chunks to cost little now, rather than to be fast?
    cheap: bool,
    /// Spans that have a free slot: units of a slot, and address.
    open: BTreeSet<(u32, usize)>,
    /// Addresses of spans without slots.
    empty: BTreeSet<usize>,
    /// Units in slots that are taken.
    taken: usize,
    /// Bytes that all caches together may hold.
    allowed: u64,
    /// What was too much still when blocks had left: others hold on to it. It is tried again when
    /// caches have been allowed more, or as much again is too much.
    left: u64,
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
            spans_left: SPANS_LEFT,
            cheap: false,
            open: BTreeSet::new(),
            empty: BTreeSet::new(),
            taken: 0,
            allowed: 0,
            left: 0,
        }
    }

    fn allow(&mut self, more: u64, less: u64) {
        // Each cache takes back what it has added, so the sum is right in the end.
        self.allowed = self.allowed.wrapping_add(more).wrapping_sub(less);
        if more > less {
            self.left = 0;
        }
    }

    /// Bytes by which chunks exceed what caches may hold.
    fn excess(&self) -> u64 {
        ((self.chunks.len() * CHUNK_LEN) as u64).saturating_sub(self.allowed)
    }

    /// How many there may be.
    fn slack(&self) -> u64 {
        (self.allowed / SURPLUS).max(2 * CHUNK_LEN as u64)
    }

    fn has_surplus(&self) -> bool {
        let excess = self.excess();
        excess > self.slack() && excess > self.left + self.slack() / 2
    }

    /// How many chunks go if some do: so many that it takes a while until there are too many again.
    fn surplus(&self) -> usize {
        self.excess().saturating_sub(self.slack() / 2).div_ceil(CHUNK_LEN as u64) as usize
    }

    /// Those of the surplus that have no blocks.
    fn take_surplus(&mut self) -> Vec<Chunk> {
        let count = self.surplus();
        std::iter::from_fn(|| self.take_empty()).take(count).collect()
    }

    /// The highest chunk that has no blocks.
    fn take_empty(&mut self) -> Option<Chunk> {
        let is_empty = |chunk: &Chunk| chunk.spans.iter().all(|span| span.units == 0);
        let chunk = self.chunks.remove(self.chunks.iter().rposition(is_empty)?);
        for start in chunk.spans() {
            self.empty.remove(&start);
        }
        self.left = self.left.saturating_sub(CHUNK_LEN as u64);
        Some(chunk)
    }

    /// Where the others of the surplus lie, ascending.
    fn sparsest(&self) -> Vec<Range<usize>> {
        let mut chunks: Vec<_> =
            self.chunks.iter().map(|chunk| (chunk.taken(), chunk.start)).collect();
        chunks.sort_unstable();
        chunks.truncate(self.surplus());
        chunks.sort_unstable_by_key(|(_, start)| *start);
        chunks.into_iter().map(|(_, start)| start..start + CHUNK_LEN).collect()
    }

    fn wants_spare(&self) -> bool {
        let is_next_huge = self.chunks.len() >= SMALL_CHUNKS;
        is_next_huge && self.spare.is_none() && self.empty.len() <= self.spans_left
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
            let chunk = self.next_chunk()?;
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

    /// The spare, or a chunk that whoever touches it first waits for, unless chunks are to be cheap.
    fn next_chunk(&mut self) -> Option<Chunk> {
        if self.chunks.len() < SMALL_CHUNKS {
            return Chunk::new(Pages::Small);
        }
        let spare = self.spare.take();
        self.spans_left = match spare {
            Some(_) => (self.spans_left - 1).max(SPANS_LEFT),
            None => (self.spans_left * 2).min(SPANS_LEFT_MOST),
        };
        spare.or_else(|| Chunk::new(if self.cheap { Pages::Small } else { Pages::Huge }))
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
        if self.empty.len() < kept && !self.has_surplus() {
            return None;
        }
        if self.spare.is_some() {
            return self.spare.take();
        }
        self.take_empty()
    }
}

#[cfg(test)]
mod tests;
