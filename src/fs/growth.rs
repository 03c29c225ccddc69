//! A long file while it is made: room ahead of its end, the way to the disk behind it.
//!
//! A system keeps what was written until somebody syncs it, or half a minute has passed. So the sync
//! at the end of a file would find all of it left to do, and reads and syncs of others queue behind that.
//!
//! A file whose room is reserved lies in few pieces. But while a merge goes on, what it will write is
//! room that nobody else can have: as much as a small database, for nothing. So it is asked at first
//! whether there is room for all of it, and no more is kept than what is written soon. (A file that
//! begins while another is written counts the same room: then one of them may fail later.)

use crate::base::error::Result;
use crate::base::planted::Planted;
use crate::fs::WritableFile;

/// So much is begun to be written at a time.
const PIECE: u64 = 1 << 20;
/// So much room is reserved at a time.
const STEP: u64 = 8 * PIECE;

/// How far a file has grown.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// Up to here it is on its way to the disk.
    begun: u64,
    /// Up to here there is room.
    reserved: u64,
    /// No room is asked for behind this.
    expected: u64,
}

impl Growth {
    /// Reserves room for the beginning of `file`, which is empty and expected to get `bytes`.
    ///
    /// # Errors
    /// What the file system says: that there is no room for all of it, before the work is done.
    pub(crate) fn reserve(&mut self, file: &dyn WritableFile, bytes: u64) -> Result<()> {
        if bytes > STEP && file.reserve(0..bytes)? {
            file.set_len(0)?;
        }
        let first = bytes.min(STEP);
        if file.reserve(0..first)? {
            (self.reserved, self.expected) = (first, bytes);
        }
        Ok(())
    }

    /// Begins what is complete of `file`, which was written in full up to `end`.
    ///
    /// # Errors
    /// What the file system says: then the file is not to be used.
    pub(crate) fn wrote(&mut self, file: &dyn WritableFile, end: u64) -> Result<()> {
        let complete = end - end % PIECE;
        if complete > self.begun {
            let handed = file.write_back(self.begun..complete);
            if !Planted::WriteBackErrorIgnored.is_on() {
                handed?;
            }
            self.begun = complete;
        }
        self.go_on(file, end)
    }

    /// Reserves the next step, if the end comes near to that of the last.
    fn go_on(&mut self, file: &dyn WritableFile, end: u64) -> Result<()> {
        if self.reserved < self.expected && end + PIECE > self.reserved {
            let next = self.expected.min(end + STEP);
            if file.reserve(self.reserved..next).is_ok() {
                self.reserved = next;
            } else {
                // The file may turn out shorter: a write that finds no room says so itself. What the
                // system had found of it is for others, what this file had before is not.
                self.expected = 0;
                file.set_len(end)?;
                let _ = file.reserve(end..self.reserved);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::base::error::Error;
    use crate::base::sync::Mutex;

    /// Notes what it is asked to write back, and for how much room or to which length. It is on a disk
    /// of so many bytes.
    #[derive(Debug)]
    struct Asked {
        handed: Mutex<Vec<Range<u64>>>,
        room: Mutex<Vec<u64>>,
        disk: u64,
    }

    impl Asked {
        fn new(disk: u64) -> Asked {
            Asked { handed: Mutex::default(), room: Mutex::default(), disk }
        }

        fn check(&self, end: u64) -> Result<()> {
            if end > self.disk { Err(Error::internal("no more")) } else { Ok(()) }
        }
    }

    impl WritableFile for Asked {
        fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
            Ok(())
        }

        fn write_back(&self, range: Range<u64>) -> Result<()> {
            self.check(range.end)?;
            self.handed.lock().push(range);
            Ok(())
        }

        fn sync_data(&self) -> Result<()> {
            Ok(())
        }

        fn set_len(&self, len: u64) -> Result<()> {
            self.room.lock().push(len);
            Ok(())
        }

        fn reserve(&self, range: Range<u64>) -> Result<bool> {
            self.check(range.end)?;
            if !range.is_empty() {
                self.room.lock().push(range.end);
            }
            Ok(true)
        }
    }

    #[test]
    fn whole_pieces_are_written_back_once() {
        let (file, mut growth) = (Asked::new(4 * PIECE), Growth::default());
        for end in [1, PIECE - 1, PIECE, PIECE + 9, 4 * PIECE - 1, 4 * PIECE - 1, 4 * PIECE] {
            growth.wrote(&file, end).unwrap();
        }
        assert!(growth.wrote(&file, 5 * PIECE).is_err());
        assert_eq!(*file.handed.lock(), [0..PIECE, PIECE..3 * PIECE, 3 * PIECE..4 * PIECE]);
        assert_eq!(*file.room.lock(), []);
    }

    #[test]
    fn room_is_reserved_a_step_at_a_time_once_there_is_enough() {
        let asked = |expected| {
            let (file, mut growth) = (Asked::new(u64::MAX), Growth::default());
            growth.reserve(&file, expected).unwrap();
            for end in (0..3 * STEP).step_by(PIECE as usize / 4) {
                growth.wrote(&file, end).unwrap();
                let ahead = growth.reserved.saturating_sub(end);
                assert!(end >= expected || (1..=STEP).contains(&ahead), "{ahead} at {end}");
            }
            file.room.into_inner()
        };
        assert_eq!(asked(0), []);
        assert_eq!(asked(9), [9]);
        assert_eq!(asked(STEP), [STEP]);
        let second = 2 * STEP - 3 * PIECE / 4;
        assert_eq!(asked(2 * STEP), [2 * STEP, 0, STEP, second, 2 * STEP]);
    }

    #[test]
    fn a_file_that_is_shorter_than_expected_needs_no_room_behind_its_end() {
        let (file, mut growth) = (Asked::new(3 * STEP), Growth::default());
        growth.reserve(&file, 3 * STEP).unwrap();
        // Others take what is left.
        let file = Asked::new(STEP + 2 * PIECE);
        for end in (0..=STEP + 2 * PIECE).step_by(PIECE as usize / 2) {
            growth.wrote(&file, end).unwrap();
        }
        // What the system may have found of the step is given back, and not what was there before.
        assert_eq!(*file.room.lock(), [STEP - PIECE / 2, STEP]);
        assert!(growth.wrote(&file, STEP + 3 * PIECE).is_err(), "the disk's word counts");
    }

    #[test]
    fn a_disk_without_room_says_so_at_once() {
        let file = Asked::new(5 * STEP);
        assert!(Growth::default().reserve(&file, 5 * STEP + 1).is_err());
        assert_eq!(*file.room.lock(), []);
    }
}
