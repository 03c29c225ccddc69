//! k-way merge by a loser tree.
//!
//! A loser tree is a tournament whose inner nodes remember who *lost* there. When the winner moves
//! on, only its path to the root is played again: one comparison per level, where a heap needs two.
//! Each source's key is kept as a 16-byte head beside the tree, so that most comparisons are one
//! integer comparison that touches no block.
//!
//! *Where the sources stand.* Forwards, each source stands at its first entry at or after the
//! current one; backwards, at its last entry at or before it. A change of direction repositions all
//! other sources by a seek. Sources that are exhausted in the current direction lose to all others.
//!
//! *Runs.* While one source wins again and again, the tree does not change: the best of the others
//! (the *rival*, who must have lost to the winner directly) is known, and a step costs one comparison
//! with it. With one source there is no rival, and every step goes straight to it.

use std::cmp::Ordering;

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::InternalKey;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::key::head16;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

#[derive(Debug)]
struct Player<I> {
    iter: I,
    /// Head of the current user key; meaningless while the source is exhausted.
    head: u128,
    valid: bool,
    /// Who lost, and in a whole tournament who won, at the inner node with this player's number.
    lost: usize,
    won: usize,
}

impl<I: InternalIter> Player<I> {
    fn new(iter: I) -> Player<I> {
        Player { iter, head: 0, valid: false, lost: 0, won: 0 }
    }

    #[inline]
    fn refresh(&mut self) {
        self.valid = self.iter.valid();
        if self.valid {
            self.head = head16(self.iter.key().user);
        }
    }
}

/// A cursor over the entries of all sources. Of entries with equal internal keys, which only a
/// broken database has, all are returned.
#[derive(Debug)]
pub(crate) struct Merging<I> {
    /// The tree's nodes are numbered as in a heap: the leaves of players 0, 1, … are
    /// `players.len()`, `players.len() + 1`, …, and what inner node n knows is kept with player n.
    players: Vec<Player<I>>,
    winner: usize,
    /// The player that comes next after the winner, unless all others are exhausted.
    rival: Option<usize>,
    direction: Direction,
    /// For the current key while the sources are repositioned.
    scratch: InternalKey,
}

impl<I: InternalIter> Merging<I> {
    pub(crate) fn new(sources: Vec<I>) -> Merging<I> {
        let mut merging = Merging::with_capacity(sources.len());
        sources.into_iter().for_each(|source| merging.add(source));
        merging
    }

    /// A cursor over nothing yet, with room for so many sources.
    pub(crate) fn with_capacity(sources: usize) -> Merging<I> {
        Merging {
            players: Vec::with_capacity(sources),
            winner: 0,
            rival: None,
            direction: Direction::Forward,
            scratch: InternalKey::default(),
        }
    }

    /// Adds a source. Requires: the cursor was not placed yet.
    pub(crate) fn add(&mut self, source: I) {
        self.players.push(Player::new(source));
    }

    /// Does player `a` come before player `b` in the current direction?
    #[inline]
    fn beats(&self, a: usize, b: usize) -> bool {
        let (x, y) = (&self.players[a], &self.players[b]);
        if x.valid && y.valid && x.head != y.head {
            return (x.head < y.head) == (self.direction == Direction::Forward);
        }
        self.beats_closely(a, b)
    }

    /// The same, where heads do not decide it.
    #[inline(never)]
    fn beats_closely(&self, a: usize, b: usize) -> bool {
        let (x, y) = (&self.players[a], &self.players[b]);
        if !x.valid || !y.valid {
            return x.valid || (!y.valid && a < b);
        }
        let order = x.head.cmp(&y.head).then_with(|| x.iter.key().cmp(&y.iter.key()));
        match (order, self.direction) {
            (Ordering::Equal, _) => a < b,
            (Ordering::Less, Direction::Forward) | (Ordering::Greater, Direction::Backward) => true,
            _ => false,
        }
    }

