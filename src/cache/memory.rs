//! The pointer to a block's memory: one word, which leads to reference count, header and bytes, one
//! behind the other, so that a reader of the first bytes has the header in the same line.
//!
//! *Invariants of the unsafe code.* M1: a [`Space`] is memory that nobody else has, all of whose
//! bytes are initialized, from the pool or of an allocation of its own. M2: while the count of an
//! [`Inner`] is not 0 it is followed by as many bytes as its header tells, in the same space; they
//! are written before there is a second pointer, and never after. M3: whoever brings the count to 0
//! has the space again. No pointer is made from a reference, so each may go anywhere in the space.

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use arc_swap::RefCnt;

use crate::cache::block::Header;
use crate::cache::pool;
use crate::cache::pool::UNIT;
use crate::cache::pool::UNITS_MAX;

/// So many spaces a thread keeps: one that loads blocks while others leave takes no lock for them.
const OF_THREAD_MAX: usize = 4;
/// The part of a space that may stay unused.
const WASTE: u32 = 32;

thread_local! {
    static OF_THREAD: Cell<Vec<Space>> = const { Cell::new(Vec::new()) };
}

/// Memory for a block.
struct Space {
    at: NonNull<u8>,
    /// Beyond `UNITS_MAX` it is an allocation of its own.
    units: u32,
}

impl Space {
    /// One that the thread has, or a new one.
    fn for_block(len: usize) -> Space {
        let units = (size_of::<Inner>() + len).div_ceil(UNIT) as u32;
        let kept = with_spares(|spares| {
            let fits = |spare: &Space| (units..=units + 1 + units / WASTE).contains(&spare.units);
            let at = spares.iter().position(fits);
            if at.is_none() {
                // Blocks are of another size now.
                spares.pop();
            }
            at.map(|at| spares.swap_remove(at))
        });
        kept.flatten().unwrap_or_else(|| Space::new(units))
    }

    fn new(units: u32) -> Space {
        if units <= UNITS_MAX
            && let Some((at, units)) = pool::take(units)
        {
            return Space { at, units };
        }
        Space::allocated(units.max(UNITS_MAX + 1))
    }

    #[expect(unsafe_code, reason = "allocates")]
    fn allocated(units: u32) -> Space {
        let layout = layout(units);
        // SAFETY: the layout is of at least `UNITS_MAX` units.
        let at = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(at) = NonNull::new(at) else { std::alloc::handle_alloc_error(layout) };
        Space { at, units }
    }

    /// Keeps it for the thread's next block, if the thread has few.
    fn keep(self) {
        if self.units > UNITS_MAX {
            return;
        }
        let mut space = Some(self);
        with_spares(|spares| {
            if spares.len() < OF_THREAD_MAX {
                spares.extend(space.take());
            }
        });
    }
}

/// Gives back what the thread keeps.
pub(super) fn forget_spares() {
    drop(with_spares(std::mem::take));
}

fn layout(units: u32) -> Layout {
    // 4 GiB and a header fit wherever so much can be asked for.
    Layout::from_size_align(units as usize * UNIT, UNIT).unwrap_or(Layout::new::<Inner>())
}

impl Drop for Space {
    #[expect(unsafe_code, reason = "frees an allocation")]
    fn drop(&mut self) {
        if self.units <= UNITS_MAX {
            pool::give(self.at.addr().get());
        } else {
            // SAFETY: allocated with this layout, and M1.
            unsafe { std::alloc::dealloc(self.at.as_ptr(), layout(self.units)) };
        }
    }
}

/// Does nothing when the thread ends.
fn with_spares<T>(change: impl FnOnce(&mut Vec<Space>) -> T) -> Option<T> {
    let changed = OF_THREAD.try_with(|cell| {
        let mut spares = cell.take();
        let result = change(&mut spares);
        cell.set(spares);
        result
    });
    changed.ok()
}

/// What stands in front of the bytes.
#[repr(C)]
pub(super) struct Inner {
    count: AtomicU32,
    /// Of the space.
    units: u32,
    header: Header,
}

