//! Decisions by chance, for what must be rare but needs no counter that threads share.

use std::cell::Cell;

/// True once in `n` times, on average.
pub(crate) fn one_of(n: u32) -> bool {
    thread_local! {
        static STATE: Cell<u32> = const { Cell::new(0x9e37_79b9) };
    }
    // Marsaglia's xorshift.
    let mut x = STATE.get();
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    STATE.set(x);
    x.is_multiple_of(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_as_often_as_is_said() {
        let often = (0..16_000).filter(|_| one_of(16)).count();
        assert!((900..1100).contains(&often), "{often} of 1000");
    }
}
