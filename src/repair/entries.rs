//! All entries of one keyspace's SSTs in THE order, as far as they still read.

use std::cmp::Ordering;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::VecDeque;

use crate::base::error::Result;
use crate::base::key::InternalKey;
use crate::base::key::Trailer;
use crate::base::range_tombstone::Fragments;
use crate::base::seqno::SeqNo;
use crate::base::sorted::sort_by;
use crate::base::value::ValueKind;
use crate::fs::Fs;
use crate::fs::ReadMode;
use crate::repair::blobs::BlobFiles;
use crate::repair::inventory::SstSource;
use crate::repair::log::RangeTombstone;
use crate::repair::report::Loss;
use crate::repair::report::RepairReport;
use crate::sst::SalvageIter;

/// Files that do not overlap, in order: one of them is open at a time.
struct Run {
    files: VecDeque<SstSource>,
    current: Option<(SalvageIter, u64)>,
}

/// An entry of run `run`; the smallest is the greatest, as a heap wants it.
struct Head {
    key: InternalKey,
    run: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Head) -> Ordering {
        Reverse((self.key.as_ref(), self.run)).cmp(&Reverse((other.key.as_ref(), other.run)))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

/// A cursor over what is left of several SSTs. Holds a block of each run of files.
pub(super) struct Entries<'a> {
    fs: &'a dyn Fs,
    runs: Vec<Run>,
    heads: BinaryHeap<Head>,
    /// Range tombstones of all files and of the log.
    ranges: Fragments,
    /// Is a number of 0 older than any tombstone? Not if files may be among these that others have
    /// replaced, with tombstones that had served.
    is_proven: bool,
    /// Bytes read so far.
    pub(super) done: u64,
}

impl<'a> Entries<'a> {
    /// Stands on the first entry. `logged` are range tombstones of the log.
    pub(super) fn new(
        fs: &'a dyn Fs,
        files: Vec<SstSource>,
        logged: &[RangeTombstone],
        is_proven: bool,
        report: &mut RepairReport,
    ) -> Entries<'a> {
        let ranges = ranges_of(fs, &files, logged);
        let (runs, heads) = (runs(files), BinaryHeap::new());
        let mut entries = Entries { fs, runs, heads, ranges, is_proven, done: 0 };
        for run in 0..entries.runs.len() {
            entries.advance(run, report);
        }
        entries
    }

    /// The key of the entry, if there is one.
    pub(super) fn key(&self) -> Option<&InternalKey> {
        self.heads.peek().map(|head| &head.key)
    }

    /// The value of the entry.
    pub(super) fn value(&self) -> &[u8] {
        let run = self.heads.peek().and_then(|head| self.runs.get(head.run));
        run.and_then(|run| run.current.as_ref()).map_or(&[], |(iter, _)| iter.value())
    }

    /// Moves the versions of `user` to `versions`, newest first, down to the first that is no merge
    /// operand; passes over the others.
    pub(super) fn take_versions(
        &mut self,
        user: &[u8],
        versions: &mut Vec<(Trailer, Vec<u8>)>,
        blobs: &mut BlobFiles,
        report: &mut RepairReport,
    ) {
        let is_operand = |trailer: Trailer| trailer.kind() == Some(ValueKind::Merge);
        let mut is_complete = false;
        // What the log has instead makes what is older superfluous.
        let others = versions.iter().filter(|(trailer, _)| !is_operand(*trailer));
        let known = others.map(|(trailer, _)| trailer.seqno()).max();
        while let Some(key) = self.key().filter(|key| key.user == user) {
            let trailer = key.trailer;
            is_complete |= known.is_some_and(|known| trailer.seqno() <= known);
            // Of a value that is lost, an older version counts.
            if !is_complete
                && let Some(entry) = blobs.resolve(user, (trailer, self.value()), report)
            {
                versions.push(entry);
                is_complete = !is_operand(trailer);
            }
            self.next(report);
        }
    }

    /// Takes out of the `versions` of `user` what range tombstones hide.
    pub(super) fn hide_dead(&self, user: &[u8], versions: &mut Vec<(Trailer, Vec<u8>)>) {
        let dead = self.ranges.newest_over(user, SeqNo::MAX);
        versions.retain(|(trailer, _)| {
            let seqno = trailer.seqno();
            seqno >= dead || seqno == SeqNo::ZERO && !self.is_proven
        });
    }

    fn next(&mut self, report: &mut RepairReport) {
        if let Some(head) = self.heads.pop() {
            self.advance(head.run, report);
        }
    }

    fn advance(&mut self, at: usize, report: &mut RepairReport) {
        let Some(run) = self.runs.get_mut(at) else { return };
        loop {
            if let Some((iter, counted)) = &mut run.current {
                let more = iter.next();
                self.done += iter.position().saturating_sub(*counted);
                *counted = iter.position().max(*counted);
                for damage in iter.take_damage() {
                    report.lose(Loss {
                        file: iter.path().to_owned(),
                        offset: damage.offset,
                        bytes: damage.bytes,
                        what: damage.what,
                        keys: damage.keys,
                    });
                }
                if more {
                    self.heads.push(Head { key: InternalKey::from(iter.key()), run: at });
                    return;
                }
                run.current = None;
            }
            let Some(file) = run.files.pop_front() else { return };
            match open(self.fs, &file) {
                Ok(iter) => {
                    report.files += 1;
                    run.current = Some((iter, 0));
                }
                Err(error) => report.lose_file(&file.path, file.bytes, &error),
            }
        }
    }
}

/// The range tombstones of `files`, as far as they can be read, and those of the log. (What cannot be
/// read is reported when the entries are.)
fn ranges_of(fs: &dyn Fs, files: &[SstSource], logged: &[RangeTombstone]) -> Fragments {
    let opened = files.iter().filter(|file| file.may_have_ranges);
    let opened: Vec<_> = opened.filter_map(|file| open(fs, file).ok()).collect();
    let logged = logged.iter().map(|(from, to, seqno)| (from.as_slice(), to.as_deref(), *seqno));
    let pieces = opened.iter().flat_map(|file| file.ranges().pieces()).chain(logged);
    // For a reader that comes after all of them.
    Fragments::cut_for(pieces, &[])
}

fn open(fs: &dyn Fs, file: &SstSource) -> Result<SalvageIter> {
    let opened = fs.open(&file.path, ReadMode::Sequential)?;
    SalvageIter::open(opened, file.path.clone(), file.uid)
}

/// As few runs as the files can be put into: so many files are open at once, and no more.
fn runs(mut files: Vec<SstSource>) -> Vec<Run> {
    sort_by(&mut files, |a, b| a.keys.cmp(&b.keys));
    let mut runs: Vec<(Option<Vec<u8>>, VecDeque<SstSource>)> = Vec::new();
    for file in files {
        let fits = runs.iter_mut().find(|(last, _)| match (last, &file.keys) {
            (Some(last), Some((from, _))) => *last < *from,
            _ => false,
        });
        let last = file.keys.as_ref().map(|(_, to)| to.clone());
        match fits {
            Some(run) => {
                run.0 = last;
                run.1.push_back(file);
            }
            None => runs.push((last, VecDeque::from([file]))),
        }
    }
    runs.into_iter().map(|(_, files)| Run { files, current: None }).collect()
}
