// SPDX-License-Identifier: GPL-2.0

//! One virtqueue for as long as it is worked on: chains are taken, copied from or filled, and given back together.
//!
//! `virtio_queue` checks and walks what the guest made available in a split ring; what it cannot do, packed rings, is in
//! [`packed`]. What is given back is written here: all buffers of a packet must become visible at once, and its
//! `add_used` shows them one by one.

mod packed;

use std::{
    ops::Deref,
    sync::{
        atomic::{fence, Ordering},
        MutexGuard,
    },
};

use log::warn;
use vhost_user_backend::{VringMutex, VringState, VringT};
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};

use self::packed::{Layout, Place};

pub type Memory = GuestMemoryMmap<()>;
pub type Space = GuestMemoryAtomic<Memory>;
pub type Vring = VringMutex<Space>;

/// In the flags of the available ring: the driver wants no interrupts.
const NO_INTERRUPT: u16 = 1;

/// A chain cannot be longer than this in total, however its table looks.
const MAX_SEGMENTS: usize = 4096;

/// The chain is no packet.
#[derive(Debug)]
pub struct Malformed;

/// A buffer of the driver's.
pub enum Chain<'a> {
    Split(DescriptorChain<&'a Memory>),
    Packed(packed::Chain),
}

/// What a buffer is known by.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub id: u16,
    /// So many descriptors of a packed ring it takes.
    pub slots: u16,
}

impl<'a> Chain<'a> {
    pub fn head(&self) -> Head {
        match self {
            Self::Split(chain) => Head {
                id: chain.head_index(),
                slots: 1,
            },
            Self::Packed(chain) => Head {
                id: chain.id,
                slots: chain.slots,
            },
        }
    }

    /// Its segments that the device may write, or those that it may read.
    fn segments(self, writable: bool) -> impl Iterator<Item = (GuestAddress, usize)> + 'a {
        let (split, packed) = match self {
            Self::Split(chain) => (Some(chain), None),
            Self::Packed(chain) => (None, Some(chain)),
        };
        let split = split
            .into_iter()
            .flat_map(move |c| if writable { c.writable() } else { c.readable() });
        let packed = packed.into_iter().flat_map(move |c| c.segments(writable));
        split
            .map(|d| (d.addr(), d.len() as usize))
            .chain(packed)
            .take(MAX_SEGMENTS)
    }
}

/// What a packed ring has beside the two places, which are kept where a split ring has its indices.
#[derive(Default)]
struct Packed {
    /// How many descriptors each of the buffers had that were taken, for [`Ring::unpop`].
    taken: Vec<u16>,
    /// The flags of the first of those that are not visible yet.
    first: Option<u16>,
}

pub struct Ring<'a> {
    state: MutexGuard<'a, VringState<Space>>,
    mem: &'a Memory,
    /// If it is a packed one.
    packed: Option<Packed>,
    /// Buffers that are written to the used ring, but not yet visible; in a packed ring, their descriptors.
    added: u16,
    /// The available ring makes no sense: nothing is taken before the next kick.
    broken: bool,
    /// How far the driver had come when the last buffer was looked for.
    seen: Option<u16>,
}

/// Buffers that were taken for one packet.
pub struct Room {
    /// So many segments of a buffer are used, and the others left alone.
    pieces: usize,
    segments: Vec<(GuestAddress, usize)>,
    /// For each buffer: its head, the number of its segments, and its size.
    buffers: Vec<(Head, usize, usize)>,
    total: usize,
}

impl Room {
    /// Room in buffers of which `pieces` segments are used.
    pub fn new(pieces: usize) -> Self {
        Self {
            pieces,
            segments: Vec::new(),
            buffers: Vec::new(),
            total: 0,
        }
    }

    /// What fits after a header of `header` bytes.
    pub fn payload(&self, header: usize) -> usize {
        self.total.saturating_sub(header)
    }

    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    fn clear(&mut self) {
        self.segments.clear();
        self.buffers.clear();
        self.total = 0;
    }
}

