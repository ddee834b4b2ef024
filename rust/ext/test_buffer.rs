// SPDX-License-Identifier: GPL-2.0

//! A buffer of as many segments as one likes, and a count of those that exist.

#![allow(unsafe_code)]

use crate::ext::virtio::{
    Buffer,
    Segments, //
};
use core::{
    ffi::c_void,
    ptr::NonNull, //
};
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// How many buffers exist.
pub(crate) static ALIVE: Atomic<i64> = Atomic::new(0);

const SEGMENT: usize = 16;

/// Memory for segments of 16 bytes.
struct Inner {
    memory: [u8; 32 * SEGMENT],
    segments: usize,
}

/// A buffer that the device writes to.
pub(crate) struct Counted(KBox<Inner>);

impl Counted {
    pub(crate) fn new(segments: usize, flags: Flags) -> Result<Self> {
        let inner = KBox::new(
            Inner {
                memory: [0; 32 * SEGMENT],
                segments: segments.min(32),
            },
            flags,
        )?;
        ALIVE.add(1i64, Relaxed);
        Ok(Self(inner))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.segments * SEGMENT
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALIVE.add(-1i64, Relaxed);
    }
}

// SAFETY:
// - The segments lie in the box, which is `kmalloc`ed and only this value's. They do not overlap, and
//   any bytes are valid in them.
// - They depend on `segments`, which does not change, and are all written by the device.
// - The token is the pointer of the box.
unsafe impl Buffer for Counted {
    const MAX_SEGMENTS: usize = 16;

    fn segments(&self, segments: &mut Segments<'_>) {
        let base = self.0.memory.as_ptr().cast_mut();
        for i in 0..self.0.segments {
            // SAFETY: As said above; there are at most 32.
            unsafe { segments.writable(base.add(i * SEGMENT), SEGMENT) };
        }
    }

    fn into_token(self) -> NonNull<c_void> {
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so that the box is not used twice.
        let raw = KBox::into_raw(unsafe { core::ptr::read(&this.0) });
        // SAFETY: The pointer of a box is not null.
        unsafe { NonNull::new_unchecked(raw.cast()) }
    }

    unsafe fn from_token(token: NonNull<c_void>) -> Self {
        // SAFETY: By the safety requirement it is the pointer of a box that was not dropped.
        Self(unsafe { KBox::from_raw(token.as_ptr().cast()) })
    }
}
