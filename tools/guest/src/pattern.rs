// SPDX-License-Identifier: GPL-2.0

//! Data whose every byte depends on its place in the stream, so that a lost, doubled or moved byte is seen.

/// Fills `buffer` with the stream's bytes from `offset` on; streams of different `seed` differ.
pub fn fill(buffer: &mut [u8], seed: u64, offset: u64) {
    for (i, byte) in buffer.iter_mut().enumerate() {
        *byte = at(seed, offset + i as u64);
    }
}

/// The first place where `buffer` is not the stream's bytes from `offset` on.
pub fn mismatch(buffer: &[u8], seed: u64, offset: u64) -> Option<u64> {
    (0..)
        .zip(buffer)
        .find(|(i, byte)| **byte != at(seed, offset + i))
        .map(|(i, _)| offset + i)
}

fn at(seed: u64, offset: u64) -> u8 {
    // One multiplication serves eight bytes; the place in the word is mixed in by the shift.
    let word = (offset / 8)
        .wrapping_add(seed)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((word ^ (word >> 29)) >> ((offset % 8) * 8)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_byte_is_seen() {
        let mut buffer = [0; 64];
        fill(&mut buffer, 7, 1000);
        assert_eq!(mismatch(&buffer, 7, 1000), None);
        assert_eq!(mismatch(&buffer[8..], 7, 1008), None);
        assert!(mismatch(&buffer, 7, 1001).is_some());
        assert!(mismatch(&buffer, 8, 1000).is_some());
        buffer[40] ^= 1;
        assert_eq!(mismatch(&buffer, 7, 1000), Some(1040));
    }
}
