// SPDX-License-Identifier: GPL-2.0

//! Credit: how much each side of a connection may send.
//!
//! Source: virtio 1.3, "Socket Device", "Buffer Space Management". All counts are bytes of payload;
//! the counters are free-running `u32`s, as on the wire, so that only differences have a meaning.
//!
//! Nothing here trusts the peer: any values in any order leave the invariants as they are.

use crate::wire::Header;

/// Updates are sent when the peer has less than this left to send: two packets of the greatest size.
///
/// With a buffer under 128 KiB it is half of the buffer.
const UPDATE_BELOW: u32 = 64 * 1024;

/// What the peer lets us send (K1, K2, K5).
///
/// # Invariants
///
/// `tx_cnt - peer_fwd_cnt` (wrapping) is the number of bytes that the peer has not yet reported as
/// read: at most what was taken and not given back, and never "negative".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxCredit {
    /// Bytes taken for sending.
    tx_cnt: u32,
    /// Bytes that the peer's reader has taken, as the peer reported.
    peer_fwd_cnt: u32,
    /// The size of the peer's buffer, as the peer reported.
    peer_buf_alloc: u32,
    /// The size of our own buffer.
    own_limit: u32,
    /// What became of the question for credit.
    asked: Asked,
    /// The peer does not answer that question: see [`TxCredit::look`].
    deaf: bool,
}

/// What became of a CREDIT_REQUEST since the peer last reported progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// There was none.
    No,
    /// It was sent, and nothing has come since; [`TxCredit::look`] was called so many times.
    Waiting(u8),
    /// The peer has said that there is no progress.
    Answered,
}

impl TxCredit {
    /// Nothing sent, and nothing known of the peer: until it reports its buffer, nothing may be sent.
    pub const fn new(own_limit: u32) -> Self {
        Self::starting_at(own_limit, 0)
    }

    /// Like [`TxCredit::new`], with counters that stand at `count` already: for tests of the wrap.
    pub const fn starting_at(own_limit: u32, count: u32) -> Self {
        // INVARIANT: the difference is zero, and nothing was taken.
        Self {
            tx_cnt: count,
            peer_fwd_cnt: count,
            peer_buf_alloc: 0,
            own_limit,
            asked: Asked::No,
            deaf: false,
        }
    }

    /// Forgets the peer, for a new connection of the same socket (C8). Our own limit stays.
    pub fn reset(&mut self) {
        *self = Self::new(self.own_limit);
    }

    /// Bytes sent, or about to be, that the peer has not reported as read.
    pub const fn in_flight(&self) -> u32 {
        self.tx_cnt.wrapping_sub(self.peer_fwd_cnt)
    }

    /// The greatest number of bytes that may ever be in flight, as things stand: the peer's buffer,
    /// but not more than our own (K1, K5), unless the peer is deaf. A message that is longer can never
    /// be sent (S4).
    pub const fn window(&self) -> u32 {
        if self.deaf || self.peer_buf_alloc < self.own_limit {
            self.peer_buf_alloc
        } else {
            self.own_limit
        }
    }

    /// How many bytes may be sent now (K1). Zero when the peer's buffer shrank below what is in
    /// flight.
    pub const fn free(&self) -> u32 {
        self.window().saturating_sub(self.in_flight())
    }

