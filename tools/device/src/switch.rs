// SPDX-License-Identifier: GPL-2.0

//! What the guests share: who has which CID, and a box for each into which the others put packets.
//!
//! Each guest is worked on by a thread of its own, which alone touches its queues and connections. All that crosses
//! from one to another goes through [`Shared`]; its locks are leaves, held for no call.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Sender,
        Arc, Mutex, MutexGuard, PoisonError,
    },
};

use vmm_sys_util::eventfd::EventFd;

use crate::{
    command::Command,
    counters::Counters,
    packet::{kind, Packet},
};

/// What waits for one guest from the others, at most. The first packet is always taken, whatever its size.
const BOX_PACKETS: usize = 1024;
const BOX_BYTES: usize = 1 << 20;

/// Locks, also after a panic elsewhere: what is under these locks is whole at any time.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Packets from other guests, up to a bound.
#[derive(Default)]
struct Inbox {
    packets: VecDeque<Packet>,
    bytes: usize,
}

impl Inbox {
    fn put(&mut self, packet: Packet) -> Result<(), ()> {
        if self.packets.len() >= BOX_PACKETS
            || (self.bytes > 0 && self.bytes + packet.data.len() > BOX_BYTES)
        {
            return Err(());
        }
        self.bytes += packet.data.len();
        self.packets.push_back(packet);
        Ok(())
    }

    fn take(&mut self) -> Option<Packet> {
        let packet = self.packets.pop_front()?;
        self.bytes = self.bytes.saturating_sub(packet.data.len());
        Some(packet)
    }

    fn has_room(&self) -> bool {
        self.packets.len() <= BOX_PACKETS / 2 && self.bytes <= BOX_BYTES / 2
    }
}

#[derive(Default)]
struct Boxes {
    stream: Inbox,
    dgram: Inbox,
    /// Guests that wait until `stream` has room.
    waiting: Vec<Arc<Shared>>,
}

/// The part of a guest that others see.
pub struct Shared {
    /// The socket's name, for messages.
    pub name: String,
    cid: AtomicU64,
    /// What the driver has accepted.
    features: AtomicU64,
    /// A driver is there, and its queues work.
    running: AtomicBool,
    /// How often the driver has read the configuration.
    config_reads: AtomicU64,
    pub counters: Counters,
    wake: EventFd,
    boxes: Mutex<Boxes>,
    /// Somebody speaks vhost-user to us for this guest.
    connected: AtomicBool,
    commands: Mutex<VecDeque<Asked>>,
}

/// A command, and where its outcome goes.
pub type Asked = (Command, Sender<Result<(), String>>);

/// What became of a packet for another guest.
pub enum Delivery {
    Done,
    /// The sender is woken when there is room.
    Full,
    Nobody(Packet),
}

impl Shared {
    pub fn new(name: String, cid: u64) -> io::Result<Self> {
        Ok(Self {
            name,
            cid: cid.into(),
            features: 0.into(),
            running: false.into(),
            config_reads: 0.into(),
            counters: Counters::default(),
            wake: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            boxes: Mutex::default(),
            connected: false.into(),
            commands: Mutex::default(),
        })
    }

    pub fn cid(&self) -> u64 {
        self.cid.load(Ordering::Relaxed)
    }

    pub fn features(&self) -> u64 {
        self.features.load(Ordering::Relaxed)
    }

    pub fn set_features(&self, features: u64) {
        self.features.store(features, Ordering::Relaxed);
    }

    pub fn running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Whether a driver is there. Without one nothing is kept for it, and nobody waits for it.
    pub fn set_running(&self, running: bool) {
        let mut boxes = lock(&self.boxes);
        self.running.store(running, Ordering::Relaxed);
        (boxes.stream, boxes.dgram) = Default::default();
        for waiting in boxes.waiting.drain(..) {
            waiting.wake();
        }
    }

    pub fn config_reads(&self) -> u64 {
        self.config_reads.load(Ordering::Acquire)
    }

    /// The driver reads the configuration, for which somebody may wait.
    pub fn count_config_read(&self) {
        self.config_reads.fetch_add(1, Ordering::AcqRel);
        self.wake();
    }

    pub fn wake_fd(&self) -> &EventFd {
        &self.wake
    }

