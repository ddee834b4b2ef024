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
    pub(super) const fn new() -> Self {
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
    pub(super) fn with_capacity(buffers: usize, flags: Flags) -> Result<Self> {
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
    pub(super) fn add(&mut self, block: PageBlock, offset: usize, len: usize) {
        let piece = Piece { block, offset, len };
        if self.pieces.push_within_capacity(piece).is_err() {
            self.damaged = true;
        }
    }

    /// Notes that all buffers are there: `len` bytes are payload, or, if that is none, some were lost (M2).
    pub(super) fn complete(&mut self, len: Option<usize>) {
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
    pub(super) fn add_spare_skb(&mut self, skb: SkBuff) {
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
    pub(super) fn reclaim(&mut self) -> Option<PageBlock> {
        let block = self.pieces.pop().map(|piece| piece.block);
        if block.is_none() {
            self.len = 0;
            self.damaged = false;
            self.room = None;
            self.waits_for_room = false;
        }
        block
    }
}