    /// Takes note of the credit fields of a packet from the peer.
    ///
    /// A count that goes back (packets of different senders in the peer may overtake each other), or
    /// one that is ahead of what was sent (a lie), is ignored; the buffer's size always counts.
    pub fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        if matches!(self.asked, Asked::Waiting(_)) {
            self.asked = Asked::Answered;
        }
        self.peer_buf_alloc = buf_alloc;
        let progress = fwd_cnt.wrapping_sub(self.peer_fwd_cnt);
        if progress <= self.in_flight() {
            // INVARIANT: what is in flight shrinks by `progress`, which it is not less than.
            self.peer_fwd_cnt = fwd_cnt;
            if progress > 0 {
                self.asked = Asked::No;
            }
        }
    }

    /// Takes credit for up to `want` bytes; the result, not more than [`TxCredit::free`], may be sent
    /// and counts as in flight (K2).
    #[must_use]
    pub fn take(&mut self, want: u32) -> u32 {
        let granted = want.min(self.free());
        // INVARIANT: `granted` more bytes are in flight, at most `window` in all, so nothing wraps.
        self.tx_cnt = self.tx_cnt.wrapping_add(granted);
        granted
    }

    /// Gives back credit for `unsent` bytes that were taken and will not be sent.
    pub fn give_back(&mut self, unsent: u32) {
        // INVARIANT: a peer that has reported bytes before they were sent leaves less in flight than
        // was taken; no more than that is given back.
        let unsent = unsent.min(self.in_flight());
        self.tx_cnt = self.tx_cnt.wrapping_sub(unsent);
    }

    /// Sets the size of our own buffer, in bytes, which bounds what we send too (K1).
    pub fn set_own_limit(&mut self, own_limit: u32) {
        self.own_limit = own_limit;
    }

    /// To be asked whenever a writer finds no room, whether or not it sleeps; true: send a
    /// CREDIT_REQUEST, and call [`TxCredit::look`] every second until nobody waits (K6).
    ///
    /// A peer sends updates by the size of its own buffer, and does not know that ours, being
    /// smaller, stops us earlier. It is asked once until it has reported progress.
    #[must_use]
    pub fn ask(&mut self) -> bool {
        let ask = self.is_stuck() && self.asked == Asked::No;
        if ask {
            self.asked = Asked::Waiting(0);
        }
        ask
    }

    /// The CREDIT_REQUEST of [`TxCredit::ask`] could not be sent.
    pub fn could_not_ask(&mut self) {
        self.asked = Asked::No;
    }

    /// To be called every second while [`TxCredit::is_stuck`]; true: send a CREDIT_REQUEST again.
    ///
    /// A peer that has answered had nothing to report then, and may report nothing by itself now that it
    /// has. One that leaves two requests unanswered knows none: from then on its own buffer alone is the
    /// window, by which it does report. Memory is bounded by what the device has not yet taken (K5).
    #[must_use]
    pub fn look(&mut self) -> bool {
        if !self.is_stuck() {
            return false;
        }
        match self.asked {
            Asked::Waiting(1..) => {
                self.deaf = true;
                false
            }
            Asked::Waiting(0) => {
                self.asked = Asked::Waiting(1);
                true
            }
            Asked::No | Asked::Answered => {
                self.asked = Asked::Waiting(0);
                true
            }
        }
    }

    /// Whether our own buffer stops us, of which the peer does not know.
    pub fn is_stuck(&self) -> bool {
        self.free() == 0 && self.in_flight() > 0 && self.window() < self.peer_buf_alloc
    }
}

/// What a packet says of our buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// The size of our buffer in bytes.
    pub buf_alloc: u32,
    /// How many bytes our reader has taken, free-running.
    pub fwd_cnt: u32,
}

/// The peer sent more than it was ever told it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// How many bytes it could have sent.
    pub allowed: u32,
    /// How many it sent.
    pub sent: u32,
}

/// What we let the peer send (K3, K4).
///
/// # Invariants
///
/// - `received - fwd_cnt` (wrapping) is the number of bytes received and not consumed.
/// - `received - advertised_fwd_cnt` (wrapping) is the number of bytes received and not reported as
///   consumed; it is not less than the above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxCredit {
    /// The size of our buffer.
    buf_alloc: u32,
    /// Bytes that the reader has taken.
    fwd_cnt: u32,
    /// Bytes received.
    received: u32,
    /// What the peer was last told of `buf_alloc`.
    advertised_buf_alloc: u32,
    /// What the peer was last told of `fwd_cnt`.
    advertised_fwd_cnt: u32,
    /// What the peer may send by the most generous of all that it was told.
    allowed: u32,
    /// The peer's own buffer, which bounds what it sends if it follows K1; zero if it is unknown.
    peer_limit: u32,
}

impl RxCredit {
    /// Nothing received, and nothing told: until then the peer may send nothing.
    pub const fn new(buf_alloc: u32) -> Self {
        Self::starting_at(buf_alloc, 0)
    }

