//! Reads the log back, and tells what a crash cut off from what was damaged.
#![deny(clippy::indexing_slicing)]

use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use bytes::Bytes;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::options::Recovery;
use crate::base::seqno::SeqNo;
use crate::fs::DirEntry;
use crate::fs::Fs;
use crate::fs::names::wal_path;
use crate::record::Context;
use crate::record::Scan;
use crate::record::Stamp;
use crate::record::file;
use crate::record::scan_for_valid;
use crate::wal::catalog::Catalog;
use crate::wal::catalog::Start;
use crate::wal::decode::Decode;
use crate::wal::decode::LogRecord;
use crate::wal::decode::Stop;
use crate::wal::given_up::GivenUp;
use crate::wal::proof::Mark;
use crate::wal::proof::Proof;
use crate::wal::salvage::salvage;
use crate::wal::segment::RECORDS_START;
use crate::wal::segment::SegmentHeader;

/// No crash loses so many operations: a log of so many would have tens of gigabytes at least.
const LOST_OPS_MAX: u64 = 1 << 34;

/// Which log to read, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSource<'a> {
    pub(crate) fs: &'a dyn Fs,
    pub(crate) dir: &'a Path,
    pub(crate) db: DbId,
    /// The oldest segment that is needed; 0 if the log was never cut.
    pub(crate) floor: FileId,
    /// The log was synced up to here before the manifest said so; 0 if it says nothing.
    pub(crate) durable: SeqNo,
    pub(crate) mode: Recovery,
}

/// A segment that is part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveSegment {
    pub(crate) id: FileId,
    pub(crate) first_seqno: SeqNo,
    /// The one before `first_seqno` if the segment holds no record.
    pub(crate) last_seqno: SeqNo,
    /// The file's length.
    pub(crate) bytes: u64,
    /// Where its records end.
    pub(crate) end: u64,
}

/// What [`recover`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecoveredLog {
    /// The last sequence number in the log, or the one before the first if it holds no record.
    pub(crate) last_seqno: SeqNo,
    /// The segments of the log, oldest first.
    pub(crate) segments: Vec<LiveSegment>,
    /// Where the log ends.
    pub(crate) tail: Option<(FileId, u64)>,
    /// In front of here the log is proven durable.
    pub(super) unproven: Option<Mark>,
    /// Segments behind the end, which were part of the log before the crash.
    pub(crate) dropped: Vec<FileId>,
    /// Segments that were prepared and never started, given up earlier, or below the floor.
    pub(crate) debris: Vec<FileId>,
    /// What damage cost, in mode [`Recovery::ToLastConsistentPoint`].
    pub(crate) given_up: Option<GivenUp>,
}

/// What is done with the batches of a segment.
pub(crate) type Visit<'a> = dyn FnMut(&[LogRecord<&[u8]>]) -> Result<()> + 'a;

/// Reads the log and hands its batches to `visit`: one call per segment, in order, so that memory
/// holds one segment, and at the log's end one more. Reads each segment once, after its header, and
/// changes nothing on disk.
///
/// # Errors
///
/// In mode [`Recovery::Strict`], [`Error::Corruption`] for damage that no crash explains. In either
/// mode, what the file system or `visit` says, and [`Error::UnsupportedFormat`] for a segment of a
/// newer version. After an error, what was visited means nothing.
pub(crate) fn recover(
    source: &LogSource<'_>,
    listing: &[DirEntry],
    visit: &mut Visit<'_>,
) -> Result<RecoveredLog> {
    let catalog = Catalog::read(source.fs, source.dir, source.db, source.floor, listing)?;
    let chain = catalog.chain(source.floor);
    let mut replay = Replay {
        source,
        catalog: &catalog,
        log: RecoveredLog::default(),
        next_seqno: SeqNo::new(1),
        proof: Proof::default(),
    };
    replay.run(&chain, visit)?;
    let mut log = replay.log;
    log.unproven = replay.proof.unproven();
    if log.given_up.is_some()
        && let Some(tail) = log.segments.last()
    {
        // All of the damaged segment is written anew, so that it can be set aside.
        let all = Mark { id: tail.id, offset: 0, next: tail.first_seqno };
        let is_before = |mark: &Mark| (mark.id, mark.offset) < (all.id, all.offset);
        log.unproven = log.unproven.filter(is_before).or(Some(all));
    }
    sort_out(&catalog, &mut log);
    Ok(log)
}

/// Lists the segments that are not part of the log.
fn sort_out(catalog: &Catalog, log: &mut RecoveredLog) {
    let end = log.tail.map(|(id, _)| id).unwrap_or_default();
    log.debris.clone_from(&catalog.obsolete);
    for (id, found) in catalog.segments.iter() {
        if log.segments.iter().any(|live| live.id == *id) {
            continue;
        }
        match found.start {
            Start::Started(_) if *id > end => log.dropped.push(*id),
            Start::Started(_) | Start::Unstarted(_) => log.debris.push(*id),
            // Not ours to remove.
            Start::Foreign => {}
        }
    }
}

