//! Block compression: none or lz4, decided block by block.

use crate::base::coding::Malformed;

/// How an SST block is stored. The numbers are stored on disk; never reuse one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Compression {
    /// As it is: read in place, without a copy.
    None = 0,
    /// LZ4 where that saves at least an eighth of the block, as it is elsewhere.
    #[default]
    Lz4 = 1,
}

/// Compresses `raw` into the front of `out`, which grows where it has to and is not cleared, as
/// `u32 raw length | lz4 block`; none if it is too long for that.
pub(crate) fn compress_lz4<'a>(raw: &[u8], out: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let raw_len = u32::try_from(raw.len()).ok()?;
    let room = 4 + lz4_flex::block::get_maximum_output_size(raw.len());
    if out.len() < room {
        out.resize(room, 0);
    }
    let (head, body) = out.split_first_chunk_mut::<4>()?;
    *head = raw_len.to_le_bytes();
    let len = lz4_flex::block::compress_into(raw, body).ok()?;
    out.get(..4 + len)
}

/// Do so few bytes instead of `raw_len` pay for their decompression?
pub(crate) fn pays(packed: &[u8], raw_len: usize) -> bool {
    packed.len() <= raw_len - raw_len / 8
}

/// Undoes [`compress_lz4`] into the front of `out`, which grows where it has to and is not cleared.
/// Allocates no more than 255 times the input (the most that lz4 can expand) whatever the stored
/// length says.
pub(crate) fn decompress_lz4<'a>(
    stored: &[u8],
    out: &'a mut Vec<u8>,
) -> Result<&'a [u8], Malformed> {
    let (head, body) = stored.split_first_chunk::<4>().ok_or(Malformed("lz4 block too short"))?;
    let raw_len = u32::from_le_bytes(*head) as usize;
    if raw_len > body.len().saturating_mul(255).saturating_add(64) {
        return Err(Malformed("lz4 block claims an impossible length"));
    }
    if out.len() < raw_len {
        out.resize(raw_len, 0);
    }
    let raw = &mut out[..raw_len];
    match lz4_flex::block::decompress_into(body, raw) {
        Ok(len) if len == raw_len => Ok(raw),
        Ok(_) => Err(Malformed("lz4 block is shorter than it claims")),
        Err(_) => Err(Malformed("lz4 block does not decompress")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip() {
        let raw = b"abcabcabcabcabcabcabc".repeat(50);
        let mut out = vec![9; 100];
        let out = compress_lz4(&raw, &mut out).unwrap();
        assert!(out.len() < raw.len() / 2);
        // Into memory that was used before.
        for mut memory in [Vec::new(), vec![1; 7], vec![1; 10_000]] {
            assert_eq!(decompress_lz4(out, &mut memory).unwrap(), raw);
        }
    }

    #[test]
    fn damaged_bytes_are_an_error_and_allocate_little() {
        let mut memory = Vec::new();
        assert!(decompress_lz4(&[], &mut memory).is_err());
        assert!(decompress_lz4(&[0xff; 12], &mut memory).is_err());
        assert!(memory.is_empty());
        let mut out = Vec::new();
        let out = compress_lz4(&[7; 1000], &mut out).unwrap();
        for len in 0..out.len() {
            assert!(decompress_lz4(&out[..len], &mut memory).is_err());
        }
    }
}
