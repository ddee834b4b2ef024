// SPDX-License-Identifier: GPL-2.0

//! Packed rings: the driver makes descriptors available, and the device hands them back in the same places.
//!
//! Source: virtio 1.3, "Packed Virtqueues".

use std::sync::atomic::{fence, Ordering};

use vm_memory::{Bytes, GuestAddress};

use super::{passed, Malformed, Memory, MAX_SEGMENTS};

const NEXT: u16 = 1 << 0;
const WRITE: u16 = 1 << 1;
const INDIRECT: u16 = 1 << 2;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

const DESCRIPTOR: u64 = 16;
/// Where in a descriptor its length is, its buffer's number, and its flags.
const LEN: u64 = 8;
const ID: u64 = 12;
const FLAGS: u64 = 14;

/// What each side says of the notifications that it wants.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const AT_PLACE: u16 = 2;
/// Where in that the flags are.
const WANTED: u64 = 2;

/// The wrap counter, beside the number of a descriptor.
const WRAP: u16 = 1 << 15;

/// A place in a ring: the number of a descriptor, and the wrap counter in the highest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub u16);

impl Place {
    pub const START: Self = Self(WRAP);

    fn index(self) -> u16 {
        self.0 & !WRAP
    }

    fn plus(self, count: u16, size: u16) -> Self {
        let sum = self.index().wrapping_add(count);
        if sum < size {
            Self(sum | self.0 & WRAP)
        } else {
            Self((sum - size) & !WRAP | !self.0 & WRAP)
        }
    }

    pub fn minus(self, count: u16, size: u16) -> Self {
        match self.index().checked_sub(count) {
            Some(index) => Self(index | self.0 & WRAP),
            None => {
                Self(self.index().wrapping_add(size).wrapping_sub(count) & !WRAP | !self.0 & WRAP)
            }
        }
    }

    fn is_available(self, flags: u16) -> bool {
        let (avail, used) = (flags & AVAIL != 0, flags & USED != 0);
        avail != used && avail == (self.0 & WRAP != 0)
    }
}

/// A buffer of the driver's.
pub struct Chain {
    pub id: u16,
    /// So many descriptors of the ring it takes.
    pub slots: u16,
    /// Where its segments are, and whether they are to be written.
    segments: Vec<(GuestAddress, usize, bool)>,
}

impl Chain {
    pub fn segments(self, writable: bool) -> impl Iterator<Item = (GuestAddress, usize)> {
        let all = self.segments.into_iter();
        all.filter_map(move |(at, len, is)| (is == writable).then_some((at, len)))
    }
}

/// A ring as it lies in the guest's memory.
#[derive(Clone, Copy)]
pub struct Layout<'a> {
    pub mem: &'a Memory,
    pub size: u16,
    pub descriptors: u64,
    /// What the driver says of its interrupts.
    pub driver: u64,
    /// What the device says of its kicks.
    pub device: u64,
    pub event_idx: bool,
}

struct Descriptor {
    address: u64,
    len: u32,
    id: u16,
    flags: u16,
}

