// SPDX-License-Identifier: GPL-2.0

//! Turns: what the kernel's packet scheduling orders, in place of the packets themselves.
//!
//! # What it looks like
//!
//! | field | value |
//! |---|---|
//! | length | that of the packet: headers are copied, the rest reads as zeroes |
//! | network header | the packet's first bytes; the transport header is where these end |
//! | protocol | `ETH_P_802_EX1` (0x88b5) |
//! | hash | as given, and of a whole connection (`l4_hash`) |
//! | priority, mark | those of the packet's socket; without one, of the packet |
//! | socket | that which the packet is charged to, and the turn is charged to it, too |
//! | checksum | the key, which is nothing that a filter changes |
//!
//! The data behind the header are fragments that all refer to the kernel's page of zeroes. So they are
//! there to be copied, but take no memory, and count for none.
//!
//! # Who tells turns apart by what
//!
//! - fq: the socket; the hash where there is none, or it is not connected (`TCP_CLOSE`, as those of datagrams). It
//!   keeps to `SO_MAX_PACING_RATE`.
//! - fq_codel, fq_pie: the hash. cake: the hash; to it all hosts are one.
//! - sfq, sfb and hhf dissect packets on their own, and know none of these: to them all turns are one flow. sfq takes
//!   the hash where a filter has it do so: `flow hash keys rxhash divisor 1024`.
//! - prio, pfifo_fast: the priority. htb, hfsc, drr: filters, and the priority where it names a class.
//! - tbf, htb, netem and policers: the length. What has a burst wants one of a whole packet.
//! - Filters: u32 and bpf read the data, from the network header on; fw the mark; cgroup the socket's class; flower
//!   the protocol and the hash; basic the data and more.
//!
//! # What becomes of it
//!
//! - Who copies it (netem that corrupts) makes another of it, which matches nothing. A clone (netem that duplicates,
//!   a mirror) matches, as long as the token is there: whoever gives a packet away for a turn drops the token, or
//!   gives away one packet more when the next turn comes twice.
//! - Who writes to its header (pedit) leaves it what it is. Who puts another before it (vlan push) makes it none: what
//!   comes out then is dropped, and counts as such.
//! - A capture has clones of it. They neither count as out, nor keep it from being matched.
//! - A redirect (mirred) gives a clone away and drops the turn: that counts as dropped from then on, though the clone may
//!   come back, and match.

