// SPDX-License-Identifier: GPL-2.0

//! The way from a transport's data to the socket that they are of.
//!
//! C header: [`include/net/sock.h`](srctree/include/net/sock.h)

use super::{
    OwnedSock,
    VsockSock, //
};
use crate::ext::{
    bindings,
    compat::smp_mb,
    net::skbuff::SkBuff,
    sync::{
        new_spinlock_bh,
        SpinLockBh, //
    }, //
};
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc, //
    }, //
};

/// A way to a socket that does not keep it.
///
/// [`Serves::init`](super::Serves::init) is given it. It leads to the socket from when that has
/// returned until [`Serves::destruct`](super::Serves::destruct) is called, and nowhere else.
#[derive(Clone)]
pub(crate) struct WeakSock(Arc<Way>);

/// What the copies of a [`WeakSock`] share.
///
/// # Invariants
///
/// - `sk` holds null, or a socket whose `destruct` callback has not run.
/// - `note` is null, or was put into the backlog of that socket, and not been found by its owner.
#[pin_data]
struct Way {
    #[pin]
    sk: SpinLockBh<SockPtr>,
    note: Atomic<*mut bindings::sk_buff>,
}

struct SockPtr {
    sk: *mut VsockSock,
    /// What worked off the socket's backlog before its transport was this one.
    backlog_rcv: BacklogRcv,
}

pub(super) type BacklogRcv =
    Option<unsafe extern "C" fn(*mut bindings::sock, *mut bindings::sk_buff) -> i32>;

// SAFETY: Sockets are not tied to a thread.
unsafe impl Send for SockPtr {}

#[cfg(CONFIG_KUNIT = "y")]
impl WeakSock {
    /// A way to no socket, for tests. May sleep.
    pub(crate) fn to_nothing() -> Result<Self> {
        Self::new()
    }
}

