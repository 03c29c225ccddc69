//! A file of a [`MemFs`](super::MemFs): what is seen, what is durable, and the changes between.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::sync::Mutex;
use crate::fs::mem::CrashMode;
use crate::fs::mem::rng::Rng;

/// Files do not grow beyond this, so that a wrong offset is an error and not the end of the process.
const LEN_MAX: u64 = 1 << 32;

/// A file. It lives as long as a name or a handle refers to it. Locked only under the lock of the
/// whole file system.
pub(super) type FileRef = Arc<Mutex<File>>;

/// Content is shared with crash clones and readers, and copied when it is written while shared.
#[derive(Clone, Debug, Default)]
pub(super) struct File {
    seen: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    /// Changes since the last sync, in order.
    log: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Bytes },
    SetLen(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => put(content, *offset, bytes),
            Change::SetLen(len) => content.resize(*len, 0),
        }
    }
}

/// Writes `bytes` at `offset`; a gap before it is zeros.
fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl File {
    pub(super) fn seen(&self) -> &Arc<Vec<u8>> {
        &self.seen
    }

    fn change(&mut self, change: Change) {
        change.apply(Arc::make_mut(&mut self.seen));
        self.log.push(change);
    }

    pub(super) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset.saturating_add(bytes.len() as u64) > LEN_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.change(Change::Write {
            offset: offset as usize,
            bytes: Bytes::copy_from_slice(bytes),
        });
        Ok(())
    }

    pub(super) fn set_len(&mut self, len: u64) -> io::Result<()> {
        if len > LEN_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.change(Change::SetLen(len as usize));
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        if self.log.is_empty() {
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        for change in self.log.drain(..) {
            change.apply(durable);
        }
    }

    /// What a failed sync does on Linux: the pages count as clean, and are on no disk.
    pub(super) fn drop_unsynced(&mut self) {
        self.log.clear();
    }

    /// The file after a crash. `stale` are contents of removed files, which new ones may be made of.
    pub(super) fn crash(&self, mode: CrashMode, rng: &mut Rng, stale: &[Arc<Vec<u8>>]) -> File {
        let left = match mode {
            CrashMode::KeepAll => return self.clone(),
            CrashMode::Prefix if !self.log.is_empty() => Arc::new(self.prefix(rng)),
            CrashMode::Subset if !self.log.is_empty() => Arc::new(self.subset(rng, stale)),
            CrashMode::Strict | CrashMode::Prefix | CrashMode::Subset => Arc::clone(&self.durable),
        };
        File { seen: Arc::clone(&left), durable: left, log: Vec::new() }
    }

    fn prefix(&self, rng: &mut Rng) -> Vec<u8> {
        let mut left = self.durable.to_vec();
        let whole = rng.below(self.log.len() + 1);
        for change in &self.log[..whole] {
            change.apply(&mut left);
        }
        if let Some(Change::Write { offset, bytes }) = self.log.get(whole) {
            let boundary = rng.pick([1, 512, 4096]);
            let end = (offset + rng.below(bytes.len() + 1)) / boundary * boundary;
            put(&mut left, *offset, &bytes[..end.saturating_sub(*offset)]);
        }
        left
    }

    fn subset(&self, rng: &mut Rng, stale: &[Arc<Vec<u8>>]) -> Vec<u8> {
        let stale: &[u8] = match rng.below(stale.len() + 1) {
            0 => &[],
            n => &stale[n - 1],
        };
        let mut fate = Fate {
            piece_len: rng.pick([512, 4096]),
            kept_eighths: rng.pick([1, 4, 7, 8]),
            durable_len: self.durable.len(),
            stale,
            rng,
        };
        let mut left = self.durable.to_vec();
        for change in &self.log {
            match change {
                Change::Write { offset, bytes } => fate.write(&mut left, *offset, bytes),
                Change::SetLen(_) => {
                    if fate.rng.chance(fate.kept_eighths) {
                        change.apply(&mut left);
                    }
                }
            }
        }
        if let Some(grown) = left.len().checked_sub(self.durable.len()) {
            let kept = match rng.below(4) {
                0 => 0,
                1 => rng.below(grown + 1),
                _ => grown,
            };
            left.truncate(self.durable.len() + kept);
        }
        left
    }
}

/// How the pieces of a file's unsynced writes fare in a crash.
struct Fate<'a> {
    piece_len: usize,
    /// How likely a piece is on the disk.
    kept_eighths: usize,
    durable_len: usize,
    /// What lies in the blocks that the file grew into.
    stale: &'a [u8],
    rng: &'a mut Rng,
}

impl Fate<'_> {
    fn write(&mut self, left: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = (self.piece_len - at % self.piece_len).min(rest.len());
            let (piece, after) = rest.split_at(len);
            self.piece(left, at, piece);
            at += len;
            rest = after;
        }
    }

    fn piece(&mut self, left: &mut Vec<u8>, at: usize, piece: &[u8]) {
        let end = at + piece.len();
        if left.len() < end {
            left.resize(end, 0);
        }
        let there = &mut left[at..end];
        if self.rng.chance(self.kept_eighths) {
            there.copy_from_slice(piece);
            return;
        }
        match self.rng.below(3) {
            0 => there.fill(0),
            1 => self.rng.fill(there),
            _ => {
                // Overwritten bytes stay what they were. New ones are what the disk last held.
                let new_from = at.max(self.durable_len);
                let stale = self.stale.get(new_from..).unwrap_or_default();
                let new = &mut there[(new_from - at).min(piece.len())..];
                let len = new.len().min(stale.len());
                new[..len].copy_from_slice(&stale[..len]);
            }
        }
    }
}