impl<'a> Ring<'a> {
    /// Gives the queue if the driver has set it up.
    pub fn open(vring: &'a Vring, mem: &'a Memory, is_packed: bool) -> Option<Self> {
        let mut state = vring.get_mut();
        if !state.get_queue().ready() || !state.is_enabled() {
            return None;
        }
        if is_packed {
            // All that was taken was given back by now. What the library found where a split ring has its index is none.
            let queue = state.get_queue_mut();
            queue.set_next_used(queue.next_avail());
        }
        Some(Self {
            state,
            mem,
            packed: is_packed.then(Packed::default),
            added: 0,
            broken: false,
            seen: None,
        })
    }

    /// True if the driver has just set the queue up, and nothing has gone over it.
    pub fn is_new(&self) -> bool {
        let queue = self.state.get_queue();
        let start = match self.packed {
            Some(_) => Place::START.0,
            None => 0,
        };
        queue.next_avail() == start && queue.next_used() == start
    }

    fn layout(&self) -> Layout<'a> {
        let queue = self.state.get_queue();
        Layout {
            mem: self.mem,
            size: queue.size(),
            descriptors: queue.desc_table(),
            driver: queue.avail_ring(),
            device: queue.used_ring(),
            event_idx: queue.event_idx_enabled(),
        }
    }

    /// Where the next buffer is to be found in a packed ring.
    fn place(&self) -> Place {
        Place(self.state.get_queue().next_avail())
    }

    fn or_broken<T>(&mut self, outcome: Result<T, Malformed>) -> Option<T> {
        if outcome.is_err() && !std::mem::replace(&mut self.broken, true) {
            warn!("a packed ring is broken");
        }
        outcome.ok()
    }

    pub fn pop(&mut self) -> Option<Chain<'a>> {
        if self.broken {
            return None;
        }
        if self.packed.is_some() {
            return self.pop_packed().map(Chain::Packed);
        }
        self.seen = self.available();
        match self.state.get_queue_mut().iter(self.mem) {
            Ok(mut available) => available.next().map(Chain::Split),
            Err(e) => {
                warn!("a queue is broken: {e}");
                self.broken = true;
                None
            }
        }
    }

    fn pop_packed(&mut self) -> Option<packed::Chain> {
        let (layout, place) = (self.layout(), self.place());
        let chain = self.or_broken(layout.take(place))?;
        let Some(chain) = chain else {
            self.seen = Some(place.0);
            return None;
        };
        let after = layout.after(place, chain.slots);
        self.state.get_queue_mut().set_next_avail(after.0);
        if let Some(packed) = &mut self.packed {
            packed.taken.push(chain.slots);
        }
        Some(chain)
    }

    /// Takes back the last `pop()`.
    pub fn unpop(&mut self) {
        let (size, place) = (self.state.get_queue().size(), self.place());
        let queue = self.state.get_queue_mut();
        match &mut self.packed {
            Some(packed) => {
                let slots = packed.taken.pop().unwrap_or(0);
                queue.set_next_avail(place.minus(slots, size).0);
            }
            None => queue.go_to_previous_position(),
        }
    }

    /// The driver need not kick.
    pub fn quiet(&mut self) {
        if self.packed.is_some() {
            let outcome = self.layout().quiet();
            self.or_broken(outcome);
            return;
        }
        let _ = self.state.get_queue_mut().disable_notification(self.mem);
    }

    /// Asks for no kick, also with EVENT_IDX: as a device does that has lost count.
    pub fn forget(&mut self) {
        self.quiet();
        if self.packed.is_some() {
            return;
        }
        let Some(now) = self.available() else { return };
        let queue = self.state.get_queue();
        let event = queue
            .used_ring()
            .wrapping_add(4 + 8 * u64::from(queue.size()));
        let past = now.wrapping_sub(0x4000);
        let _ = self
            .mem
            .store(past.to_le(), GuestAddress(event), Ordering::Relaxed);
    }

    /// The driver need not kick, unless it shall kick each time.
    pub fn hush(&mut self, loud: bool) {
        if loud {
            self.wait();
        } else {
            self.quiet();
        }
    }

    /// The driver must kick when it adds a buffer; true if it has done so in the meantime.
    pub fn wait(&mut self) -> bool {
        if self.packed.is_some() {
            let place = self.place();
            return self.wait_at(place) && self.available() != Some(place.0);
        }
        let more = self.state.get_queue_mut().enable_notification(self.mem);
        !self.broken && more.unwrap_or(false)
    }

    /// The same for a packet that needs more buffers than there are: those that were given back untouched are
    /// none to wait for, and with EVENT_IDX the driver kicks for what comes behind the event alone.
    pub fn wait_for_more(&mut self) -> bool {
        let Some(now) = self.available() else {
            return false;
        };
        if self.packed.is_some() {
            return self.wait_at(Place(now)) && self.available() != self.seen;
        }
        let queue = self.state.get_queue_mut();
        let _ = queue.enable_notification(self.mem);
        if queue.event_idx_enabled() {
            let event = queue
                .used_ring()
                .wrapping_add(4 + 8 * u64::from(queue.size()));
            let _ = self
                .mem
                .store(now.to_le(), GuestAddress(event), Ordering::Relaxed);
        }
        // The driver sees the event, or we see what it added before it looked.
        fence(Ordering::SeqCst);
        !self.broken && self.available() != self.seen
    }

    /// Asks for a kick at a place of a packed ring; false if it is broken.
    fn wait_at(&mut self, place: Place) -> bool {
        let outcome = self.layout().wait(place);
        self.or_broken(outcome);
        !self.broken
    }

    /// How far the driver has come.
    fn available(&self) -> Option<u16> {
        if self.packed.is_some() {
            return self.layout().end(self.place()).ok().map(|p| p.0);
        }
        let queue = self.state.get_queue();
        let index = queue.avail_idx(self.mem, Ordering::Acquire).ok()?;
        Some(index.0)
    }

    /// Gives a buffer back with `len` bytes written to it. [`Ring::finish`] shows it to the driver.
    pub fn used(&mut self, head: Head, len: u32) {
        if self.packed.is_some() {
            return self.used_packed(head, len);
        }
        let queue = self.state.get_queue();
        let index = queue.next_used().wrapping_add(self.added) % queue.size();
        let at = queue.used_ring().wrapping_add(4 + 8 * u64::from(index));
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(head.id).to_le_bytes());
        element[4..].copy_from_slice(&len.to_le_bytes());
        if self.mem.write_slice(&element, GuestAddress(at)).is_err() {
            self.broken = true;
        }
        self.added = self.added.wrapping_add(1);
    }

    fn used_packed(&mut self, head: Head, len: u32) {
        let layout = self.layout();
        let place = layout.after(Place(self.state.get_queue().next_used()), self.added);
        let handed = layout.hand_back(place, head.id, len);
        let Some(flags) = self.or_broken(handed) else {
            return;
        };
        if self.added > 0 {
            let shown = layout.show(place, flags);
            self.or_broken(shown);
        } else if let Some(packed) = &mut self.packed {
            // The driver looks at one after the other: this one hides those behind it.
            packed.first = Some(flags);
        }
        self.added = self.added.wrapping_add(head.slots);
    }

    /// Writes as much as fits into one buffer; gives how much that was.
    pub fn write_chain(&self, chain: Chain<'a>, bytes: &[u8]) -> u32 {
        let mut rest = bytes;
        for (at, len) in chain.segments(true) {
            let (part, behind) = rest.split_at(rest.len().min(len));
            self.write(part, at);
            rest = behind;
        }
        (bytes.len() - rest.len()) as u32
    }

    /// Shows the driver all that is given back, and interrupts it if it wants that; true if it was interrupted.
    pub fn finish(&mut self) -> bool {
        if self.added == 0 {
            return false;
        }
        if self.packed.is_some() {
            return self.finish_packed();
        }
        let queue = self.state.get_queue_mut();
        let old = queue.next_used();
        let new = old.wrapping_add(self.added);
        queue.set_next_used(new);
        self.added = 0;
        let index = GuestAddress(queue.used_ring().wrapping_add(2));
        if self
            .mem
            .store(new.to_le(), index, Ordering::Release)
            .is_err()
        {
            self.broken = true;
            return false;
        }
        fence(Ordering::SeqCst);
        let avail = queue.avail_ring();
        let wanted = if queue.event_idx_enabled() {
            let at = avail.wrapping_add(4 + 2 * u64::from(queue.size()));
            let event = self.mem.load(GuestAddress(at), Ordering::Relaxed);
            passed(event.map_or(old, u16::from_le), old, new)
        } else {
            let flags = self.mem.load(GuestAddress(avail), Ordering::Relaxed);
            flags.map_or(0, u16::from_le) & NO_INTERRUPT == 0
        };
        if wanted {
            let _ = self.state.signal_used_queue();
        }
        wanted
    }

    fn finish_packed(&mut self) -> bool {
        let (layout, slots) = (self.layout(), std::mem::take(&mut self.added));
        let from = Place(self.state.get_queue().next_used());
        let Some(flags) = self.packed.as_mut().and_then(|p| p.first.take()) else {
            return false;
        };
        let now = layout.after(from, slots);
        self.state.get_queue_mut().set_next_used(now.0);
        let wanted = layout
            .show(from, flags)
            .and_then(|()| layout.wants_interrupt(now, slots));
        let wanted = self.or_broken(wanted).unwrap_or(false);
        if wanted {
            let _ = self.state.signal_used_queue();
        }
        wanted
    }

    /// Copies a packet out: the header once, and what it says is there behind it to the head of `data`.
    /// Gives the payload's length, and in how many pieces it lay; `len_of` finds it in the header.
    pub fn read(
        &self,
        chain: Chain<'a>,
        header: &mut [u8],
        max: usize,
        len_of: impl Fn(&[u8]) -> usize,
        data: &mut Vec<u8>,
    ) -> Result<(usize, usize), Malformed> {
        let (mut have, mut len, mut done, mut pieces) = (0, None, 0, 0);
        for (mut at, mut left) in chain.segments(false) {
            if have < header.len() {
                let n = left.min(header.len() - have);
                let part = header.get_mut(have..have + n).ok_or(Malformed)?;
                self.mem.read_slice(part, at).map_err(|_| Malformed)?;
                (have, left) = (have + n, left - n);
                at = GuestAddress(at.0.checked_add(n as u64).ok_or(Malformed)?);
            }
            if have < header.len() {
                continue;
            }
            let len = *len.get_or_insert_with(|| len_of(header));
            if len > max {
                return Err(Malformed);
            }
            if data.len() < len {
                data.resize(len, 0);
            }
            let n = left.min(len - done);
            let part = data.get_mut(done..done + n).ok_or(Malformed)?;
            self.mem.read_slice(part, at).map_err(|_| Malformed)?;
            done += n;
            pieces += usize::from(n > 0);
        }
        if len == Some(done) {
            Ok((done, pieces))
        } else {
            Err(Malformed)
        }
    }

    /// Takes buffers for a packet of up to `want` bytes in all: one, or with `mergeable` as many as it needs.
    /// Buffers that could not hold a header go back empty; their number is the result.
    pub fn reserve(&mut self, room: &mut Room, want: usize, mergeable: bool) -> u32 {
        room.clear();
        let (mut bad, limit) = (0, self.state.get_queue().size());
        while room.total < want && room.buffers.len() < usize::from(limit) {
            let Some(chain) = self.pop() else { break };
            let (head, first) = (chain.head(), room.segments.len());
            let mut size = 0_usize;
            for (at, len) in chain.segments(true).take(room.pieces) {
                room.segments.push((at, len));
                size = size.saturating_add(len);
            }
            if size < crate::packet::HEADER_MRG {
                room.segments.truncate(first);
                // A bad buffer among good ones is met again when those are gone.
                if !room.buffers.is_empty() {
                    self.unpop();
                    break;
                }
                self.used(head, 0);
                bad += 1;
                if bad >= u32::from(limit) {
                    break;
                }
                continue;
            }
            let count = room.segments.len() - first;
            room.buffers.push((head, count, size));
            room.total = room.total.saturating_add(size);
            if !mergeable {
                break;
            }
        }
        bad
    }

    /// Gives back what was reserved, untouched.
    pub fn release(&mut self, room: &mut Room) {
        for _ in room.buffers.drain(..) {
            self.unpop();
        }
        room.clear();
    }

    /// How many of the buffers a packet of `total` bytes takes.
    pub fn buffers_for(room: &Room, total: usize) -> u16 {
        let (mut sum, mut count) = (0_usize, 0_u16);
        for (_, _, size) in &room.buffers {
            if count > 0 && sum >= total {
                break;
            }
            sum = sum.saturating_add(*size);
            count = count.saturating_add(1);
        }
        count
    }

    /// Writes header and payload to the reserved buffers, gives back those that it took, and keeps the others available.
    pub fn fill(&mut self, room: &mut Room, header: &[u8], data: &[u8]) {
        let total = header.len() + data.len();
        let mut segments = room.segments.iter();
        let mut written = 0;
        let mut taken = 0;
        for (head, count, size) in &room.buffers {
            if taken > 0 && written >= total {
                break;
            }
            let mut space = (*size).min(total - written);
            let len = space;
            for (at, room) in segments.by_ref().take(*count) {
                let (mut at, mut n) = (*at, (*room).min(space));
                space -= n;
                if written < header.len() {
                    let h = n.min(header.len() - written);
                    self.write(&header[written..written + h], at);
                    (written, n) = (written + h, n - h);
                    at = GuestAddress(at.0.wrapping_add(h as u64));
                }
                if n > 0 {
                    let from = written - header.len();
                    self.write(&data[from..from + n], at);
                    written += n;
                }
            }
            self.used(*head, len as u32);
            taken += 1;
        }
        for _ in taken..room.buffers.len() {
            self.unpop();
        }
        room.clear();
    }

    /// Gives the first of the reserved buffers back as if `len` bytes were written to it.
    pub fn fill_with_nothing(&mut self, room: &mut Room, len: usize) {
        for (i, (head, ..)) in room.buffers.iter().enumerate() {
            if i == 0 {
                self.used(*head, len as u32);
            } else {
                self.unpop();
            }
        }
        room.clear();
    }

    fn write(&self, bytes: &[u8], at: GuestAddress) {
        // A driver that posts memory which is not there gets nothing.
        let _ = self.mem.write_slice(bytes, at);
    }
}

impl Drop for Ring<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Whether going from `old` to `new` passes `event`; all three run freely.
fn passed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// The guest's memory at this moment.
pub fn memory(space: &Space) -> impl Deref<Target = Memory> {
    use vm_memory::GuestAddressSpace;
    space.memory()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_passed_once() {
        assert!(passed(5, 5, 6));
        assert!(!passed(6, 5, 6));
        assert!(!passed(4, 5, 6));
        assert!(passed(0xffff, 0xfff0, 3));
        assert!(!passed(3, 0xfff0, 3));
    }

    #[test]
    fn a_packet_takes_as_many_buffers_as_it_fills() {
        let room = Room {
            pieces: 1,
            segments: Vec::new(),
            buffers: [0, 1, 2].map(|id| (Head { id, slots: 1 }, 1, 100)).into(),
            total: 300,
        };
        for (total, count) in [(1, 1), (100, 1), (101, 2), (200, 2), (201, 3), (300, 3)] {
            assert_eq!(Ring::buffers_for(&room, total), count);
        }
    }
}
