//! Reads choices from a fuzzer's input, and damages files by them.

/// The rest of the input. At its end all choices are 0.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Input<'a> {
        Input(data)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number of one to eight bytes, so that small inputs reach large ones.
    pub(crate) fn number(&mut self) -> u64 {
        const LANDMARKS: [u64; 8] =
            [0, 1, 0x7f, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX >> 8, u64::MAX];
        let len = self.byte() % 10;
        match len {
            0 => LANDMARKS[usize::from(self.byte() % 8)],
            1 => LANDMARKS[usize::from(self.byte() % 8)].wrapping_add(1),
            _ => (2..len).fold(u64::from(self.byte()), |n, _| n << 8 | u64::from(self.byte())),
        }
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        let choice = if n <= 256 { usize::from(self.byte()) } else { usize::from(self.short()) };
        choice.checked_rem(n).unwrap_or(0)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// A key of which others share parts: few letters, a long prefix, or any bytes.
    pub(crate) fn key(&mut self) -> Vec<u8> {
        let choice = self.byte();
        let len = usize::from(choice & 7);
        match choice >> 6 {
            0 => (0..len).map(|_| b'a' + self.byte() % 3).collect(),
            1 => {
                let mut key = b"a prefix that many share/".to_vec();
                key.extend((0..len).map(|_| b'a' + self.byte() % 3));
                key
            }
            2 => self.bytes(2 * len).to_vec(),
            _ => vec![choice; usize::from(self.byte())],
        }
    }

    /// A value: short and any, or long and all the same.
    pub(crate) fn value(&mut self) -> Vec<u8> {
        let choice = self.byte();
        if choice < 0xc0 {
            self.bytes(usize::from(choice & 15)).to_vec()
        } else {
            vec![choice; 16 * usize::from(self.byte())]
        }
    }

    /// Damages `file` as disks and crashes do. None of it forges a checksum: single bits (few, if
    /// the caller makes few of these calls), zeros, noise, and what is cut off.
    pub(crate) fn damage(&mut self, file: &mut Vec<u8>) {
        let choice = self.byte() % 5;
        let at = self.below(file.len());
        let Some(place) = file.get_mut(at..) else { return };
        match choice {
            0 | 1 => {
                if let Some(byte) = place.first_mut() {
                    *byte ^= 1 << self.below(8);
                }
            }
            2 => {
                let len = usize::from(self.byte()) + 1;
                place.iter_mut().take(len).for_each(|byte| *byte = 0);
            }
            3 => {
                let (len, seed) = (usize::from(self.byte()) + 1, u64::from(self.byte()));
                let noise = (0u64..).map(|n| mix(seed << 32 | n) as u8);
                place.iter_mut().take(len).zip(noise).for_each(|(byte, noise)| *byte = noise);
            }
            _ => file.truncate(at),
        }
    }

    /// Changes `file` in any way that may reach code behind a checksum, its length kept.
    pub(crate) fn tamper(&mut self, file: &mut [u8]) {
        let choice = self.byte() % 6;
        let at = self.below(file.len());
        let Some(place) = file.get_mut(at..) else { return };
        let Some(first) = place.first_mut() else { return };
        match choice {
            0 => *first ^= 1 << self.below(8),
            1 => *first = self.byte(),
            2 => *first = first.wrapping_add(1),
            3 => {
                let bytes = (self.number() as u32).to_le_bytes();
                place.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
            }
            4 => {
                let bytes = self.number().to_le_bytes();
                place.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
            }
            _ => {
                let (from, len) = (self.below(file.len()), usize::from(self.byte() % 16) + 1);
                let copy: Vec<u8> = file.iter().skip(from).take(len).copied().collect();
                file.iter_mut().skip(at).zip(copy).for_each(|(to, from)| *to = from);
            }
        }
    }
}

/// A number that looks random.
pub(crate) fn mix(n: u64) -> u64 {
    let mut n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