    /// Plays the whole tournament, after all sources have moved.
    fn rebuild(&mut self) {
        let n = self.players.len();
        for player in &mut self.players {
            player.refresh();
        }
        if n < 2 {
            return;
        }
        for node in (1..n).rev() {
            let (a, b) = (self.winner_at(2 * node), self.winner_at(2 * node + 1));
            let (winner, loser) = if self.beats(a, b) { (a, b) } else { (b, a) };
            self.players[node].won = winner;
            self.players[node].lost = loser;
        }
        self.winner = self.winner_at(1);
        self.find_rival();
    }

    fn winner_at(&self, node: usize) -> usize {
        // A leaf is its player's.
        self.players.get(node).map_or_else(|| node - self.players.len(), |player| player.won)
    }

    /// Plays the winner's path again, after it alone has moved.
    #[inline(never)]
    fn replay(&mut self) {
        let mut winner = self.winner;
        for node in self.path(winner) {
            let loser = self.players[node].lost;
            if self.beats(loser, winner) {
                self.players[node].lost = winner;
                winner = loser;
            }
        }
        self.winner = winner;
        self.find_rival();
    }

    /// The inner nodes from a player's leaf up to the root.
    fn path(&self, player: usize) -> impl Iterator<Item = usize> + use<I> {
        // The leaf of player p is node n + p.
        let leaf = self.players.len() + player;
        std::iter::successors(Some(leaf / 2), |node| Some(node / 2)).take_while(|node| *node > 0)
    }

    /// The rival is among those that the winner met. A source that is exhausted is none.
    fn find_rival(&mut self) {
        let met = self.path(self.winner).map(|node| self.players[node].lost);
        let best = met.reduce(|best, loser| if self.beats(loser, best) { loser } else { best });
        self.rival = best.filter(|rival| self.players[*rival].valid);
    }

    /// Keeps the tournament's order after the winner has moved.
    #[inline]
    fn settle(&mut self) {
        match self.rival {
            // Nobody asks for its head.
            None => {
                let player = &mut self.players[self.winner];
                player.valid = player.iter.valid();
            }
            Some(rival) => self.settle_beside(rival),
        }
    }

    #[inline]
    fn settle_beside(&mut self, rival: usize) {
        let winner = self.winner;
        self.players[winner].refresh();
        if !self.beats(winner, rival) {
            self.replay();
        }
    }

    /// Moves every source by `step`, then finds the first of them.
    fn place(
        &mut self,
        direction: Direction,
        mut step: impl FnMut(&mut I) -> Result<()>,
    ) -> Result<()> {
        self.direction = direction;
        for index in 0..self.players.len() {
            if let Err(error) = step(&mut self.players[index].iter) {
                return self.fail(Err(error));
            }
        }
        self.rebuild();
        Ok(())
    }

