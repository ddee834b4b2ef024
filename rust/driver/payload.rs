// SPDX-License-Identifier: GPL-2.0

//! The payload of a received packet, in the buffers that it came in.

use crate::ext::{
    mm::PageBlock,
    net::skbuff::{
        ControlBlock,
        SkBuff,
        SkBuffQueue, //
    }, //
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
pub(super) struct Payload {
    pieces: KVec<Piece>,
    len: usize,
    damaged: bool,
    /// Empty socket buffers that the pages can move to: to store a packet takes no memory then.
    heads: SkBuffQueue<()>,
}

impl Payload {
    /// None, and no room for buffers.
    pub(super) const fn new() -> Self {
        Self {
            pieces: KVec::new(),
            len: 0,
            damaged: false,
            heads: SkBuffQueue::new(),
        }
    }

    /// None, with room for as many buffers as a packet can have.
    pub(super) fn with_capacity(buffers: usize, flags: Flags) -> Result<Self> {
        Ok(Self {
            pieces: KVec::with_capacity(buffers, flags)?,
            len: 0,
            damaged: false,
            heads: SkBuffQueue::new(),
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

    /// All buffers are there: `len` bytes are payload, or, if that is none, some were lost (M2).
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
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether bytes were lost.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// The memory of its buffers in bytes.
    pub(super) fn memory(&self) -> usize {
        self.pieces
            .iter()
            .fold(0, |sum, piece| sum.saturating_add(piece.block.len()))
    }

    /// Calls `f` with each buffer, and with where in it payload begins and how long it is.
    pub(super) fn try_for_each(
        &self,
        mut f: impl FnMut(&PageBlock, usize, usize) -> Result,
    ) -> Result {
        self.pieces
            .iter()
            .try_for_each(|piece| f(&piece.block, piece.offset, piece.len))
    }

    /// Whether one socket buffer can take all its pages.
    pub(super) fn fits_pages(&self) -> bool {
        self.pieces.len() <= SkBuff::<()>::MAX_PAGES
    }

    /// Whether there are too few socket buffers for its pages.
    pub(super) fn lacks_heads(&self) -> bool {
        self.pieces.len() > self.heads.len().saturating_mul(SkBuff::<()>::MAX_PAGES)
    }

    /// Provides an empty socket buffer for its pages.
    pub(super) fn add_head(&mut self, head: SkBuff) {
        self.heads.push_back(head);
    }

    /// An empty socket buffer for its pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is none left; not for a packet that [lacks](Self::lacks_heads) none.
    pub(super) fn take_head(&mut self) -> Result<SkBuff> {
        self.heads.pop_front().ok_or(ENOMEM)
    }

    /// Moves as many pages to `skb` as it can take; returns whether that was all of them.
    pub(super) fn move_to<C: ControlBlock>(&mut self, skb: &mut SkBuff<C>) -> bool {
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

    /// Takes back a buffer that nobody has taken. When there is none, the next packet can come.
    pub(super) fn reclaim(&mut self) -> Option<PageBlock> {
        let block = self.pieces.pop().map(|piece| piece.block);
        if block.is_none() {
            self.len = 0;
            self.damaged = false;
        }
        block
    }
}