    /// Like [`RxCredit::new`], with counters that stand at `count` already: for tests of the wrap.
    pub const fn starting_at(buf_alloc: u32, count: u32) -> Self {
        // INVARIANT: nothing is received, so both differences are zero.
        Self {
            buf_alloc,
            fwd_cnt: count,
            received: count,
            advertised_buf_alloc: 0,
            advertised_fwd_cnt: count,
            allowed: 0,
            peer_limit: 0,
        }
    }

    /// Forgets the peer, for a new connection of the same socket (C8). The buffer's size stays.
    pub fn reset(&mut self) {
        *self = Self::new(self.buf_alloc);
    }

    /// The size of our buffer in bytes.
    pub const fn buf_alloc(&self) -> u32 {
        self.buf_alloc
    }

    /// Bytes that were received and not consumed.
    pub const fn unread(&self) -> u32 {
        self.received.wrapping_sub(self.fwd_cnt)
    }

    /// Counts a packet's payload as received and unread.
    ///
    /// # Errors
    ///
    /// [`Overrun`], with nothing counted, if the peer exceeds what it could know of: after the buffer
    /// shrank, a peer that uses what it was promised before is not at fault.
    pub fn receive(&mut self, len: u32) -> Result<(), Overrun> {
        let Some(allowed) = self.allowed.checked_sub(len) else {
            return Err(Overrun {
                allowed: self.allowed,
                sent: len,
            });
        };
        self.allowed = allowed;
        // INVARIANT: both differences grow by `len`. They do not wrap: `allowed` and what is not
        // reported as consumed add up to the size of a buffer at most (see `advertise`).
        self.received = self.received.wrapping_add(len);
        Ok(())
    }

    /// Counts `len` unread bytes as taken by the reader, or as dropped on its behalf.
    pub fn consume(&mut self, len: u32) {
        // INVARIANT: no more than is unread.
        let len = len.min(self.unread());
        self.fwd_cnt = self.fwd_cnt.wrapping_add(len);
    }

    /// What to say in a header that is being filled.
    ///
    /// The peer counts as told: call it only for a packet that goes out (unless the connection ends),
    /// and let packets go out in the order in which this was called for them.
    #[must_use]
    pub fn advertise(&mut self) -> Advertised {
        // INVARIANT: `fwd_cnt` is not ahead of `received`, nor behind what was told before.
        self.advertised_buf_alloc = self.buf_alloc;
        self.advertised_fwd_cnt = self.fwd_cnt;
        // `allowed + unread` is at most the greatest buffer that was promised.
        self.allowed = self
            .allowed
            .max(self.buf_alloc.saturating_sub(self.unread()));
        Advertised {
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    /// Takes note of the size of the peer's own buffer, in bytes, from any of its packets.
    ///
    /// A peer that follows K1 has no more in flight than that, so it stalls earlier than by our
    /// buffer alone, and updates must go out earlier (K4). True if it changed, so that one may be due.
    pub fn set_peer_limit(&mut self, peer_buf_alloc: u32) -> bool {
        let changed = self.peer_limit != peer_buf_alloc;
        self.peer_limit = peer_buf_alloc;
        changed
    }

    /// How much the peer can still send by what it was last told.
    pub fn peer_free(&self) -> u32 {
        let unreported = self.received.wrapping_sub(self.advertised_fwd_cnt);
        self.peer_window(self.advertised_buf_alloc)
            .saturating_sub(unreported)
    }

    /// Whether a CREDIT_UPDATE is to be sent (K4, K6).
    ///
    /// To be asked after reading, before a reader sleeps that waits for `target` bytes in all
    /// (SO_RCVLOWAT, or 1; 0 if nobody waits), and when [`RxCredit::set_peer_limit`] says so. After
    /// [`RxCredit::set_buf_alloc`] one is sent in any case.
    ///
    /// It is when the peer is about to stall and the update is worth a packet; or, however little
    /// there is to report, when the waiting reader cannot get what it waits for without it. A reader
    /// that takes everything out of an idle connection byte by byte thus sends one update per
    /// threshold, not one per read.
    pub fn update_due(&self, target: u32) -> bool {
        let peer_free = self.peer_free();
        let window = self.peer_window(self.buf_alloc);
        let gain = window
            .saturating_sub(self.unread())
            .saturating_sub(peer_free);
        // At least 1, so that the smallest buffer gets its update too.
        let threshold = UPDATE_BELOW.min(window / 2).max(1);
        let missing = self.reachable(target).saturating_sub(self.unread());
        gain > 0 && (peer_free < missing || (peer_free < threshold && gain >= threshold))
    }

    /// As much of `target` bytes as can ever be unread at once: a reader that waits for more is to be
    /// satisfied with that, or it waits for ever (K6).
    pub fn reachable(&self, target: u32) -> u32 {
        target.min(self.peer_window(self.buf_alloc))
    }

    /// Sets the size of our buffer, in bytes; true if it changed, so that the peer should be told.
    ///
    /// What the peer was promised before stays promised.
    pub fn set_buf_alloc(&mut self, buf_alloc: u32) -> bool {
        let changed = self.buf_alloc != buf_alloc;
        self.buf_alloc = buf_alloc;
        changed
    }

    /// What the peer will have in flight at most, with a buffer of ours of `buf_alloc`.
    fn peer_window(&self, buf_alloc: u32) -> u32 {
        match self.peer_limit {
            0 => buf_alloc,
            limit => buf_alloc.min(limit),
        }
    }
}

/// Both directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// What the peer lets us send.
    pub tx: TxCredit,
    /// What we let the peer send.
    pub rx: RxCredit,
}

impl Credit {
    /// A connection of which nothing is known yet, with a buffer of `buf_alloc` bytes of our own.
    pub const fn new(buf_alloc: u32) -> Self {
        Self {
            tx: TxCredit::new(buf_alloc),
            rx: RxCredit::new(buf_alloc),
        }
    }

