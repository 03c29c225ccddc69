//! Writing a long file to the disk while it is made.
//!
//! A system keeps what was written until somebody syncs it, or half a minute has passed. So the sync
//! at the end of a file would find all of it left to do, and reads and syncs of others queue behind that.

use crate::base::error::Result;
use crate::base::planted::Planted;
use crate::fs::WritableFile;

/// So much is begun to be written at a time.
const PIECE: u64 = 1 << 20;

/// How far a file that grows is on its way to the disk.
#[derive(Debug, Default)]
pub(crate) struct WriteBack {
    begun: u64,
}

impl WriteBack {
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::base::error::Error;
    use crate::base::sync::Mutex;

    /// Notes what it is asked to write back.
    #[derive(Debug, Default)]
    struct Asked(Mutex<Vec<Range<u64>>>);

    impl WritableFile for Asked {
        fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
            Ok(())
        }

        fn write_back(&self, range: Range<u64>) -> Result<()> {
            if range.end > 4 * PIECE {
                return Err(Error::internal("no more"));
            }
            self.0.lock().push(range);
            Ok(())
        }

        fn sync_data(&self) -> Result<()> {
            Ok(())
        }

        fn set_len(&self, _: u64) -> Result<()> {
            Ok(())
        }

        fn reserve(&self, _: u64) -> Result<bool> {
            Ok(false)
        }
    }

    #[test]
    fn whole_pieces_are_written_back_once() {
        let (file, mut write_back) = (Asked::default(), WriteBack::default());
        for end in [1, PIECE - 1, PIECE, PIECE + 9, 4 * PIECE - 1, 4 * PIECE - 1, 4 * PIECE] {
            write_back.wrote(&file, end).unwrap();
        }
        assert!(write_back.wrote(&file, 5 * PIECE).is_err());
        assert_eq!(*file.0.lock(), [0..PIECE, PIECE..3 * PIECE, 3 * PIECE..4 * PIECE]);
    }
}
