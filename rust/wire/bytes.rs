// SPDX-License-Identifier: GPL-2.0

//! Little-endian fields, taken from and put into byte arrays one after the other.
//!
//! Nothing here indexes: where the bytes end too early, a field reads as zero and a write is lost.
//! The callers' arrays have the length that the fields add up to, which their tests show.

/// Takes the first `N` bytes away from `bytes`.
#[inline]
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    match bytes.split_first_chunk::<N>() {
        Some((head, rest)) => {
            *bytes = rest;
            *head
        }
        None => [0; N],
    }
}

/// Takes a `u16`.
#[inline]
pub(super) fn take_u16(bytes: &mut &[u8]) -> u16 {
    u16::from_le_bytes(take(bytes))
}

/// Takes a `u32`.
#[inline]
pub(super) fn take_u32(bytes: &mut &[u8]) -> u32 {
    u32::from_le_bytes(take(bytes))
}

/// Takes a `u64`.
#[inline]
pub(super) fn take_u64(bytes: &mut &[u8]) -> u64 {
    u64::from_le_bytes(take(bytes))
}

/// Puts `value` at the head of `bytes`; the result is what is behind it.
#[inline]
#[must_use]
pub(super) fn put<const N: usize>(bytes: &mut [u8], value: [u8; N]) -> &mut [u8] {
    match bytes.split_first_chunk_mut::<N>() {
        Some((head, rest)) => {
            *head = value;
            rest
        }
        None => &mut [],
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_bytes))]
mod tests {
    use super::*;

    #[test]
    fn fields_follow_each_other() {
        let mut bytes: &[u8] = &[1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0x80, 9];
        assert_eq!(take_u16(&mut bytes), 1);
        assert_eq!(take_u32(&mut bytes), 2);
        assert_eq!(take_u64(&mut bytes), 0x8000_0000_0000_0003);
        assert_eq!(bytes.len(), 1);
    }

    #[test]
    fn too_few_bytes_read_as_zero() {
        let mut bytes: &[u8] = &[1, 2, 3];
        assert_eq!(take_u32(&mut bytes), 0);
        assert_eq!(bytes.len(), 3);
        assert_eq!(take_u16(&mut bytes), 0x0201);
    }

    #[test]
    fn put_stops_at_the_end() {
        let mut array = [0u8; 5];
        let rest = put(&mut array, 0x0403_0201u32.to_le_bytes());
        assert_eq!(rest.len(), 1);
        assert!(put(rest, 0xffffu16.to_le_bytes()).is_empty());
        assert_eq!(array, [1, 2, 3, 4, 0]);
    }
}