    /// Forgets the peer, for a new connection of the same socket (C8).
    pub fn reset(&mut self) {
        self.tx.reset();
        self.rx.reset();
    }

    /// Whether nothing was sent, and nothing that came was read.
    pub const fn is_unused(&self) -> bool {
        self.tx.tx_cnt == 0 && self.rx.fwd_cnt == 0
    }

    /// Takes note of the credit fields of any packet from the peer; true if [`RxCredit::update_due`] is
    /// to be asked.
    pub fn update(&mut self, header: &Header) -> bool {
        self.tx.update(header.buf_alloc, header.fwd_cnt);
        self.rx.set_peer_limit(header.buf_alloc)
    }

    /// Sets the size of our own buffer, in bytes (SO_VM_SOCKETS_BUFFER_SIZE), which bounds both
    /// directions (K1); true if it changed, so that the peer should be told.
    pub fn set_buf_alloc(&mut self, buf_alloc: u32) -> bool {
        self.tx.set_own_limit(buf_alloc);
        self.rx.set_buf_alloc(buf_alloc)
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_credit))]
mod tests {
    use super::*;

    const KIB: u32 = 1024;

    /// A sender that knows of a buffer of `peer` bytes, its counters about to wrap.
    fn sender(own: u32, peer: u32) -> TxCredit {
        let start = u32::MAX - 10;
        let mut tx = TxCredit::starting_at(own, start);
        tx.update(peer, start);
        tx
    }

    /// A receiver that has told its buffer of `size` bytes, its counters about to wrap.
    fn receiver(size: u32) -> RxCredit {
        let mut rx = RxCredit::starting_at(size, u32::MAX - 10);
        let _ = rx.advertise();
        rx
    }

    #[test]
    fn k2_nothing_is_sent_before_the_peer_has_told_its_buffer() {
        let mut tx = TxCredit::new(256 * KIB);
        assert_eq!(tx.free(), 0);
        assert_eq!(tx.take(1), 0);
        tx.update(100, 0);
        assert_eq!(tx.free(), 100);
    }

    #[test]
    fn k1_free_is_the_window_less_what_is_in_flight() {
        let mut tx = sender(1000, 100);
        assert_eq!(tx.window(), 100);
        assert_eq!(tx.take(99), 99);
        assert_eq!(tx.free(), 1);
        assert_eq!(tx.take(2), 1);
        assert_eq!(tx.take(1), 0);
        assert_eq!(tx.in_flight(), 100);
    }

    #[test]
    fn k1_counters_wrap() {
        let mut tx = sender(1000, 100);
        let start = u32::MAX - 10;
        assert_eq!(tx.take(100), 100);
        tx.update(100, start.wrapping_add(60));
        assert_eq!(tx.in_flight(), 40);
        assert_eq!(tx.free(), 60);
    }

