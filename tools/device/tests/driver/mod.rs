// SPDX-License-Identifier: GPL-2.0

//! The device as a program, and the least driver that can talk to it, without a machine around them.

// Each file of tests uses its part of it.
#![allow(dead_code)]

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;
use vhost::{
    vhost_user::{
        message::{VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures},
        Frontend, VhostUserFrontend,
    },
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap,
};
use vmm_sys_util::eventfd::EventFd;

pub const RX: usize = 0;
pub const TX: usize = 1;
pub const DGRAM_RX: usize = 2;
pub const DGRAM_TX: usize = 3;

pub const ALL: u64 = 15;
const VERSION_1: u64 = 1 << 32;

const MEMORY: usize = 64 << 20;
const QUEUE_SIZE: u16 = 64;
/// Each queue has so much memory: its rings, then a slot per descriptor.
const QUEUE_MEMORY: u64 = 8 << 20;
const SLOTS: u64 = 1 << 20;
const SLOT: u64 = 72 << 10;

const PATIENCE: Duration = Duration::from_secs(20);

/// A running device, in a folder of its own.
pub struct Device {
    child: Child,
    pub dir: PathBuf,
}

impl Device {
    pub fn start(options: &str) -> Self {
        Self::with_guests(1, options)
    }

    /// Guests have CIDs from 3 on.
    pub fn with_guests(guests: u32, options: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("rvsock-device-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self::start_in(dir, guests, options)
    }

    fn start_in(dir: PathBuf, guests: u32, options: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rvsock-device"));
        let d = dir.display();
        for cid in 3..3 + guests {
            command.args([
                "--guest",
                &format!("cid={cid},socket={d}/{cid}.vhost,uds={d}/{cid}"),
            ]);
        }
        let child = command
            .args(["--control", &format!("{d}/control")])
            .args(options.split_whitespace())
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let device = Self { child, dir };
        wait_for("the control socket", || {
            UnixStream::connect(device.dir.join("control")).ok()
        });
        device
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A unix datagram socket with this name.
    pub fn dgram(&self, name: &str) -> UnixDatagram {
        let socket = UnixDatagram::bind(self.path(name)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// A connection to the guest's unix socket, as far as the greeting.
    pub fn greet(&self, cid: u32, port: u32) -> UnixStream {
        let mut stream = UnixStream::connect(self.path(&cid.to_string())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(format!("CONNECT {port}\n").as_bytes())
            .unwrap();
        stream
    }

    pub fn command(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.path("control")).unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }

    pub fn counter(&self, cid: u32, name: &str) -> u64 {
        let answer = self.command(&format!("counters guest={cid}"));
        let json: Value = serde_json::from_str(answer.strip_prefix("ok ").unwrap()).unwrap();
        json[cid.to_string()][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// Ends without a chance to tidy up, and begins again.
    pub fn crash(mut self, options: &str) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let dir = std::mem::take(&mut self.dir);
        drop(self);
        Self::start_in(dir, 1, options)
    }

    pub fn alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks it to end; gives its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.dir.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Waits until there is something.
pub fn wait_for<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = f() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(1));
    }
}

struct Queue {
    base: u64,
    avail: u16,
    seen: u16,
    next: u16,
    kick: EventFd,
    _call: EventFd,
}

/// A packet as the driver sees it; the fields that tests look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub src: (u64, u32),
    pub dst: (u64, u32),
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
    pub buffers: u16,
    pub data: Vec<u8>,
}

pub struct Driver {
    frontend: Frontend,
    mem: GuestMemoryMmap<()>,
    queues: Vec<Queue>,
    pub mergeable: bool,
    pub cid: u64,
}

impl Driver {
    pub fn new(device: &Device, cid: u32, queues: usize, features: u64) -> Self {
        let path = device.path(&format!("{cid}.vhost"));
        // SAFETY: The call takes a name and a number, and gives a new descriptor.
        let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: The descriptor is new, and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(MEMORY as u64).unwrap();
        let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file, 0)));
        let mem = GuestMemoryMmap::<()>::from_ranges_with_files([range]).unwrap();