/// A block as slots and cache hold it, shared by reference count.
pub(super) struct Shared(NonNull<Inner>);

#[expect(unsafe_code, reason = "the pointer keeps Shared from being Send by itself")]
// SAFETY: the header is Send and Sync, and the bytes do not change (M2).
unsafe impl Send for Shared {}
#[expect(unsafe_code, reason = "the pointer keeps Shared from being Sync by itself")]
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// A block whose bytes are what `fill` writes: what they are before is arbitrary.
    #[expect(unsafe_code, reason = "makes a block of memory")]
    pub(super) fn filled<E>(
        header: Header,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Shared, E> {
        let len = header.len();
        let space = Space::for_block(len);
        let at = space.at.cast::<Inner>();
        let inner = Inner { count: AtomicU32::new(1), units: space.units, header };
        // SAFETY: the space has room for it, begins on a cache line, and is nobody else's (M1).
        unsafe { at.write(inner) };
        std::mem::forget(space);
        let shared = Shared(at);
        // SAFETY: initialized (M1), long enough, and there is no other pointer to it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(shared.bytes_at(), len) };
        fill(bytes)?;
        Ok(shared)
    }

    #[expect(unsafe_code, reason = "follows the pointer")]
    #[inline]
    fn inner(&self) -> &Inner {
        // SAFETY: it is there while the count is not 0, and this is counted (M2).
        unsafe { self.0.as_ref() }
    }

    #[inline]
    fn bytes_at(&self) -> *mut u8 {
        self.0.as_ptr().wrapping_add(1).cast()
    }

    #[inline]
    pub(super) fn header(&self) -> &Header {
        &self.inner().header
    }

    #[expect(unsafe_code, reason = "looks at the memory behind the header")]
    #[inline]
    pub(super) fn content(&self) -> &[u8] {
        // SAFETY: M2.
        unsafe { std::slice::from_raw_parts(self.bytes_at(), self.header().len()) }
    }

    /// Bytes of memory that it takes, header included.
    pub(super) fn space(&self) -> usize {
        self.inner().units as usize * UNIT
    }

    /// Where its space begins.
    pub(super) fn address(&self) -> usize {
        self.0.addr().get()
    }

    /// Do both lead to the same block?
    pub(super) fn is(&self, other: &Shared) -> bool {
        self.0 == other.0
    }

    /// How many pointers there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> u32 {
        self.inner().count.load(Relaxed)
    }
}

impl Clone for Shared {
    #[inline]
    fn clone(&self) -> Shared {
        let before = self.inner().count.fetch_add(1, Relaxed);
        if before > u32::MAX / 2 {
            // Pointers were forgotten by the billion.
            std::process::abort();
        }
        Shared(self.0)
    }
}

impl Drop for Shared {
    #[inline]
    fn drop(&mut self) {
        if self.inner().count.fetch_sub(1, Release) == 1 {
            free(self.0);
        }
    }
}

/// Gives the memory back. Requires: the count has just become 0.
#[expect(unsafe_code, reason = "takes a block apart")]
fn free(at: NonNull<Inner>) {
    // SAFETY: M3. Acquire: what others did with the block comes before.
    let inner = unsafe { at.as_ref() };
    inner.count.load(Acquire);
    let units = inner.units;
    // SAFETY: M3; it was written when the block was made, and is not used again.
    unsafe { at.drop_in_place() };
    let at = at.cast::<u8>();
    // SAFETY: the space begins with as many bytes. They are initialized again, all of them.
    unsafe { at.write_bytes(0, size_of::<Inner>()) };
    Space { at, units }.keep();
}

#[expect(unsafe_code, reason = "promises that the pointer is one")]
// SAFETY: the pointer's value is that of the block, which has its own place while it is counted;
// conversions do not touch the count.
unsafe impl RefCnt for Shared {
    type Base = Inner;