    #[test]
    fn k1_peer_shrinks_buffer_no_underflow() {
        let mut tx = sender(1000, 100);
        assert_eq!(tx.take(60), 60);
        // Just what is in flight, one less, and nothing at all.
        tx.update(60, u32::MAX - 10);
        assert_eq!(tx.free(), 0);
        tx.update(59, u32::MAX - 10);
        assert_eq!(tx.free(), 0);
        tx.update(0, u32::MAX - 10);
        assert_eq!(tx.free(), 0);
        assert_eq!(tx.take(u32::MAX), 0);
        tx.update(61, u32::MAX - 10);
        assert_eq!(tx.free(), 1);
    }

    #[test]
    fn k5_the_own_buffer_bounds_what_is_sent() {
        let mut tx = sender(1000, u32::MAX);
        assert_eq!(tx.window(), 1000);
        assert_eq!(tx.take(u32::MAX), 1000);
        tx.set_own_limit(999);
        assert_eq!(tx.free(), 0);
        tx.set_own_limit(1001);
        assert_eq!(tx.free(), 1);
    }

    #[test]
    fn s4_window_tells_what_can_never_be_sent() {
        assert_eq!(sender(1000, 999).window(), 999);
        assert_eq!(sender(1000, 1000).window(), 1000);
        assert_eq!(sender(1000, 1001).window(), 1000);
    }

    #[test]
    fn k1_fwd_cnt_ahead_of_what_was_sent_is_ignored() {
        let start = u32::MAX - 10;
        let mut tx = sender(1000, 100);
        assert_eq!(tx.take(50), 50);
        tx.update(100, start.wrapping_add(51));
        assert_eq!(tx.free(), 50);
        tx.update(100, start.wrapping_add(50));
        assert_eq!(tx.free(), 100);
        tx.update(100, start.wrapping_sub(1));
        assert_eq!(tx.free(), 100);
    }

    #[test]
    fn k1_fwd_cnt_that_goes_back_is_ignored() {
        let start = u32::MAX - 10;
        let mut tx = sender(1000, 100);
        assert_eq!(tx.take(50), 50);
        tx.update(100, start.wrapping_add(30));
        // Overtaken by the one above; its buffer's size counts all the same.
        tx.update(101, start.wrapping_add(20));
        assert_eq!(tx.in_flight(), 20);
        assert_eq!(tx.free(), 81);
    }

    #[test]
    fn k2_what_is_not_sent_is_given_back() {
        let mut tx = sender(1000, 100);
        assert_eq!(tx.take(100), 100);
        tx.give_back(30);
        assert_eq!(tx.free(), 30);
        tx.give_back(0);
        assert_eq!(tx.free(), 30);
    }

    #[test]
    fn k1_give_back_after_a_lie_does_not_underflow() {
        let mut tx = sender(1000, 100);
        assert_eq!(tx.take(100), 100);
        // Reported as read before it was sent.
        tx.update(100, (u32::MAX - 10).wrapping_add(80));
        tx.give_back(100);
        assert_eq!(tx.in_flight(), 0);
        assert_eq!(tx.free(), 100);
    }

    #[test]
    fn c8_reset_forgets_the_peer_and_keeps_the_own_limit() {
        let mut credit = Credit::new(1000);
        let header = Header {
            buf_alloc: 77,
            ..Header::default()
        };
        let _ = credit.update(&header);
        let _ = credit.rx.advertise();
        assert!(credit.rx.receive(10).is_ok());
        assert_eq!(credit.tx.take(10), 10);
        credit.reset();
        assert_eq!(credit, Credit::new(1000));
    }

    #[test]
    fn k6_stalled_by_the_own_buffer_asks_once() {
        let mut tx = sender(100, 1000);
        assert!(!tx.ask());
        assert_eq!(tx.take(99), 99);
        assert!(!tx.ask());
        assert_eq!(tx.take(1), 1);
        assert!(tx.ask());
        assert!(!tx.ask());
        // An answer without progress is no reason to ask again at once, or the two would play ping-pong.
        tx.update(1000, u32::MAX - 10);
        assert!(!tx.ask());
        tx.update(1000, u32::MAX - 9);
        assert_eq!(tx.take(1), 1);
        assert!(tx.ask());
        tx.could_not_ask();
        assert!(tx.ask());
    }