    /// Leaves the cursor nowhere after an error.
    fn fail(&mut self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            for player in &mut self.players {
                player.valid = false;
            }
        }
        result
    }

    /// Turns around at the current entry: all other sources go to its other side.
    #[cold]
    fn turn(&mut self, direction: Direction) -> Result<()> {
        let mut here = std::mem::take(&mut self.scratch);
        let key = self.key();
        here.user.clear();
        here.user.extend_from_slice(key.user);
        here.trailer = key.trailer;
        let winner = self.winner;
        self.direction = direction;
        let mut result = Ok(());
        for index in (0..self.players.len()).filter(|index| *index != winner) {
            let iter = &mut self.players[index].iter;
            result = match direction {
                Direction::Forward => iter.seek(here.as_ref()),
                Direction::Backward => iter.seek_for_prev(here.as_ref()),
            };
            if result.is_err() {
                break;
            }
        }
        self.scratch = here;
        self.fail(result)
    }

    /// Moves the winner by `skip`, which gets it past entries that nobody needs. The other sources do
    /// so when they win; after a turn all are placed anew.
    fn skip(
        &mut self,
        direction: Direction,
        skip: impl FnOnce(&mut I) -> Result<()>,
    ) -> Result<()> {
        if self.direction != direction {
            return self.step(direction);
        }
        let moved = skip(&mut self.players[self.winner].iter);
        if moved.is_err() {
            return self.fail(moved);
        }
        self.settle();
        Ok(())
    }

    /// To the next entry by `try_move`, which moves a source in `direction`, unless the sources must
    /// turn around for it, or another one has the same key. If there are others, by `try_move_head`.
    #[inline]
    fn try_step(
        &mut self,
        direction: Direction,
        try_move: impl FnOnce(&mut I) -> Option<Trailer>,
        try_move_head: impl FnOnce(&mut I) -> Option<(Trailer, u128)>,
    ) -> Option<Trailer> {
        if self.direction != direction {
            return None;
        }
        let Some(rival) = self.rival else {
            return try_move(&mut self.players.get_mut(self.winner)?.iter);
        };
        if self.share_key(self.winner, rival) {
            return None;
        }
        let winner = self.winner;
        let player = self.players.get_mut(winner)?;
        let (trailer, head) = try_move_head(&mut player.iter)?;
        player.head = head;
        if self.beats(winner, rival) {
            return Some(trailer);
        }
        self.replay();
        Some(self.key().trailer)
    }

    /// Do two players stand on versions of the same key?
    #[inline]
    fn share_key(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.players[a], &self.players[b]);
        a.head == b.head && a.iter.key().user == b.iter.key().user
    }

    fn step(&mut self, direction: Direction) -> Result<()> {
        let turned = self.direction != direction;
        if turned {
            self.turn(direction)?;
        }
        let winner = &mut self.players[self.winner].iter;
        let moved = match direction {
            Direction::Forward => winner.next(),
            Direction::Backward => winner.prev(),
        };
        if moved.is_err() {
            return self.fail(moved);
        }
        if turned {
            self.rebuild();
        } else {
            self.settle();
        }
        Ok(())
    }
}

impl<I: InternalIter> InternalIter for Merging<I> {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.place(Direction::Forward, |iter| iter.seek(target))
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.place(Direction::Backward, |iter| iter.seek_for_prev(target))
    }

    fn seek_to_first(&mut self) -> Result<()> {
        self.place(Direction::Forward, I::seek_to_first)
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.place(Direction::Backward, I::seek_to_last)
    }

    fn next(&mut self) -> Result<()> {
        self.step(Direction::Forward)
    }

    fn prev(&mut self) -> Result<()> {
        self.step(Direction::Backward)
    }

    #[inline]
    fn try_next(&mut self) -> Option<Trailer> {
        self.try_step(Direction::Forward, I::try_next, I::try_next_head)
    }

    #[inline]
    fn try_prev(&mut self) -> Option<Trailer> {
        self.try_step(Direction::Backward, I::try_prev, I::try_prev_head)
    }

    fn pass_versions(&mut self, user: &[u8]) -> Result<()> {
        self.skip(Direction::Forward, |iter| iter.pass_versions(user))
    }

    fn skip_forward(&mut self, to: Option<&[u8]>, below: SeqNo) -> Result<()> {
        self.skip(Direction::Forward, |iter| iter.skip_forward(to, below))
    }

    fn skip_backward(&mut self, from: &[u8], below: SeqNo) -> Result<()> {
        self.skip(Direction::Backward, |iter| iter.skip_backward(from, below))
    }

    #[inline]
    fn valid(&self) -> bool {
        self.players.get(self.winner).is_some_and(|player| player.valid)
    }

    #[inline]
    fn key(&self) -> KeyRef<'_> {
        self.players[self.winner].iter.key()
    }

    #[inline]
    fn is_sole(&self) -> bool {
        let shared = self.rival.is_some_and(|rival| self.share_key(self.winner, rival));
        !shared && self.players[self.winner].iter.is_sole()
    }

    #[inline]
    fn is_hot(&self) -> bool {
        self.players[self.winner].iter.is_hot()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.players[self.winner].iter.value()
    }

    fn value_slice(&self) -> Slice {
        self.players[self.winner].iter.value_slice()
    }
}