        let mut frontend = Frontend::connect(&path, queues as u64).unwrap();
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let accepted = (features | VERSION_1) & offered;
        assert_eq!(accepted, features | VERSION_1, "offered: {offered:#x}");
        frontend
            .set_features(accepted | protocol & offered)
            .unwrap();
        let mut wanted = frontend.get_protocol_features().unwrap();
        wanted &= VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ;
        frontend.set_protocol_features(wanted).unwrap();
        assert_eq!(frontend.get_queue_num().unwrap(), queues as u64);
        let regions: Vec<_> = mem
            .iter()
            .map(|r: &GuestRegionMmap<()>| VhostUserMemoryRegionInfo::from_guest_region(r).unwrap())
            .collect();
        frontend.set_mem_table(&regions).unwrap();
        let mut driver = Self {
            frontend,
            queues: Vec::new(),
            mem,
            mergeable: queues == 5 && features & 8 != 0,
            cid: 0,
        };
        driver.cid = driver.configured_cid();
        driver.start(queues);
        driver
    }

    /// The CID in the configuration space.
    pub fn configured_cid(&mut self) -> u64 {
        let flags = VhostUserConfigFlags::empty();
        let (_, config) = self.frontend.get_config(0, 8, flags, &[0; 8]).unwrap();
        u64::from_le_bytes(config.try_into().unwrap())
    }

    /// The next used buffer's length, whatever it is.
    pub fn raw(&mut self, queue: usize) -> Option<u32> {
        self.used(queue).map(|(_, len)| len)
    }

    /// What is in the next used buffer, for as many bytes as its length says.
    pub fn raw_bytes(&mut self, queue: usize) -> Option<Vec<u8>> {
        let (index, len) = self.used(queue)?;
        Some(self.take(queue, index, len))
    }

    /// Puts bytes where the next buffer that is posted lies.
    pub fn leave_bytes(&self, queue: usize, bytes: &[u8]) {
        let index = self.queues[queue].next % QUEUE_SIZE;
        let at = GuestAddress(self.slot(queue, index));
        self.mem.write_slice(bytes, at).unwrap();
    }

    fn host_address(&self, at: u64) -> u64 {
        self.mem.get_host_address(GuestAddress(at)).unwrap() as u64
    }

    /// Sets the queues up as after a reset.
    pub fn start(&mut self, queues: usize) {
        self.queues.clear();
        for i in 0..queues {
            let base = i as u64 * QUEUE_MEMORY;
            self.mem
                .write_slice(&[0; 0x8000], GuestAddress(base))
                .unwrap();
            let (kick, call) = (
                EventFd::new(libc::EFD_NONBLOCK).unwrap(),
                EventFd::new(libc::EFD_NONBLOCK).unwrap(),
            );
            let config = VringConfigData {
                queue_max_size: QUEUE_SIZE,
                queue_size: QUEUE_SIZE,
                flags: 0,
                desc_table_addr: self.host_address(base),
                avail_ring_addr: self.host_address(base + 0x2000),
                used_ring_addr: self.host_address(base + 0x4000),
                log_addr: None,
            };
            let f = &mut self.frontend;
            f.set_vring_num(i, QUEUE_SIZE).unwrap();
            f.set_vring_addr(i, &config).unwrap();
            f.set_vring_base(i, 0).unwrap();
            f.set_vring_call(i, &call).unwrap();
            f.set_vring_kick(i, &kick).unwrap();
            f.set_vring_enable(i, true).unwrap();
            self.queues.push(Queue {
                base,
                avail: 0,
                seen: 0,
                next: 0,
                kick,
                _call: call,
            });
        }
        // What it answers comes behind all that it was told: the queues are up.
        self.configured_cid();
    }

    /// Stops the queues, as a driver's reset does.
    pub fn stop(&mut self) {
        for i in 0..self.queues.len() {
            self.frontend.get_vring_base(i).unwrap();
        }
    }

    fn slot(&self, queue: usize, index: u16) -> u64 {
        self.queues[queue].base + SLOTS + u64::from(index) * SLOT
    }

    fn descriptor(&self, queue: usize, index: u16, at: u64, len: usize, flags: u16, next: u16) {
        let mut d = [0; 16];
        d[..8].copy_from_slice(&at.to_le_bytes());
        d[8..12].copy_from_slice(&(len as u32).to_le_bytes());
        d[12..14].copy_from_slice(&flags.to_le_bytes());
        d[14..].copy_from_slice(&next.to_le_bytes());
        let at = self.queues[queue].base + 16 * u64::from(index);
        self.mem.write_slice(&d, GuestAddress(at)).unwrap();
    }

    /// Makes a chain available.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let q = &mut self.queues[queue];
        let ring = q.base + 0x2000;
        let entry = ring + 4 + 2 * u64::from(q.avail % QUEUE_SIZE);
        self.mem.write_obj(head, GuestAddress(entry)).unwrap();
        q.avail = q.avail.wrapping_add(1);
        self.mem
            .store(q.avail, GuestAddress(ring + 2), Ordering::Release)
            .unwrap();
        q.kick.write(1).unwrap();
    }

    fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let q = &mut self.queues[queue];
        let ring = q.base + 0x4000;
        let index: u16 = self
            .mem
            .load(GuestAddress(ring + 2), Ordering::Acquire)
            .unwrap();
        if index == q.seen {
            return None;
        }
        let entry = ring + 4 + 8 * u64::from(q.seen % QUEUE_SIZE);
        let id: u32 = self.mem.read_obj(GuestAddress(entry)).unwrap();
        let len: u32 = self.mem.read_obj(GuestAddress(entry + 4)).unwrap();
        q.seen = q.seen.wrapping_add(1);
        Some((id as u16, len))
    }

    /// Buffers that the device has used and nobody has looked at.
    pub fn pending(&self, queue: usize) -> u16 {
        let q = &self.queues[queue];
        let at = GuestAddress(q.base + 0x4002);
        let index: u16 = self.mem.load(at, Ordering::Acquire).unwrap();
        index.wrapping_sub(q.seen)
    }

    /// Posts receive buffers of this size.
    pub fn post(&mut self, queue: usize, count: u16, size: usize) {
        for _ in 0..count {
            let index = self.queues[queue].next % QUEUE_SIZE;
            self.queues[queue].next += 1;
            let at = self.slot(queue, index);
            self.descriptor(queue, index, at, size, 2, 0);
            self.offer(queue, index);
        }
    }

    /// The next packet on a receive queue; its buffers are posted again, with `size` bytes each.
    pub fn receive(&mut self, queue: usize, size: usize) -> Packet {
        let (first, len) = wait_for("a packet", || self.used(queue));
        let mut bytes = self.take(queue, first, len);
        let mut header = bytes.split_off(if self.mergeable { 46 } else { 44 });
        std::mem::swap(&mut header, &mut bytes);
        let buffers = if self.mergeable {
            u16::from_le_bytes(header[44..].try_into().unwrap())
        } else {
            1
        };
        for i in 1..buffers {
            // They are visible together.
            let (index, len) = self
                .used(queue)
                .unwrap_or_else(|| panic!("buffer {i} of {buffers}"));
            let more = self.take(queue, index, len);
            bytes.extend(more);
        }
        self.post(queue, buffers, size);
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        assert_eq!(u32_at(24) as usize, bytes.len(), "len");
        Packet {
            src: (u64_at(0), u32_at(16)),
            dst: (u64_at(8), u32_at(20)),
            kind: u32_at(28) as u16,
            op: (u32_at(28) >> 16) as u16,
            flags: u32_at(32),
            buf_alloc: u32_at(36),
            fwd_cnt: u32_at(40),
            buffers,
            data: bytes,
        }
    }

    fn take(&self, queue: usize, index: u16, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        let at = GuestAddress(self.slot(queue, index));
        self.mem.read_slice(&mut bytes, at).unwrap();
        bytes
    }

    /// Sends bytes as a chain of descriptors, and waits until the device has them.
    pub fn send_pieces(&mut self, queue: usize, pieces: &[&[u8]]) {
        self.post_pieces(queue, pieces);
        wait_for("the device to take a packet", || self.used(queue));
    }

    pub fn post_pieces(&mut self, queue: usize, pieces: &[&[u8]]) {
        let first = self.queues[queue].next % QUEUE_SIZE;
        for (i, piece) in pieces.iter().enumerate() {
            let index = (first + i as u16) % QUEUE_SIZE;
            let last = i + 1 == pieces.len();
            let at = self.slot(queue, index);
            self.mem.write_slice(piece, GuestAddress(at)).unwrap();
            let next = (index + 1) % QUEUE_SIZE;
            self.descriptor(queue, index, at, piece.len(), u16::from(!last), next);
        }
        self.queues[queue].next = self.queues[queue].next.wrapping_add(pieces.len() as u16);
        self.offer(queue, first);
    }

    pub fn send(&mut self, queue: usize, packet: &Packet) {
        let header = self.header(packet);
        self.send_pieces(queue, &[&header, &packet.data]);
    }

    pub fn header(&self, p: &Packet) -> Vec<u8> {
        let mut b = Vec::new();
        b.extend(p.src.0.to_le_bytes());
        b.extend(p.dst.0.to_le_bytes());
        b.extend(p.src.1.to_le_bytes());
        b.extend(p.dst.1.to_le_bytes());
        b.extend((p.data.len() as u32).to_le_bytes());
        b.extend(p.kind.to_le_bytes());
        b.extend(p.op.to_le_bytes());
        b.extend(p.flags.to_le_bytes());
        b.extend(p.buf_alloc.to_le_bytes());
        b.extend(p.fwd_cnt.to_le_bytes());
        if self.mergeable {
            b.extend([0, 0]);
        }
        b
    }

    /// A packet from a port of ours to one of the host's.
    pub fn packet(&self, kind: u16, op: u16, from: u32, to: u32, data: &[u8]) -> Packet {
        Packet {
            src: (self.cid, from),
            dst: (2, to),
            kind,
            op,
            flags: 0,
            buf_alloc: 256 << 10,
            fwd_cnt: 0,
            buffers: 0,
            data: data.to_vec(),
        }
    }
}

/// The socket's file is there.
pub fn there(path: &Path) -> bool {
    path.exists()
}

/// The frontend's descriptor, to see whether the device has hung up.
pub fn descriptor_of(driver: &Driver) -> i32 {
    driver.frontend.as_raw_fd()
}
