// SPDX-License-Identifier: GPL-2.0

//! The payload of a received packet, in the buffers that it came in.

use crate::{
    ext::{
        mm::PageBlock,
        net::skbuff::{
            ControlBlock,
            SkBuff,
            SkBuffQueue, //
        }, //
    },
    proto, //
};
use kernel::{
    alloc::Flags,
    prelude::*, //
};

/// A receive buffer, and what of it is payload.
struct Piece {
    block: PageBlock,
    offset: usize,
    len: usize,
}

/// The payload of a packet.
///
/// Its buffers are either copied from, and stay, or taken out with their pages.
///
/// # Context
///
/// `Rx::inner` guards it: nothing of it sleeps, unless it says so.
pub(in crate::driver) struct Payload {
    pieces: KVec<Piece>,
    len: usize,
    damaged: bool,
    /// Empty socket buffers that the pages can move to: to store a packet takes no memory then.
    spare_skbs: SkBuffQueue<()>,
    /// An empty socket buffer that the payload can be copied to.
    room: Option<SkBuff>,
    /// The packet waits for one.
    waits_for_room: bool,
}

impl Payload {
    /// None, and no room for buffers.
    pub(in crate::driver) const fn new() -> Self {
        Self {
            pieces: KVec::new(),
            len: 0,
            damaged: false,
            spare_skbs: SkBuffQueue::new(),
            room: None,
            waits_for_room: false,
        }
    }

    /// None, with room for as many buffers as a packet can have.
    ///
    /// # Context
    ///
    /// Sleeps if `flags` allow it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(in crate::driver) fn with_capacity(buffers: usize, flags: Flags) -> Result<Self> {
        Ok(Self {
            pieces: KVec::with_capacity(buffers, flags)?,
            len: 0,
            damaged: false,
            spare_skbs: SkBuffQueue::new(),
            room: None,
            waits_for_room: false,
        })
    }

    /// Adds a buffer of which `len` bytes from `offset` on are payload; without room for it, it is
    /// freed, and the packet is damaged.
    pub(in crate::driver) fn add(&mut self, block: PageBlock, offset: usize, len: usize) {
        let piece = Piece { block, offset, len };
        if self.pieces.push_within_capacity(piece).is_err() {
            self.damaged = true;
        }
    }

    /// Frees the socket buffers that nothing was put into: no packet is lost with them.
    fn free_room(&mut self) {
        if let Some(room) = self.room.take() {
            room.consume();
        }
    }

    /// Notes that all buffers are there: `len` bytes are payload, or, if that is none, some were lost (M2).
    pub(in crate::driver) fn complete(&mut self, len: Option<usize>) {
        self.damaged |= len.is_none();
        self.len = len.unwrap_or(0);
        let mut left = self.len;
        for piece in self.pieces.iter_mut() {
            piece.len = piece.len.min(left);
            left = left.saturating_sub(piece.len);
        }
    }

    /// How many bytes there are; none if bytes were lost.
    pub(in crate::driver) fn len(&self) -> usize {
        self.len
    }

    /// Whether bytes were lost.
    pub(in crate::driver) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// The memory of its buffers in bytes.
    pub(in crate::driver) fn memory(&self) -> usize {
        self.pieces
            .iter()
            .fold(0, |sum, piece| sum.saturating_add(piece.block.len()))
    }

    /// Calls `f` with each buffer, and with where in it payload begins and how long it is.
    ///
    /// # Errors
    ///
    /// What `f` returns.
    pub(in crate::driver) fn try_for_each(
        &self,
        mut f: impl FnMut(&PageBlock, usize, usize) -> Result,
    ) -> Result {
        self.pieces
            .iter()
            .try_for_each(|piece| f(&piece.block, piece.offset, piece.len))
    }

    /// Whether one socket buffer can take all its pages.
    pub(in crate::driver) fn fits_pages(&self) -> bool {
        self.pieces.len() <= SkBuff::<()>::MAX_PAGES
    }

    /// Whether there are too few socket buffers for its pages.
    pub(super) fn lacks_spare_skbs(&self) -> bool {
        self.pieces.len()
            > self
                .spare_skbs
                .len()
                .saturating_mul(SkBuff::<()>::MAX_PAGES)
    }

    /// Provides an empty socket buffer for its pages.
    pub(in crate::driver) fn add_spare_skb(&mut self, skb: SkBuff) {
        self.spare_skbs.push_back(skb);
    }

    /// Finds a socket buffer to copy `len` bytes to, with room for `capacity` bytes, or less if there is no
    /// memory for so many; returns whether there is one.
    pub(in crate::driver) fn find_room(&mut self, len: usize, capacity: usize) -> bool {
        let mut capacity = Some(capacity);
        while let Some(bytes) = capacity {
            if self.has_room(len) {
                return true;
            }
            self.free_room();
            self.room = SkBuff::alloc(bytes, GFP_ATOMIC, ()).ok();
            capacity = proto::smaller(bytes, len);
        }
        self.has_room(len)
    }

    fn has_room(&self, len: usize) -> bool {
        self.room
            .as_ref()
            .is_some_and(|room| room.tailroom() >= len)
    }

    /// Notes that the packet waits until there is [room](Self::add_room). Returns false.
    pub(in crate::driver) fn ask_for_room(&mut self) -> bool {
        self.waits_for_room = true;
        false
    }

    /// How many bytes a socket buffer must have room for that the packet waits for.
    pub(super) fn lacks_room(&self) -> Option<usize> {
        // Whatever precedes the payload where it is stored.
        self.waits_for_room
            .then(|| self.len.saturating_add(proto::Mark::LEN))
    }

    /// Provides an empty socket buffer to copy the payload to.
    pub(super) fn add_room(&mut self, room: SkBuff) {
        self.waits_for_room = false;
        self.free_room();
        self.room = Some(room);
    }

    /// Takes the socket buffer to copy `len` bytes to, if there is one.
    pub(in crate::driver) fn take_room(&mut self, len: usize) -> Option<SkBuff> {
        if self.has_room(len) {
            self.room.take()
        } else {
            None
        }
    }

    /// Takes an empty socket buffer for its pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is none left; not for a packet that [lacks](Self::lacks_spare_skbs) none.
    pub(in crate::driver) fn take_spare_skb(&mut self) -> Result<SkBuff> {
        self.spare_skbs.pop_front().ok_or(ENOMEM)
    }

    /// Moves as many pages to `skb` as it can take; returns whether that was all of them.
    pub(in crate::driver) fn move_to<C: ControlBlock>(&mut self, skb: &mut SkBuff<C>) -> bool {
        while let Some(Piece { block, offset, len }) = self.take_first() {
            if let Err((_, block)) = skb.add_block(block, offset, len) {
                let _ = self
                    .pieces
                    .insert_within_capacity(0, Piece { block, offset, len });
                return false;
            }
        }
        true
    }

    fn take_first(&mut self) -> Option<Piece> {
        (!self.pieces.is_empty())
            .then(|| self.pieces.remove(0).ok())
            .flatten()
    }

    /// Takes back a buffer whose pages no socket buffer has taken. When there is none, the next packet can come.
    pub(in crate::driver) fn reclaim(&mut self) -> Option<PageBlock> {
        let block = self.pieces.pop().map(|piece| piece.block);
        if block.is_none() {
            self.len = 0;
            self.damaged = false;
            self.free_room();
            self.waits_for_room = false;
        }
        block
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.free_room();
        core::mem::take(&mut self.spare_skbs).consume();
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_payload)]
mod tests {
    use super::*;
    use kernel::page::PAGE_SIZE;