    #[test]
    fn k6_a_peer_that_answers_is_asked_again_and_again() {
        let mut tx = sender(100, 1000);
        assert_eq!(tx.take(100), 100);
        assert!(tx.ask());
        for _ in 0..5 {
            tx.update(1000, u32::MAX - 10);
            assert!(tx.look());
            assert_eq!(tx.window(), 100);
        }
        tx.update(1000, (u32::MAX - 10).wrapping_add(1));
        assert!(!tx.look());
        assert_eq!(tx.free(), 1);
    }

    #[test]
    fn k6_a_peer_that_never_answers_is_not_waited_for() {
        let mut tx = sender(100, 1000);
        assert_eq!(tx.take(100), 100);
        assert!(tx.ask());
        assert!(tx.look());
        assert_eq!(tx.free(), 0);
        assert!(!tx.look());
        assert_eq!(tx.free(), 900);
        assert_eq!(tx.take(u32::MAX), 900);
        // Now it is its own buffer that is full, and by that it reports.
        assert!(!tx.ask());
        assert!(!tx.look());
        assert!(!tx.is_stuck());
    }

    #[test]
    fn k6_stalled_by_the_peers_buffer_waits_for_its_update() {
        let mut tx = sender(100, 100);
        assert_eq!(tx.take(100), 100);
        assert!(!tx.ask());
        assert!(!tx.look());
    }

    #[test]
    fn k3_the_peer_may_send_what_it_was_told_and_no_more() {
        let mut rx = RxCredit::new(100);
        assert_eq!(rx.receive(0), Ok(()));
        assert!(rx.receive(1).is_err());
        let told = rx.advertise();
        assert_eq!((told.buf_alloc, told.fwd_cnt), (100, 0));
        assert_eq!(rx.receive(99), Ok(()));
        let overrun = Overrun {
            allowed: 1,
            sent: 2,
        };
        assert_eq!(rx.receive(2), Err(overrun));
        assert_eq!(rx.unread(), 99);
        assert_eq!(rx.receive(1), Ok(()));
        assert!(rx.receive(1).is_err());
    }

    #[test]
    fn k3_what_was_read_counts_once_it_was_told() {
        let mut rx = receiver(100);
        assert_eq!(rx.receive(100), Ok(()));
        rx.consume(40);
        assert!(rx.receive(1).is_err());
        let told = rx.advertise();
        assert_eq!(told.buf_alloc, 100);
        assert_eq!(told.fwd_cnt, (u32::MAX - 10).wrapping_add(40));
        assert_eq!(rx.peer_free(), 40);
        assert_eq!(rx.receive(40), Ok(()));
        assert!(rx.receive(1).is_err());
        assert_eq!(rx.unread(), 100);
    }

    #[test]
    fn k3_shrinking_keeps_what_was_promised() {
        let mut rx = receiver(100);
        assert!(rx.set_buf_alloc(10));
        assert!(!rx.set_buf_alloc(10));
        // Told already, but the peer's packets may have crossed it.
        let _ = rx.advertise();
        assert_eq!(rx.peer_free(), 10);
        assert_eq!(rx.receive(100), Ok(()));
        assert!(rx.receive(1).is_err());
        assert_eq!(rx.peer_free(), 0);
        rx.consume(91);
        let _ = rx.advertise();
        assert_eq!(rx.peer_free(), 1);
        assert!(rx.receive(2).is_err());
        assert_eq!(rx.receive(1), Ok(()));
    }

    #[test]
    fn k3_no_more_is_consumed_than_was_received() {
        let mut rx = receiver(100);
        assert_eq!(rx.receive(10), Ok(()));
        rx.consume(11);
        assert_eq!(rx.unread(), 0);
        rx.consume(u32::MAX);
        assert_eq!(rx.unread(), 0);
    }