    fn into_ptr(me: Shared) -> *mut Inner {
        let at = me.0.as_ptr();
        std::mem::forget(me);
        at
    }

    fn as_ptr(me: &Shared) -> *mut Inner {
        me.0.as_ptr()
    }

    unsafe fn from_ptr(at: *const Inner) -> Shared {
        // SAFETY: it comes from `into_ptr`.
        Shared(unsafe { NonNull::new_unchecked(at.cast_mut()) })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use arc_swap::ArcSwapAny;
    use proptest::prelude::*;

    use super::*;
    use crate::base::sync::Mutex;

    const LEN_MAX: usize = if cfg!(miri) { 40_000 } else { 100_000 };

    fn shared(len: usize, byte: u8) -> Shared {
        let filled = Shared::filled(Header::new(len), |bytes| {
            bytes.fill(byte);
            Ok::<(), Infallible>(())
        });
        let Ok(shared) = filled;
        assert!(shared.space() >= len + size_of::<Inner>());
        shared
    }

    fn is_whole(shared: &Shared) -> bool {
        let byte = shared.header().len() as u8;
        shared.content().iter().all(|other| *other == byte)
    }

    #[test]
    fn a_block_takes_one_word_and_lies_on_a_line_with_its_header() {
        assert_eq!(size_of::<Option<Shared>>(), size_of::<usize>());
        let block = shared(5000, 7);
        assert_eq!(block.0.addr().get() % UNIT, 0);
        assert_eq!(block.content().as_ptr().addr() % UNIT, size_of::<Inner>());
        assert!(size_of::<Inner>() < UNIT);
    }

    #[test]
    fn a_thread_uses_what_it_gave_back() {
        let block = shared(5000, 7);
        let place = block.content().as_ptr().addr();
        drop(block);
        assert_eq!(shared(4990, 7).content().as_ptr().addr(), place);
    }

    #[test]
    fn what_was_not_filled_is_given_back() {
        let failed = Shared::filled(Header::new(100), |_| Err(()));
        assert!(failed.is_err());
        for len in [0, 1, UNITS_MAX as usize * UNIT, LEN_MAX] {
            assert_eq!(shared(len, 1).content().len(), len);
        }
    }

    #[test]
    fn slots_hold_blocks() {
        let slot: ArcSwapAny<Option<Shared>> = ArcSwapAny::new(None);
        let block = shared(1000, 1000_u16 as u8);
        slot.store(Some(block.clone()));
        assert_eq!(block.count(), 2);
        let lent = slot.load();
        assert!(lent.as_ref().is_some_and(|lent| lent.is(&block) && is_whole(lent)));
        let kept = lent.as_ref().cloned();
        slot.store(None);
        drop((lent, block));
        assert!(kept.is_some_and(|kept| kept.count() == 1 && is_whole(&kept)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 32 }))]
        /// Threads make blocks, put them where others find them, and drop those that they find.
        #[test]
        fn blocks_of_several_threads_stay_whole(
            turns in prop::collection::vec(
                prop::collection::vec((0..LEN_MAX, any::<u8>()), if cfg!(miri) { 4 } else { 200 }),
                3,
            ),
        ) {
            let all: Mutex<Vec<Shared>> = Mutex::default();
            std::thread::scope(|scope| for turns in turns {
                let all = &all;
                scope.spawn(move || for (len, what) in turns {
                    // Most are about equal.
                    let len = if what % 8 > 0 { 4000 + len % 300 } else { len };
                    let block = shared(len, len as u8);
                    let mut others = all.lock();
                    if what % 3 > 0 {
                        others.push(block.clone());
                    }
                    let at = what as usize % others.len().max(1);
                    let found = (at < others.len() && what % 5 > 1).then(|| others.swap_remove(at));
                    drop(others);
                    assert!(is_whole(&block) && found.as_ref().is_none_or(is_whole));
                });
            });
            let all = all.into_inner();
            prop_assert!(all.iter().all(is_whole) && all.iter().all(|block| block.count() == 1));
        }
    }
}