use crate::ext::{
    bindings,
    net::skbuff::{
        ControlBlock,
        DropReason,
        SkBuff, //
    }, //
};
use core::{
    mem::ManuallyDrop,
    ptr::NonNull, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// The greatest header.
const MAX_HEADER: usize = 256;

/// The right to turns, one at a time: what their owner keeps of them.
///
/// A turn is a clone of it, and the two are one allocation: whether the turn is still out there is to be seen by
/// looking, as TCP does with what it may send once more. So nobody who drops a turn has to tell us: no code of ours
/// runs then, and a turn may outlive its token, the interface and the module.
///
/// # Invariants
///
/// `skb` is a valid `struct sk_buff` of `alloc_skb_fclone()` that is ours, and charged to nobody. Its data are never
/// written to.
pub(crate) struct Token {
    skb: NonNull<bindings::sk_buff>,
}

// SAFETY: A socket buffer is not tied to a thread.
unsafe impl Send for Token {}

impl Token {
    /// A token for turns of the length of `like`, of which the first `header` bytes are shown.
    ///
    /// `hash` is what separates connections; `queue` the transmit queue that it is for; `key` what [`Turn::key`] gives
    /// back.
    ///
    /// # Context
    ///
    /// Any; does not sleep.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: `header` is nothing, more than 256 bytes, or more than there is; or the packet is longer than
    ///   [`MAX_SKB_FRAGS`](SkBuff::MAX_PAGES) pages beyond it.
    /// - `ENOMEM`: no memory.
    pub(crate) fn new<C: ControlBlock>(
        like: &SkBuff<C>,
        header: usize,
        hash: u32,
        queue: u16,
        key: u32,
    ) -> Result<Self> {
        let rest = like.len().checked_sub(header).ok_or(EINVAL)?;
        let max = SkBuff::<C>::MAX_PAGES.saturating_mul(PAGE_SIZE);
        if header == 0 || header > MAX_HEADER || rest > max {
            return Err(EINVAL);
        }
        // SAFETY: The packet is valid, and has so many bytes; the rest fits the fragments, as was just seen. The
        // charge, if there is one, keeps the socket's memory, as long as the packet is borrowed.
        let skb = unsafe {
            // CAST: Not above `MAX_HEADER`.
            bindings::rvsock_helper_token_alloc(like.as_ptr(), header as u32, hash, queue, key)
        };
        // INVARIANT: New, and ours.
        Ok(Self {
            skb: NonNull::new(skb).ok_or(ENOMEM)?,
        })
    }

    /// A turn.
    ///
    /// It has the priority, the mark and the socket of `like`, and is charged to that until it is dropped; without
    /// `like` it has no socket, and what it had when the token was made.
    ///
    /// # Context
    ///
    /// Any; does not sleep.
    ///
    /// # Errors
    ///
    /// - `EBUSY`: there [is one](Self::is_out).
    /// - `ENOMEM`: no memory.
    pub(crate) fn turn<C: ControlBlock>(&self, like: Option<&SkBuff<C>>) -> Result<Turn> {
        if self.is_out() {
            return Err(EBUSY);
        }
        let like = like.map_or(core::ptr::null_mut(), SkBuff::as_ptr);
        // SAFETY: By the type invariant the token is valid, and nobody clones it but us, one at a time, as a `Token` is
        // not `Sync`. The packet is valid if there is one, and if it is charged, its charge keeps the socket's memory,
        // as long as it is borrowed; of a socket whose memory is there, more may be charged.
        let skb = unsafe { bindings::rvsock_helper_token_turn(self.skb.as_ptr(), like) };
        // INVARIANT: New, and ours.
        Ok(Turn {
            skb: NonNull::new(skb).ok_or(ENOMEM)?,
        })
    }

    /// Whether a turn is still out there: nobody has dropped it.
    ///
    /// # Context
    ///
    /// Any.
    pub(crate) fn is_out(&self) -> bool {
        // SAFETY: By the type invariant it is valid, and was allocated as the function wants it.
        unsafe { bindings::rvsock_helper_token_is_out(self.skb.as_ptr()) }
    }

    /// Whether `turn` is of this token.
    ///
    /// It is if it is the very buffer, or refers to the same data. Both are there as long as the token or somebody has
    /// them: no other buffer is in their place meanwhile.
    ///
    /// # Context
    ///
    /// Any.
    pub(crate) fn matches(&self, turn: &Turn) -> bool {
        // SAFETY: By the type invariants both are valid, and the token was allocated as the function wants it.
        unsafe { bindings::rvsock_helper_token_matches(self.skb.as_ptr(), turn.skb.as_ptr()) }
    }
}

impl Drop for Token {
    /// A turn that is out stays what it is, and matches nothing any more.
    fn drop(&mut self) {
        // SAFETY: Ours, and not used after this.
        unsafe { free(self.skb, DropReason::CONSUMED) };
    }
}

/// A turn: it says that its owner may send its next packet.
///
/// Dropping it is its end, as if it had been used.
///
/// # Invariants
///
/// `skb` is a valid `struct sk_buff` that is ours, and what `is_one()` says is one. Its data may be
/// anybody's, too.
pub(crate) struct Turn {
    skb: NonNull<bindings::sk_buff>,
}

// SAFETY: A socket buffer is not tied to a thread.
unsafe impl Send for Turn {}

// SAFETY: Through a shared reference it can only be read.
unsafe impl Sync for Turn {}

impl Turn {
    /// What its token was told.
    ///
    /// A hint: whoever may send raw packets through the interface can give one any key. None if somebody has had a use
    /// for the place where it was.
    pub(crate) fn key(&self) -> Option<u32> {
        // SAFETY: By the type invariant it is valid.
        unsafe {
            Self::is_one(self.skb).then(|| bindings::rvsock_helper_turn_key(self.skb.as_ptr()))
        }
    }

    /// The length of the packet that it is for, unless somebody has changed it.
    #[allow(clippy::len_without_is_empty)]
    pub(crate) fn len(&self) -> usize {
        // SAFETY: By the type invariant it is valid.
        unsafe { (*self.skb.as_ptr()).len as usize }
    }

    /// Drops it as one that nobody has a use for, and says so to those who look for lost packets.
    ///
    /// # Context
    ///
    /// Any.
    pub(crate) fn refuse(self) {
        // SAFETY: Ours, and not used after this.
        unsafe { free(self.into_raw(), DropReason::NOT_SPECIFIED) };
    }

    /// Whether a buffer looks like a turn.
    ///
    /// # Safety
    ///
    /// It must be valid.
    pub(super) unsafe fn is_one(skb: NonNull<bindings::sk_buff>) -> bool {
        // SAFETY: By the safety requirement.
        unsafe { bindings::rvsock_helper_skb_is_turn(skb.as_ptr()) }
    }

    /// Gives up ownership.
    pub(super) fn into_raw(self) -> NonNull<bindings::sk_buff> {
        ManuallyDrop::new(self).skb
    }

    /// The other way round.
    ///
    /// # Safety
    ///
    /// `skb` must be valid, the caller's, and look [like one](Self::is_one).
    pub(super) unsafe fn from_raw(skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: By the safety requirements.
        Self { skb }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // SAFETY: Ours, and not used after this.
        unsafe { free(self.skb, DropReason::CONSUMED) };
    }
}

/// Frees a buffer.
///
/// # Safety
///
/// It must be valid, the caller's, and not used after this.
unsafe fn free(skb: NonNull<bindings::sk_buff>, reason: DropReason) {
    // SAFETY: By the safety requirements.
    unsafe { bindings::rvsock_helper_free_skb(skb.as_ptr(), reason.as_raw()) };
}
