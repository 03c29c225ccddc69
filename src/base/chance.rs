//! Decisions by chance, for what must be rare but needs no counter that threads share.

use std::cell::Cell;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// True once in `n` times, on average.
pub(crate) fn one_of(n: u32) -> bool {
    thread_local! {
        static STATE: Cell<u32> = Cell::new(seed());
    }
    // Marsaglia's xorshift.
    let mut x = STATE.get();
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    STATE.set(x);
    x.is_multiple_of(n)
}

/// Another one for each thread, or many that live shortly would all decide alike. Never 0.
fn seed() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(2, Relaxed).wrapping_mul(0x9e37_79b9)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn it_comes_as_often_as_is_said() {
        let often = (0..160_000).filter(|_| one_of(16)).count();
        assert!((9_000..11_000).contains(&often), "{often} of 10,000");
    }

    #[test]
    fn no_two_threads_decide_alike() {
        let seeds: HashSet<u32> = (0..1000).map(|_| seed()).collect();
        assert!(seeds.len() == 1000 && !seeds.contains(&0));
    }
}