    /// A buffer of a page, of which the device has written a little.
    fn page(fill: u8) -> Result<PageBlock> {
        let mut block = PageBlock::alloc(0, GFP_KERNEL)?;
        block.copy_to(0, &[fill; 64])?;
        Ok(block)
    }

    /// So many buffers, of 8 bytes each, which say the buffer's number.
    fn pages(number: usize) -> Result<Payload> {
        let mut payload = Payload::with_capacity(number, GFP_KERNEL)?;
        for fill in 0..number {
            payload.add(page(fill as u8)?, 0, 8);
        }
        payload.complete(Some(8 * number));
        Ok(payload)
    }

    fn skb() -> Result<SkBuff> {
        SkBuff::alloc(0, GFP_KERNEL, ())
    }

    /// Where the buffers' payload lies.
    fn pieces(payload: &Payload) -> Result<KVec<(usize, usize)>> {
        let mut pieces = KVec::new();
        payload.try_for_each(|_, at, len| Ok(pieces.push((at, len), GFP_KERNEL)?))?;
        Ok(pieces)
    }

    #[test]
    fn the_length_cuts_what_is_in_the_buffers() -> Result {
        let mut payload = Payload::with_capacity(3, GFP_KERNEL)?;
        payload.add(page(0)?, 10, 20);
        payload.add(page(0)?, 0, 20);
        payload.add(page(0)?, 0, 20);
        payload.complete(Some(30));
        assert_eq!(pieces(&payload)?.as_slice(), [(10, 20), (0, 10), (0, 0)]);
        assert_eq!(payload.len(), 30);
        assert_eq!(payload.memory(), 3 * PAGE_SIZE);
        assert!(!payload.is_damaged());
        Ok(())
    }