impl Layout<'_> {
    fn at(&self, place: Place) -> u64 {
        let offset = DESCRIPTOR * u64::from(place.index());
        self.descriptors.wrapping_add(offset)
    }

    fn load(&self, at: u64, order: Ordering) -> Result<u16, Malformed> {
        let value = self.mem.load(GuestAddress(at), order);
        value.map(u16::from_le).map_err(|_| Malformed)
    }

    fn store(&self, at: u64, value: u16, order: Ordering) -> Result<(), Malformed> {
        let stored = self.mem.store(value.to_le(), GuestAddress(at), order);
        stored.map_err(|_| Malformed)
    }

    fn descriptor(&self, at: u64) -> Result<Descriptor, Malformed> {
        let mut bytes = [0; DESCRIPTOR as usize];
        let read = self.mem.read_slice(&mut bytes, GuestAddress(at));
        read.map_err(|_| Malformed)?;
        let [a, b, c, d, e, f, g, h, l, m, n, o, i, j, x, y] = bytes;
        Ok(Descriptor {
            address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            len: u32::from_le_bytes([l, m, n, o]),
            id: u16::from_le_bytes([i, j]),
            flags: u16::from_le_bytes([x, y]),
        })
    }

    fn is_available(&self, place: Place) -> Result<bool, Malformed> {
        let flags = self.load(self.at(place).wrapping_add(FLAGS), Ordering::Acquire)?;
        Ok(place.is_available(flags))
    }

    /// The buffer at `place`, if there is one.
    pub fn take(&self, place: Place) -> Result<Option<Chain>, Malformed> {
        if !self.is_available(place)? {
            return Ok(None);
        }
        let (mut at, mut slots, mut segments) = (place, 0, Vec::new());
        loop {
            let d = self.descriptor(self.at(at))?;
            slots += 1;
            if d.flags & INDIRECT != 0 {
                let count = (u64::from(d.len) / DESCRIPTOR).min(MAX_SEGMENTS as u64);
                for i in 0..count {
                    let d = self.descriptor(d.address.wrapping_add(i * DESCRIPTOR))?;
                    segments.push(d.segment());
                }
            } else {
                segments.push(d.segment());
            }
            if d.flags & NEXT == 0 {
                let id = d.id;
                return Ok(Some(Chain {
                    id,
                    slots,
                    segments,
                }));
            }
            if slots >= self.size {
                return Err(Malformed);
            }
            at = at.plus(1, self.size);
        }
    }

    pub fn after(&self, place: Place, slots: u16) -> Place {
        place.plus(slots.min(self.size), self.size)
    }

    /// The first place from `place` on where nothing is available.
    pub fn end(&self, place: Place) -> Result<Place, Malformed> {
        let mut end = place;
        for _ in 0..self.size {
            if !self.is_available(end)? {
                break;
            }
            end = end.plus(1, self.size);
        }
        Ok(end)
    }

    /// Writes that a buffer is used, but for its flags, which are given: the driver sees it when they are written.
    pub fn hand_back(&self, place: Place, id: u16, len: u32) -> Result<u16, Malformed> {
        let at = self.at(place);
        let mut bytes = [0; 6];
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes[4..].copy_from_slice(&id.to_le_bytes());
        const { assert!(LEN + 4 == ID) };
        let written = self
            .mem
            .write_slice(&bytes, GuestAddress(at.wrapping_add(LEN)));
        written.map_err(|_| Malformed)?;
        let ours = if place.0 & WRAP != 0 { AVAIL | USED } else { 0 };
        Ok(ours | if len > 0 { WRITE } else { 0 })
    }

    /// Shows the driver what was handed back.
    pub fn show(&self, place: Place, flags: u16) -> Result<(), Malformed> {
        let at = self.at(place).wrapping_add(FLAGS);
        self.store(at, flags, Ordering::Release)
    }

    /// The driver need not kick.
    pub fn quiet(&self) -> Result<(), Malformed> {
        let at = self.device.wrapping_add(WANTED);
        self.store(at, DISABLE, Ordering::Relaxed)
    }

    /// The driver must kick when it makes what is at `place` available.
    pub fn wait(&self, place: Place) -> Result<(), Malformed> {
        let wanted = if self.event_idx {
            self.store(self.device, place.0, Ordering::Relaxed)?;
            AT_PLACE
        } else {
            ENABLE
        };
        let at = self.device.wrapping_add(WANTED);
        self.store(at, wanted, Ordering::Release)?;
        // The driver sees it, or we see what it added before it looked.
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Whether the driver wants an interrupt when the device has come to `now` by so many descriptors.
    pub fn wants_interrupt(&self, now: Place, slots: u16) -> Result<bool, Malformed> {
        fence(Ordering::SeqCst);
        let wanted = self.load(self.driver.wrapping_add(WANTED), Ordering::Acquire)?;
        if wanted != AT_PLACE || !self.event_idx {
            return Ok(wanted != DISABLE);
        }
        let event = Place(self.load(self.driver, Ordering::Relaxed)?);
        // On the way that both go: what has the other counter lies one round back.
        let behind = if (event.0 ^ now.0) & WRAP != 0 {
            self.size
        } else {
            0
        };
        let (event, new) = (event.index().wrapping_sub(behind), now.index());
        Ok(passed(event, new.wrapping_sub(slots), new))
    }
}

impl Descriptor {
    fn segment(&self) -> (GuestAddress, usize, bool) {
        let writable = self.flags & WRITE != 0;
        (GuestAddress(self.address), self.len as usize, writable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u16 = 4;
    const DRIVER: u64 = 0x100;
    const DEVICE: u64 = 0x200;

    fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap()
    }

    fn layout(mem: &Memory, event_idx: bool) -> Layout<'_> {
        Layout {
            mem,
            size: SIZE,
            descriptors: 0,
            driver: DRIVER,
            device: DEVICE,
            event_idx,
        }
    }

