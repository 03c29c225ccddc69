//! Asking for memory before it is needed, so that several cache misses pass at once.

#[cfg(all(target_arch = "x86_64", not(miri)))]
use std::arch::x86_64::_MM_HINT_T0;
#[cfg(all(target_arch = "x86_64", not(miri)))]
use std::arch::x86_64::_mm_prefetch;
use std::ptr;

/// Bytes of memory that a processor fetches at once.
pub(crate) const CACHE_LINE: usize = 64;

/// Asks for the lines of `value` before they are needed, all at once rather than one by one.
#[inline]
pub(crate) fn prefetch<T: ?Sized>(value: &T) {
    prefetch_at(ptr::from_ref(value).cast(), size_of_val(value));
}

/// Asks for `len` bytes from an address on, whatever lies there.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub(crate) fn prefetch_at(address: *const u8, len: usize) {
    for offset in (0..len).step_by(CACHE_LINE) {
        let line = address.cast::<i8>().wrapping_add(offset);
        #[expect(unsafe_code, reason = "the instruction is unsafe to name")]
        // SAFETY: it reads nothing that the program sees.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line);
        }
    }
}

/// Nothing: the processor finds out for itself.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
pub(crate) fn prefetch_at(_: *const u8, _: usize) {}