    #[test]
    fn m2_of_a_packet_that_lost_bytes_there_is_none() -> Result {
        let mut payload = Payload::with_capacity(2, GFP_KERNEL)?;
        payload.add(page(0)?, 0, 20);
        payload.complete(None);
        assert_eq!(payload.len(), 0);
        assert!(payload.is_damaged());
        assert_eq!(pieces(&payload)?.as_slice(), [(0, 0)]);
        // The buffer is there still, and the next packet is another.
        assert!(payload.reclaim().is_some());
        assert!(payload.is_damaged());
        assert!(payload.reclaim().is_none());
        assert!(!payload.is_damaged());
        Ok(())
    }

    #[test]
    fn a_buffer_without_room_for_it_damages_the_packet() -> Result {
        let mut payload = Payload::new();
        payload.add(page(0)?, 0, 20);
        payload.complete(Some(20));
        assert!(payload.is_damaged());
        assert!(payload.reclaim().is_none());
        Ok(())
    }

    #[test]
    fn room_is_smaller_where_there_is_no_memory() {
        let mut payload = Payload::new();
        // More than the kernel's allocator has, in one piece.
        let most = (1 << 31) - 384;
        assert!(!payload.find_room(most, most));
        assert!(payload.take_room(0).is_none());
        assert!(payload.find_room(100, most));
        assert!(payload
            .take_room(100)
            .is_some_and(|room| room.tailroom() >= 100));
        assert!(payload.take_room(0).is_none());
    }

    #[test]
    fn room_that_is_enough_is_kept() {
        let mut payload = Payload::new();
        assert!(payload.find_room(100, 128));
        assert!(payload.find_room(10, 8192));
        let room = payload.room.as_ref().map_or(0, SkBuff::tailroom);
        assert!((100..8192).contains(&room));
        // What asks for more gets none, and it stays.
        assert!(payload.take_room(room + 1).is_none());
        assert!(payload.find_room(room + 1, 8192));
        assert!(payload.take_room(room + 1).is_some());
    }

    #[test]
    fn whoever_waits_for_room_says_for_how_much() -> Result {
        let mut payload = pages(2)?;
        assert_eq!(payload.lacks_room(), None);
        assert!(!payload.ask_for_room());
        assert_eq!(payload.lacks_room(), Some(16 + proto::Mark::LEN));
        payload.add_room(SkBuff::alloc(100, GFP_KERNEL, ())?);
        assert_eq!(payload.lacks_room(), None);
        assert!(payload.take_room(100).is_some());
        Ok(())
    }

    #[test]
    fn pages_go_to_as_many_socket_buffers_as_it_takes() -> Result {
        let most = SkBuff::<()>::MAX_PAGES;
        assert!(pages(most)?.fits_pages());
        let mut payload = pages(most + 3)?;
        assert!(!payload.fits_pages());
        for _ in 0..2 {
            assert!(payload.lacks_spare_skbs());
            payload.add_spare_skb(skb()?);
        }
        assert!(!payload.lacks_spare_skbs());

        let mut first = payload.take_spare_skb()?;
        assert!(!payload.move_to(&mut first));
        let mut second = payload.take_spare_skb()?;
        assert!(payload.move_to(&mut second));
        assert_eq!(payload.take_spare_skb().err(), Some(ENOMEM));
        assert_eq!((first.len(), second.len()), (8 * most, 8 * 3));
        for number in 0..most + 3 {
            let (skb, at) = match number.checked_sub(most) {
                None => (&first, number),
                Some(at) => (&second, at),
            };
            let mut bytes = [0xff; 8];
            skb.read(8 * at, &mut bytes)?;
            assert_eq!(bytes, [number as u8; 8]);
        }
        assert!(payload.reclaim().is_none());
        Ok(())
    }

    #[test]
    fn a_page_that_is_not_taken_stays() -> Result {
        let mut payload = Payload::with_capacity(2, GFP_KERNEL)?;
        // Nobody has written so far.
        payload.add(page(1)?, 60, 8);
        payload.add(page(2)?, 0, 8);
        payload.complete(Some(16));
        let mut skb = skb()?;
        assert!(!payload.move_to(&mut skb));
        assert_eq!(skb.len(), 0);
        assert_eq!(pieces(&payload)?.as_slice(), [(60, 8), (0, 8)]);
        Ok(())
    }

    #[test]
    fn buffers_come_back_and_then_the_next_packet_can_come() -> Result {
        let mut payload = pages(2)?;
        assert!(payload.find_room(8, 128));
        let _ = payload.ask_for_room();
        for fill in [1, 0] {
            let mut first = [0xff];
            let block = payload.reclaim().ok_or(EINVAL)?;
            block.copy_from(0, &mut first)?;
            assert_eq!(first, [fill]);
            assert_eq!(payload.len(), 16);
        }
        assert!(payload.reclaim().is_none());
        assert_eq!((payload.len(), payload.memory()), (0, 0));
        assert_eq!(payload.lacks_room(), None);
        assert!(payload.take_room(0).is_none());
        Ok(())
    }
}