    pub fn wake(&self) {
        // At worst it is awake already.
        let _ = self.wake.write(1);
    }

    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Commands that nobody has obeyed are forgotten with the connection.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
        lock(&self.commands).clear();
    }

    pub fn command(&self, command: Command, answer: Sender<Result<(), String>>) {
        lock(&self.commands).push_back((command, answer));
        self.wake();
    }

    pub fn next_command(&self) -> Option<Asked> {
        lock(&self.commands).pop_front()
    }

    /// The next packet from another guest, for rx or for datagram rx.
    pub fn take(&self, dgram: bool) -> Option<Packet> {
        let mut boxes = lock(&self.boxes);
        if dgram {
            return boxes.dgram.take();
        }
        let packet = boxes.stream.take();
        if !boxes.waiting.is_empty() && boxes.stream.has_room() {
            for waiting in boxes.waiting.drain(..) {
                waiting.wake();
            }
        }
        packet
    }

    pub fn has_packets(&self, dgram: bool) -> bool {
        let boxes = lock(&self.boxes);
        let inbox = if dgram { &boxes.dgram } else { &boxes.stream };
        !inbox.packets.is_empty()
    }

    /// A packet from `from`.
    fn deliver(&self, packet: Packet, from: &Arc<Shared>) -> Delivery {
        let mut boxes = lock(&self.boxes);
        if !self.running() {
            return Delivery::Nobody(packet);
        }
        let outcome = if packet.header.kind == kind::DGRAM {
            boxes.dgram.put(packet).map_err(|()| false)
        } else {
            boxes.stream.put(packet).map_err(|()| true)
        };
        match outcome {
            Ok(()) => {
                drop(boxes);
                self.wake();
                Delivery::Done
            }
            Err(waits) => {
                if waits && !boxes.waiting.iter().any(|w| Arc::ptr_eq(w, from)) {
                    boxes.waiting.push(from.clone());
                }
                Delivery::Full
            }
        }
    }
}

/// Who has which CID.
#[derive(Default)]
pub struct Switch {
    guests: Mutex<HashMap<u64, Arc<Shared>>>,
}

impl Switch {
    pub fn add(&self, guest: Arc<Shared>) {
        lock(&self.guests).insert(guest.cid(), guest);
    }

    pub fn guests(&self) -> Vec<Arc<Shared>> {
        let mut all: Vec<_> = lock(&self.guests).values().cloned().collect();
        all.sort_by_key(|g| g.cid());
        all
    }

    pub fn find(&self, cid: u64) -> Option<Arc<Shared>> {
        lock(&self.guests).get(&cid).cloned()
    }

    /// Gives a guest another CID, unless another guest has that.
    pub fn renumber(&self, guest: &Arc<Shared>, cid: u64) -> Result<(), String> {
        let mut guests = lock(&self.guests);
        if guests.get(&cid).is_some_and(|g| !Arc::ptr_eq(g, guest)) {
            return Err(format!("CID {cid} is another guest's"));
        }
        guests.remove(&guest.cid());
        guest.cid.store(cid, Ordering::Relaxed);
        guests.insert(cid, guest.clone());
        Ok(())
    }

    pub fn deliver(&self, packet: Packet, from: &Arc<Shared>) -> Delivery {
        match self.find(packet.header.dst_cid) {
            Some(to) if !Arc::ptr_eq(&to, from) => to.deliver(packet, from),
            _ => Delivery::Nobody(packet),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(to: u64, kind: u16, len: usize) -> Packet {
        let mut packet = Packet::default();
        packet.header.dst_cid = to;
        packet.header.kind = kind;
        packet.data = vec![0; len];
        packet
    }

    fn two() -> (Switch, Arc<Shared>, Arc<Shared>) {
        let switch = Switch::default();
        let [a, b] = [3, 4].map(|cid| Arc::new(Shared::new(cid.to_string(), cid).unwrap()));
        switch.add(a.clone());
        switch.add(b.clone());
        (switch, a, b)
    }

    #[test]
    fn a_full_box_makes_streams_wait() {
        let (switch, a, b) = two();
        let send = |kind| switch.deliver(packet(4, kind, 400 << 10), &a);
        assert!(matches!(send(kind::STREAM), Delivery::Nobody(_)));
        b.set_running(true);
        for kind in [kind::STREAM, kind::DGRAM] {
            assert!(matches!(send(kind), Delivery::Done));
            assert!(matches!(send(kind), Delivery::Done));
            assert!(matches!(send(kind), Delivery::Full));
        }
        assert!(a.wake_fd().read().is_err());
        assert!(b.take(false).is_some());
        assert!(a.wake_fd().read().is_ok());
        assert!(matches!(send(kind::STREAM), Delivery::Done));
    }

    #[test]
    fn a_guest_is_found_by_its_new_number() {
        let (switch, a, b) = two();
        assert!(switch.renumber(&a, 4).is_err());
        assert!(switch.renumber(&a, 5).is_ok());
        assert!(switch.find(3).is_none());
        assert!(switch.find(5).is_some_and(|g| Arc::ptr_eq(&g, &a)));
        assert!(matches!(
            switch.deliver(packet(5, kind::STREAM, 0), &a),
            Delivery::Nobody(_)
        ));
        drop(b);
    }
}