impl WeakSock {
    /// A way to no socket. May sleep.
    pub(super) fn new() -> Result<Self> {
        // INVARIANT: There is neither a socket nor a note.
        let way = Arc::pin_init(
            pin_init!(Way {
                sk <- new_spinlock_bh!(
                    SockPtr {
                        sk: core::ptr::null_mut(),
                        backlog_rcv: None,
                    },
                    "WeakSock::sk"
                ),
                note: Atomic::new(core::ptr::null_mut()),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self(way))
    }

    /// The socket, unless it is on its way out.
    pub(crate) fn upgrade(&self) -> Option<ARef<VsockSock>> {
        let sk = self.0.sk.lock();
        let ptr = NonNull::new(sk.sk)?;
        // SAFETY: The socket's memory is there as long as its `destruct` callback, which would
        // have to take the lock, has not run.
        let alive = unsafe { bindings::rvsock_helper_sock_tryget(sk.sk.cast()) };
        // SAFETY: The reference has just been taken.
        alive.then(|| unsafe { ARef::from_raw(ptr) })
    }

    /// Runs `with` as the socket's owner, unless a user call owns it just now.
    ///
    /// Never sleeps and never waits for a user call; nor may `with` sleep. In the other case
    /// [`Serves::deferred`](super::Serves::deferred) is called once that user call lets the
    /// socket go; several such calls may become one. If there is no socket (any more), nothing
    /// happens, nor if another transport serves it before the user call ends.
    ///
    /// # Context
    ///
    /// Process context and softirqs.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if the socket is owned and the note to its owner could not be allocated.
    pub(crate) fn own_or_defer(&self, with: impl FnOnce(&OwnedSock<'_>)) -> Result {
        let Some(sk) = self.upgrade() else {
            return Ok(());
        };
        // SAFETY: The socket is alive; unlocked below.
        unsafe { bindings::rvsock_helper_bh_lock_sock(sk.sock()) };
        let result = if !self.leads_to(&sk) {
            // Another transport has come to serve it meanwhile.
            Ok(())
        // SAFETY: The spinlock is held.
        } else if !unsafe { bindings::rvsock_helper_sock_owned_by_user(sk.sock()) } {
            // SAFETY: The spinlock is held and no user call owns the socket, nor can one come to own
            // it before the spinlock is released.
            with(&unsafe { OwnedSock::new(&sk) });
            Ok(())
        } else {
            // With that of `forget_note()`: either the owner, who forgets the note and looks then, sees what
            // the caller has changed, or we see that there is no note.
            smp_mb();
            // Relaxed: what the pointer leads to is not looked at.
            if self.0.note.load(Relaxed).is_null() {
                self.note_for_owner(&sk)
            } else {
                Ok(())
            }
        };
        // SAFETY: Locked above.
        unsafe { bindings::rvsock_helper_bh_unlock_sock(sk.sock()) };
        result
    }

    /// Puts an empty buffer into the backlog of `sk`, whose spinlock is held and to which this leads: the
    /// owner works it off when it lets go.
    fn note_for_owner(&self, sk: &VsockSock) -> Result {
        let (note, ()) = SkBuff::alloc(0, GFP_ATOMIC, ())?.into_raw();
        // SAFETY: The socket is alive and its spinlock held; the buffer is ours to give.
        let full = unsafe { bindings::rvsock_helper_sk_add_backlog(sk.sock(), note.as_ptr()) };
        if full != 0 {
            // SAFETY: The buffer has not been taken.
            drop(unsafe { SkBuff::from_raw(note, ()) });
            return Err(ENOMEM);
        }
        // Relaxed: all who look at it have the spinlock, or have found the note, which the owner does with it.
        //
        // INVARIANT: Just put there; the owner cannot find it before it gets the spinlock.
        self.0.note.store(note.as_ptr(), Relaxed);
        Ok(())
    }

    fn leads_to(&self, sk: &VsockSock) -> bool {
        core::ptr::eq(self.0.sk.lock().sk, sk)
    }

    /// Forgets the note, which the owner has found: he is going to look.
    pub(super) fn forget_note(&self) {
        // Full: a change that came after the owner has looked finds that there is no note. See
        // `own_or_defer()`.
        self.0.note.xchg(core::ptr::null_mut(), Full);
    }

    /// Leads to `sk` from now on, whose backlog `backlog_rcv` works off.
    ///
    /// # Safety
    ///
    /// - Nobody else owns the socket, or comes to know of it, before this returns.
    /// - [`leave`](Self::leave) is called before the socket's memory goes away.
    pub(super) unsafe fn lead_to(&self, sk: &VsockSock, backlog_rcv: BacklogRcv) {
        let mut way = self.0.sk.lock();
        // SAFETY: By the safety requirements.
        way.backlog_rcv = unsafe { (*sk.sock()).sk_backlog_rcv };
        // SAFETY: As above.
        unsafe { (*sk.sock()).sk_backlog_rcv = backlog_rcv };
        // Last: from now on others find the socket.
        //
        // INVARIANT: By the safety requirements.
        way.sk = core::ptr::from_ref(sk).cast_mut();
    }

    /// Leads to nothing from now on. What was to tell the socket's owner is taken back.
    ///
    /// # Safety
    ///
    /// It leads to `sk`, which nobody else owns, or which is being freed.
    pub(super) unsafe fn leave(&self, sk: &VsockSock) {
        // One that is being freed cannot be found any more, and this may be within another's lock.
        //
        // SAFETY: The socket's memory is there.
        let is_found = unsafe { bindings::rvsock_helper_sock_is_alive(sk.sock()) };
        if is_found {
            // SAFETY: The socket is alive; unlocked below.
            unsafe { bindings::rvsock_helper_bh_lock_sock(sk.sock()) };
        }
        {
            let mut way = self.0.sk.lock();
            way.sk = core::ptr::null_mut();
            // SAFETY: By the safety requirements, nobody works off the backlog just now.
            unsafe { (*sk.sock()).sk_backlog_rcv = way.backlog_rcv };
        }
        let note = self.0.note.xchg(core::ptr::null_mut(), Full);
        if !note.is_null() {
            // SAFETY: By the type invariant it is in the backlog, which nobody else touches: the spinlock
            // is held, or the socket is being freed.
            unsafe { bindings::rvsock_helper_sk_drop_note(sk.sock(), note) };
        }
        if is_found {
            // SAFETY: Locked above.
            unsafe { bindings::rvsock_helper_bh_unlock_sock(sk.sock()) };
        }
    }
}