/// Damage, with the evidence that it is not the work of a crash.
struct Damage {
    file: PathBuf,
    offset: u64,
    what: String,
}

struct Replay<'a> {
    source: &'a LogSource<'a>,
    catalog: &'a Catalog,
    log: RecoveredLog,
    next_seqno: SeqNo,
    proof: Proof,
}

impl Replay<'_> {
    fn run(&mut self, chain: &[SegmentHeader], visit: &mut Visit<'_>) -> Result<()> {
        if chain.is_empty() {
            let damage = self.evidence_without_log()?;
            return self.settle(damage);
        }
        let mut following = chain.iter().skip(1);
        for header in chain {
            let end = following.next().map(|next| next.prev_end);
            if !self.log.segments.is_empty() && !self.continues(header) {
                let damage = self.does_not_continue(header);
                return self.settle(Some(damage));
            }
            let path = self.path(header.id);
            let read = file::read(self.source.fs, &path, end.unwrap_or(u64::MAX))?;
            let bytes = read.bytes;
            let decode = Decode::segment(header, &bytes, end, &mut self.proof);
            self.keep(header, &decode);
            if !matches!(decode.stop, Stop::AtEnd) {
                let behind = decode.offset..read.zero_from as u64;
                let damage = self.evidence(header, &decode, &bytes, behind)?;
                self.settle(damage)?;
                return visit(&decode.records);
            }
            visit(&decode.records)?;
        }
        Ok(())
    }

    /// Notes that the log goes at least to where `decode` ended.
    fn keep(&mut self, header: &SegmentHeader, decode: &Decode) {
        let found = self.catalog.segments.get(&header.id);
        let last_seqno = SeqNo::new(decode.next_seqno.get().saturating_sub(1));
        self.next_seqno = decode.next_seqno;
        self.log.last_seqno = last_seqno;
        self.log.tail = Some((header.id, decode.offset));
        self.log.segments.push(LiveSegment {
            id: header.id,
            first_seqno: header.first_seqno,
            last_seqno,
            bytes: found.map_or(0, |found| found.bytes),
            end: decode.offset,
        });
    }

    /// The log ends here. With damage that is an error, or a loss to report.
    fn settle(&mut self, damage: Option<Damage>) -> Result<()> {
        let Some(Damage { file, offset, what }) = damage else {
            return Ok(());
        };
        match self.source.mode {
            Recovery::Strict => Err(Error::corruption(&file, offset, what)),
            Recovery::ToLastConsistentPoint => {
                let first_seqno = self.next_seqno;
                let given_up = GivenUp { file, offset, what, first_seqno, ..GivenUp::default() };
                self.log.given_up = Some(self.survey(given_up)?);
                Ok(())
            }
        }
    }

    /// Looks at everything behind the log's end, and notes how much that is.
    fn survey(&self, mut given_up: GivenUp) -> Result<GivenUp> {
        let tail = self.log.tail.unwrap_or_default();
        let at_tail = self.catalog.segments.get(&tail.0).map(|found| (tail.0, *found));
        for (id, found) in at_tail.into_iter().chain(self.catalog.after(tail.0)) {
            if found.start == Start::Foreign {
                continue;
            }
            let read = file::read(self.source.fs, &self.path(id), u64::MAX)?;
            let from = if id == tail.0 { tail.1 } else { RECORDS_START };
            let behind = from..read.zero_from as u64;
            if behind.is_empty() {
                continue;
            }
            let context = Context::new(self.source.db, id);
            let first = match found.start {
                Start::Started(header) if id != tail.0 => Some(header.first_seqno.get()),
                _ => None,
            };
            let salvaged = salvage(context, &Bytes::from(read.bytes), behind.clone(), first);
            let before = first.and_then(|first| first.checked_sub(1));
            let last = salvaged.last_seqno().max(before.map(SeqNo::new));
            given_up.last_seqno =
                given_up.last_seqno.max(last.filter(|last| *last >= given_up.first_seqno));
            given_up.batches += salvaged.records.len() as u64;
            given_up.bytes += behind.end - behind.start;
            given_up.kept.push(self.path(id));
        }
        Ok(given_up)
    }

    /// Can the segment follow what was read so far? Numbers are skipped only by a segment that
    /// states that all in front of it is durable.
    fn continues(&self, header: &SegmentHeader) -> bool {
        let first = header.first_seqno;
        first == self.next_seqno || (first > self.next_seqno && header.durable.plus(1) >= first)
    }

    fn does_not_continue(&self, header: &SegmentHeader) -> Damage {
        Damage {
            file: self.path(header.id),
            offset: 0,
            what: format!(
                "it starts at sequence number {}, and the segment before it ends at {}",
                header.first_seqno, self.log.last_seqno
            ),
        }
    }

    /// Is it damage that the log ends where `decode` does, with the bytes `behind`?
    fn evidence(
        &self,
        header: &SegmentHeader,
        decode: &Decode,
        bytes: &[u8],
        behind: Range<u64>,
    ) -> Result<Option<Damage>> {
        let here =
            |what: String| Damage { file: self.path(header.id), offset: decode.offset, what };
        let reason = match &decode.stop {
            Stop::Impossible(what) => return Ok(Some(here(what.clone()))),
            Stop::NoRecord(what) => what,
            Stop::AtEnd => "the records end here",
        };
        for (witness, seqno) in
            [("manifest", self.source.durable), ("segment's header", header.durable)]
        {
            if seqno >= decode.next_seqno {
                let claim = durable(seqno);
                return Ok(Some(here(format!("{reason}; the {witness} {claim}"))));
            }
        }
        let most = self.next_seqno.get().saturating_add(bytes.len() as u64);
        if let Some(claim) = self.claim_in(header.id, bytes, behind, most) {
            return Ok(Some(here(format!("{reason}; {claim}"))));
        }
        let Some((at, claim)) = self.claim_behind(header.id)? else {
            return Ok(None);
        };
        let broken_link = self.broken_link(header.id, at, &claim);
        Ok(Some(broken_link.unwrap_or_else(|| here(format!("{reason}; {claim}")))))
    }

    /// Is it damage that there is no first segment?
    fn evidence_without_log(&self) -> Result<Option<Damage>> {
        let floor = self.source.floor;
        if floor != FileId(0) {
            let why = self.why_unusable(floor);
            return Ok(Some(Damage {
                file: self.path(floor),
                offset: 0,
                what: format!("{why}; the manifest shows that it is part of the log"),
            }));
        }
        let claim = self.claim_behind(floor)?;
        Ok(claim.and_then(|(at, claim)| self.broken_link(floor, at, &claim)))
    }

    /// Follows the links from segment `at` back towards `end`, the last segment that is good. What
    /// is damaged is the segment where they break; `None` if they do not.
    fn broken_link(&self, end: FileId, mut at: FileId, claim: &str) -> Option<Damage> {
        while let Some(header) = self.catalog.header(at) {
            if header.prev <= end {
                return None;
            }
            at = header.prev;
        }
        Some(Damage {
            file: self.path(at),
            offset: 0,
            what: format!("{}; {claim}", self.why_unusable(at)),
        })
    }

    fn why_unusable(&self, id: FileId) -> &'static str {
        match self.catalog.segments.get(&id).map(|found| found.start) {
            None => "the file is missing",
            Some(Start::Unstarted(why)) => why,
            Some(Start::Foreign) => "it belongs to another database",
            Some(Start::Started(_)) => "it is not linked to the log",
        }
    }

    /// Looks in the segments behind `end` for proof that what is lost was durable. Returns where
    /// that is, and what it says.
    fn claim_behind(&self, end: FileId) -> Result<Option<(FileId, String)>> {
        for (id, found) in self.catalog.after(end) {
            let mut first = self.next_seqno.get();
            match found.start {
                Start::Started(header) => {
                    // A file is durable before a segment that follows it is started.
                    if header.prev > end && !self.catalog.segments.contains_key(&header.prev) {
                        return Ok(Some((id, format!("{} follows it", name(id)))));
                    }
                    if header.durable >= self.next_seqno {
                        let claim = durable(header.durable);
                        return Ok(Some((id, format!("the header of {} {claim}", name(id)))));
                    }
                    first = first.max(header.first_seqno.get());
                }
                // Where it would have started is not known: behind all that may be lost.
                Start::Unstarted(_) => first = first.saturating_add(LOST_OPS_MAX),
                Start::Foreign => {
                    return Ok(Some((id, format!("no crash brings {} here", name(id)))));
                }
            }
            let read = file::read(self.source.fs, &self.path(id), u64::MAX)?;
            let all = RECORDS_START..read.zero_from as u64;
            let most = first.saturating_add(read.bytes.len() as u64);
            if let Some(claim) = self.claim_in(id, &read.bytes, all, most) {
                return Ok(Some((id, claim)));
            }
        }
        Ok(None)
    }

    /// Looks for such proof in the records that start within `offsets` of segment `id`, none of
    /// which has a seqno beyond `most`: an operation takes more than a byte.
    ///
    /// Without that bound the stale records of a recycled segment, read at the wrong offsets, would
    /// look like records by the thousand, and exhaust the search.
    fn claim_in(&self, id: FileId, bytes: &[u8], offsets: Range<u64>, most: u64) -> Option<String> {
        let lost = self.next_seqno.get();
        let context = Context::new(self.source.db, id);
        let scan = scan_for_valid(context, bytes, offsets, &|stamp| {
            stamp.seqno <= most && stamp.durable().is_some_and(|durable| durable >= lost)
        });
        match scan {
            Scan::Nothing => None,
            Scan::Found(offset, record) => {
                let claim = record.stamp.and_then(Stamp::durable).unwrap_or_default();
                let claim = durable(SeqNo::new(claim));
                Some(format!("the record at offset {offset} of {} {claim}", name(id)))
            }
        }
    }

    fn path(&self, id: FileId) -> PathBuf {
        wal_path(self.source.dir, id)
    }
}

fn name(id: FileId) -> String {
    wal_path(Path::new(""), id).display().to_string()
}

fn durable(seqno: SeqNo) -> String {
    format!("shows that sequence numbers up to {seqno} were durable")
}
