//! How much of a log is proven durable by the log's own claims.

use std::collections::VecDeque;

use crate::base::ids::FileId;
use crate::base::seqno::SeqNo;

/// Bytes between the places that are remembered: nearly exact is enough.
const MARK_EVERY: u64 = 64 << 10;

/// A place in the log where a record starts, or (offset 0) a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) id: FileId,
    pub(super) offset: u64,
    /// The sequence number that comes next there.
    pub(super) next: SeqNo,
}

/// Follows a log from front to back.
#[derive(Debug, Default)]
pub(super) struct Proof {
    durable: SeqNo,
    /// From the last place that is proven durable on, each with the claim that proves that all in
    /// front of it is durable.
    marks: VecDeque<(Mark, SeqNo)>,
    segment_is_empty: bool,
}

impl Proof {
    /// A segment starts, and its header makes a claim.
    pub(super) fn segment(&mut self, id: FileId, first: SeqNo, durable: SeqNo) {
        let before = SeqNo::new(first.get().saturating_sub(1));
        // The header may say that the segment's first records are durable. That proves nothing
        // about the header itself.
        self.claim(durable.min(before));
        // No claim about records covers the header of a segment without any, except one about
        // records behind it.
        let needs = if self.segment_is_empty { first } else { before };
        let mark = Mark { id, offset: 0, next: first };
        self.mark(mark, needs);
        self.segment_is_empty = true;
    }

    /// A record starts at `mark`, and makes a claim.
    pub(super) fn record(&mut self, mark: Mark, durable: SeqNo) {
        self.claim(durable);
        let near = self
            .marks
            .back()
            .is_some_and(|(last, _)| last.id == mark.id && mark.offset < last.offset + MARK_EVERY);
        if !near {
            self.mark(mark, SeqNo::new(mark.next.get().saturating_sub(1)));
        }
        self.segment_is_empty = false;
    }

    fn claim(&mut self, durable: SeqNo) {
        self.durable = self.durable.max(durable);
        while self.marks.get(1).is_some_and(|(_, needs)| *needs <= self.durable) {
            self.marks.pop_front();
        }
    }

    fn mark(&mut self, mark: Mark, needs: SeqNo) {
        if needs <= self.durable {
            self.marks.clear();
        }
        self.marks.push_back((mark, needs));
    }

    /// The place in front of which everything is proven durable.
    pub(super) fn unproven(&self) -> Option<Mark> {
        self.marks.front().map(|(mark, _)| *mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replays `(offset, next, durable)` of one segment with this first and durable seqno.
    fn segment(proof: &mut Proof, id: u64, first: u64, durable: u64, records: &[(u64, u64, u64)]) {
        let id = FileId(id);
        proof.segment(id, SeqNo::new(first), SeqNo::new(durable));
        for (offset, next, durable) in records {
            let mark = Mark { id, offset: *offset, next: SeqNo::new(*next) };
            proof.record(mark, SeqNo::new(*durable));
        }
    }

    fn unproven(proof: &Proof) -> (u64, u64) {
        let mark = proof.unproven().unwrap();
        (mark.id.0, mark.offset)
    }

    const FAR: u64 = MARK_EVERY;

    #[test]
    fn a_claim_proves_what_is_in_front_of_it() {
        let mut proof = Proof::default();
        segment(&mut proof, 1, 1, 0, &[(64, 1, 0), (FAR, 2, 0), (2 * FAR, 3, 0)]);
        assert_eq!(unproven(&proof), (1, 0));
        segment(&mut proof, 2, 4, 1, &[(64, 4, 1)]);
        assert_eq!(unproven(&proof), (1, FAR));
        segment(&mut proof, 3, 5, 2, &[(64, 5, 4)]);
        assert_eq!(unproven(&proof), (3, 0));
    }

    #[test]
    fn a_header_does_not_prove_itself() {
        let mut proof = Proof::default();
        segment(&mut proof, 2, 1, 9, &[(64, 1, 0), (FAR, 5, 0), (2 * FAR, 9, 0)]);
        assert_eq!(unproven(&proof), (2, 0));
        segment(&mut proof, 2, 10, 9, &[(64, 10, 9)]);
        assert_eq!(unproven(&proof), (2, 0));
    }

    #[test]
    fn a_segment_without_records_is_proven_by_records_behind_it_only() {
        let mut proof = Proof::default();
        segment(&mut proof, 1, 1, 0, &[(64, 1, 0)]);
        segment(&mut proof, 2, 2, 1, &[]);
        segment(&mut proof, 3, 2, 1, &[(64, 2, 1)]);
        assert_eq!(unproven(&proof), (2, 0));
        segment(&mut proof, 4, 3, 2, &[]);
        assert_eq!(unproven(&proof), (4, 0));
    }
}