    /// What a driver writes at a place.
    fn add(ring: &Layout<'_>, place: Place, address: u64, len: u32, id: u16, flags: u16) {
        let at = ring.at(place);
        let mut bytes = [0; 14];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..].copy_from_slice(&id.to_le_bytes());
        ring.mem.write_slice(&bytes, GuestAddress(at)).unwrap();
        let own = if place.0 & WRAP != 0 { AVAIL } else { USED };
        ring.show(place, flags | own).unwrap();
    }

    #[test]
    fn places_wrap_both_ways() {
        let last = Place(WRAP | 3);
        assert_eq!(Place::START.plus(3, SIZE), last);
        assert_eq!(last.plus(1, SIZE), Place(0));
        assert_eq!(Place(3).plus(2, SIZE), Place(WRAP | 1));
        assert_eq!(Place::START.plus(SIZE, SIZE), Place(0));
        assert_eq!(Place(0).minus(1, SIZE), last);
        assert_eq!(Place(WRAP | 1).minus(2, SIZE), Place(3));
        assert_eq!(Place(0).minus(SIZE, SIZE), Place::START);
    }

    #[test]
    fn buffers_are_taken_and_handed_back_round_after_round() {
        let mem = memory();
        let ring = layout(&mem, false);
        let mut place = Place::START;
        assert!(ring.take(place).unwrap().is_none());
        for round in 0..10_u16 {
            let second = place.plus(1, SIZE);
            // The driver makes the first of a chain available last.
            add(&ring, second, 0x2000, 20, round, WRITE);
            add(&ring, place, 0x1000, 10, 99, NEXT);
            let chain = ring.take(place).unwrap().unwrap();
            assert_eq!((chain.id, chain.slots), (round, 2));
            assert_eq!(ring.end(place).unwrap(), place.plus(2, SIZE));
            let segments = chain.segments;
            assert_eq!(
                segments,
                [
                    (GuestAddress(0x1000), 10, false),
                    (GuestAddress(0x2000), 20, true)
                ]
            );
            let flags = ring.hand_back(place, round, 7).unwrap();
            // Nothing to see for the driver yet.
            assert!(ring.is_available(place).unwrap());
            ring.show(place, flags).unwrap();
            let d = ring.descriptor(ring.at(place)).unwrap();
            let (avail, used) = (d.flags & AVAIL != 0, d.flags & USED != 0);
            assert!(avail == used && used == (place.0 & WRAP != 0));
            assert_eq!((d.id, d.len), (round, 7));
            place = ring.after(place, 2);
            assert!(ring.take(place).unwrap().is_none());
        }
    }

    #[test]
    fn a_table_is_one_descriptor_of_the_ring() {
        let mem = memory();
        let ring = layout(&mem, false);
        for (i, flags) in [0, WRITE].into_iter().enumerate() {
            let mut bytes = [0; 16];
            bytes[1] = 0x30;
            bytes[8] = 5 + i as u8;
            bytes[14] = flags as u8;
            let at = GuestAddress(0x4000 + 16 * i as u64);
            mem.write_slice(&bytes, at).unwrap();
        }
        add(&ring, Place::START, 0x4000, 32, 3, INDIRECT);
        let chain = ring.take(Place::START).unwrap().unwrap();
        assert_eq!((chain.id, chain.slots), (3, 1));
        let written: Vec<_> = chain.segments(true).collect();
        assert_eq!(written, [(GuestAddress(0x3000), 6)]);
    }

    #[test]
    fn a_chain_without_an_end_is_none() {
        let mem = memory();
        let ring = layout(&mem, false);
        let mut place = Place::START;
        for _ in 0..SIZE {
            add(&ring, place, 0x1000, 1, 0, NEXT);
            place = place.plus(1, SIZE);
        }
        assert!(ring.take(Place::START).is_err());
    }

    #[test]
    fn interrupts_come_as_the_driver_wants_them() {
        let mem = memory();
        let says = |ring: &Layout<'_>, wanted: u16, event: Place| {
            ring.store(DRIVER, event.0, Ordering::Relaxed).unwrap();
            ring.store(DRIVER + WANTED, wanted, Ordering::Relaxed)
                .unwrap();
        };
        let plain = layout(&mem, false);
        says(&plain, ENABLE, Place(0));
        assert!(plain.wants_interrupt(Place(WRAP | 1), 1).unwrap());
        says(&plain, DISABLE, Place(0));
        assert!(!plain.wants_interrupt(Place(WRAP | 1), 1).unwrap());

        let by_place = layout(&mem, true);
        // From 3 in one round to 1 in the next: the descriptors 3 and 0.
        let (now, slots) = (Place(1), 2);
        for (event, wanted) in [
            (Place(WRAP | 2), false),
            (Place(WRAP | 3), true),
            (Place(0), true),
            (Place(1), false),
        ] {
            says(&by_place, AT_PLACE, event);
            assert_eq!(by_place.wants_interrupt(now, slots).unwrap(), wanted);
        }
    }

    #[test]
    fn kicks_are_asked_for_at_a_place() {
        let mem = memory();
        let ring = layout(&mem, true);
        let said = || {
            let at = |at| ring.load(at, Ordering::Relaxed).unwrap();
            (at(DEVICE), at(DEVICE + WANTED))
        };
        ring.wait(Place(WRAP | 3)).unwrap();
        assert_eq!(said(), (WRAP | 3, AT_PLACE));
        ring.quiet().unwrap();
        assert_eq!(said().1, DISABLE);
        layout(&mem, false).wait(Place(0)).unwrap();
        assert_eq!(said().1, ENABLE);
    }
}
