//! The records of a file by themselves, opened for tests that feed them arbitrary bytes.

use crate::blob::HEADER_LEN;
use crate::blob::record::claimed_len;
use crate::blob::record::seal;

/// Makes the checksums of all records right, whatever the bytes are: of those that begin where the
/// one before says that it ends.
pub(crate) fn reseal(file: &mut [u8], uid: u64) {
    let (mut offset, mut rest) = (HEADER_LEN, file.get_mut(HEADER_LEN as usize..));
    while let Some(records) = rest.take()
        && let Some(Ok(len)) = records.first_chunk().map(claimed_len)
        && let Some((record, behind)) = records.split_at_mut_checked(len as usize)
    {
        seal(record, uid, offset);
        offset += len;
        rest = Some(behind);
    }
}
