//! What is hidden by range tombstones from a reader: which numbers, around which keys, and up to where
//! a dead stretch goes that a cursor may get past by a seek.
//!
//! Nothing is merged in advance: an iterator that is made, reads ten entries and ends asks each source
//! of tombstones about once.

use crate::base::error::Result;
use crate::base::range_tombstone::RangeSource;
use crate::base::range_tombstone::Spot;
use crate::base::range_tombstone::Window;
use crate::base::seqno::SeqNo;

/// So many windows are made one stretch.
const STRETCH_MAX: usize = 64;

/// The range tombstones over what a cursor reads.
#[derive(Debug)]
pub(crate) struct Cover {
    sources: Vec<Box<dyn RangeSource>>,
    at: SeqNo,
    /// What was asked last; meaningful if `is_known`.
    window: Window,
    is_known: bool,
    /// Keys that are all covered by tombstones at or above its number; empty if that is 0.
    stretch: Window,
    next: Window,
}

impl Cover {
    /// For a reader at `at`. Requires: all tombstones that it sees are in `sources`.
    pub(crate) fn new(sources: Vec<Box<dyn RangeSource>>, at: SeqNo) -> Cover {
        Cover {
            sources,
            at,
            window: Window::default(),
            is_known: false,
            stretch: Window::default(),
            next: Window::default(),
        }
    }

    fn ask(
        sources: &[Box<dyn RangeSource>],
        spot: Spot<'_>,
        at: SeqNo,
        window: &mut Window,
    ) -> Result<()> {
        window.open();
        sources.iter().try_for_each(|source| source.narrow(spot, at, window))
    }

    /// The newest tombstone over `key`; 0 if there is none.
    #[inline]
    pub(crate) fn newest_over(&mut self, key: &[u8]) -> Result<SeqNo> {
        if !(self.is_known && self.window.contains(key)) {
            self.is_known = false;
            Cover::ask(&self.sources, Spot::At(key), self.at, &mut self.window)?;
            self.is_known = true;
        }
        Ok(self.window.seqno)
    }

    /// If an entry of `key` at `seqno` is dead: a stretch of keys around it in which everything below
    /// the stretch's number is. It goes as far as touching tombstones do, on in key order or back.
    #[inline]
    pub(crate) fn dead_stretch(
        &mut self,
        key: &[u8],
        seqno: SeqNo,
        forward: bool,
    ) -> Result<Option<&Window>> {
        if seqno < self.stretch.seqno && self.stretch.contains(key) {
            return Ok(Some(&self.stretch));
        }
        if self.newest_over(key)? <= seqno {
            return Ok(None);
        }
        self.stretch.clone_from(&self.window);
        for _ in 0..STRETCH_MAX {
            let more = if forward { self.grow_forward()? } else { self.grow_backward()? };
            if !more {
                break;
            }
        }
        Ok(Some(&self.stretch))
    }

    fn grow_forward(&mut self) -> Result<bool> {
        let Some(to) = &self.stretch.to else { return Ok(false) };
        Cover::ask(&self.sources, Spot::At(to), self.at, &mut self.next)?;
        let more = self.next.seqno >= self.stretch.seqno;
        if more {
            self.stretch.to = self.next.to.take();
        }
        Ok(more)
    }

    fn grow_backward(&mut self) -> Result<bool> {
        if self.stretch.from.is_empty() {
            return Ok(false);
        }
        let spot = Spot::Before(&self.stretch.from);
        Cover::ask(&self.sources, spot, self.at, &mut self.next)?;
        let more = self.next.seqno >= self.stretch.seqno;
        if more {
            std::mem::swap(&mut self.stretch.from, &mut self.next.from);
        }
        Ok(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::range_tombstone::Fragments;

    fn list(pieces: &[(&str, &str, u64)]) -> Box<dyn RangeSource> {
        Box::new(Fragments::cut(
            pieces.iter().map(|(from, to, seqno)| {
                (from.as_bytes(), Some(to.as_bytes()), SeqNo::new(*seqno))
            }),
        ))
    }

    #[test]
    fn touching_tombstones_are_one_stretch() {
        let sources = || {
            vec![
                list(&[("b", "d", 5), ("d", "f", 7), ("f", "h", 3)]),
                list(&[("h", "k", 6), ("m", "n", 9)]),
            ]
        };
        let mut cover = Cover::new(sources(), SeqNo::new(8));
        let n = SeqNo::new;
        let mut newest = |key: &str| cover.newest_over(key.as_bytes()).unwrap().get();
        let numbers = ["a", "b", "c", "d", "f", "g", "h", "k", "m"].map(&mut newest);
        assert_eq!(numbers, [0, 5, 5, 7, 3, 3, 6, 0, 0]);
        let mut stretch = |key: &str, seqno: u64, forward: bool| {
            let found = cover.dead_stretch(key.as_bytes(), n(seqno), forward).unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.map(|w| (text(&w.from), w.to.as_deref().map(text), w.seqno.get()))
        };
        let some = |from: &str, to: &str, seqno| Some((from.into(), Some(to.into()), seqno));
        assert_eq!(stretch("a", 1, true), None);
        assert_eq!(stretch("c", 5, true), None);
        assert_eq!(stretch("c", 4, true), some("b", "f", 5));
        // Within what is known already.
        assert_eq!(stretch("e", 4, true), some("b", "f", 5));
        assert_eq!(stretch("e", 6, true), some("d", "f", 7));
        assert_eq!(stretch("g", 1, true), some("f", "k", 3));
        assert_eq!(stretch("j", 1, false), some("f", "k", 3));
        assert_eq!(stretch("j", 5, false), some("h", "k", 6));
        let mut cover = Cover::new(sources(), SeqNo::new(8));
        let back = cover.dead_stretch(b"g", n(1), false).unwrap().unwrap();
        assert_eq!((&*back.from, back.to.as_deref()), (&b"b"[..], Some(&b"h"[..])));
    }
}