    #[test]
    fn k4_update_when_the_peer_is_about_to_stall() {
        let mut rx = receiver(256 * KIB);
        assert_eq!(rx.receive(192 * KIB), Ok(()));
        rx.consume(192 * KIB);
        // The peer has 64 KiB left: not yet.
        assert!(!rx.update_due(0));
        assert_eq!(rx.receive(1), Ok(()));
        assert!(rx.update_due(0));
        let _ = rx.advertise();
        assert!(!rx.update_due(0));
    }

    #[test]
    fn k4_no_update_per_small_read() {
        let mut rx = receiver(256 * KIB);
        assert_eq!(rx.receive(256 * KIB), Ok(()));
        // The peer stalls, but the reader has plenty.
        rx.consume(64 * KIB - 1);
        assert!(!rx.update_due(1));
        rx.consume(1);
        assert!(rx.update_due(1));
    }

    #[test]
    fn k4_update_when_the_reader_waits_for_what_cannot_come() {
        let mut rx = receiver(256 * KIB);
        assert_eq!(rx.receive(256 * KIB), Ok(()));
        rx.consume(10);
        assert!(!rx.update_due(256 * KIB - 10));
        assert!(rx.update_due(256 * KIB - 9));
        // Nothing to tell is no update, whatever the reader waits for.
        let _ = rx.advertise();
        assert!(!rx.update_due(u32::MAX));
    }

    #[test]
    fn k6_reader_waits_for_more_than_the_threshold() {
        let mut rx = receiver(256 * KIB);
        assert_eq!(rx.receive(256 * KIB), Ok(()));
        rx.consume(70 * KIB);
        assert!(rx.update_due(100 * KIB));
        let _ = rx.advertise();
        rx.consume(186 * KIB);
        // The peer has 70 KiB left, which is no reason for an update, and the reader waits for 100.
        assert!(!rx.update_due(70 * KIB));
        assert!(rx.update_due(70 * KIB + 1));
        let _ = rx.advertise();
        assert!(!rx.update_due(256 * KIB));
    }

    #[test]
    fn k6_reader_waits_for_more_than_can_come() {
        let mut rx = receiver(256 * KIB);
        assert!(!rx.set_peer_limit(0));
        assert_eq!(rx.reachable(u32::MAX), 256 * KIB);
        assert!(rx.set_peer_limit(1000));
        assert!(!rx.set_peer_limit(1000));
        assert_eq!(rx.reachable(1001), 1000);
        assert_eq!(rx.reachable(999), 999);
    }

    #[test]
    fn k4_smallest_buffers_get_their_update() {
        let mut size = 1;
        while size < 6 {
            let mut rx = receiver(size);
            assert_eq!(rx.receive(size), Ok(()));
            assert!(!rx.update_due(0));
            rx.consume(size);
            assert!(rx.update_due(0));
            size += 1;
        }
    }

    #[test]
    fn k4_peer_with_a_smaller_buffer_stalls_earlier() {
        let mut rx = receiver(256 * KIB);
        rx.set_peer_limit(1000);
        assert_eq!(rx.peer_free(), 1000);
        assert_eq!(rx.receive(500), Ok(()));
        rx.consume(500);
        assert!(!rx.update_due(0));
        assert_eq!(rx.receive(1), Ok(()));
        rx.consume(1);
        assert!(rx.update_due(0));
        // Told nothing of its own buffer, the peer counts as bound by ours alone.
        rx.set_peer_limit(0);
        assert!(!rx.update_due(0));
    }

    #[test]
    fn k4_a_greater_buffer_is_told_when_the_peer_stalls() {
        let mut rx = receiver(100);
        assert_eq!(rx.receive(100), Ok(()));
        assert!(rx.set_buf_alloc(200));
        assert!(rx.update_due(0));
        let _ = rx.advertise();
        assert_eq!(rx.peer_free(), 100);
    }

    #[test]
    fn k1_both_directions_are_bound_by_one_buffer() {
        let mut credit = Credit::new(100);
        let header = Header {
            buf_alloc: 1000,
            ..Header::default()
        };
        assert!(credit.update(&header));
        assert_eq!(credit.tx.free(), 100);
        assert!(credit.set_buf_alloc(50));
        assert_eq!(credit.tx.free(), 50);
        assert_eq!(credit.rx.advertise().buf_alloc, 50);
        assert_eq!(credit.rx.buf_alloc(), 50);
    }
}
