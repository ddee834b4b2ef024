// SPDX-License-Identifier: GPL-2.0

//! Socket buffers that a device reads.

use super::{
    ControlBlock,
    SkBuff, //
};
use crate::ext::{
    bindings,
    virtio::{
        Buffer,
        Segments,
        MAX_SEGMENTS, //
    }, //
};
use core::{
    ffi::c_void,
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::NonNull, //
};

// SAFETY: The linear part and the fragments neither move nor go away while the buffer is owned,
// and `into_token()`/`from_token()` are each other's inverse.
unsafe impl<C: ControlBlock> Buffer for SkBuff<C> {
    /// The header, the linear part, and the fragments.
    const MAX_SEGMENTS: usize = MAX_SEGMENTS;

    fn segments(&self, segments: &mut Segments<'_>) {
        let headlen = self.headlen();
        let header = self.control().header_len().min(headlen);
        // SAFETY: By the type invariant the buffer is valid.
        let data = unsafe { (*self.raw()).data };
        for (offset, len) in [(0, header), (header, headlen - header)] {
            if len > 0 {
                // SAFETY: Within the linear part, which is `headlen` bytes long.
                unsafe { segments.readable(data.add(offset).cast(), len) };
            }
        }
        // SAFETY: By the type invariant the buffer is valid.
        for i in 0..unsafe { bindings::rvsock_helper_skb_nr_frags(self.raw()) } {
            let (mut offset, mut len) = (0, 0);
            // SAFETY: There are more than `i` fragments.
            let page =
                unsafe { bindings::rvsock_helper_skb_frag(self.raw(), i, &mut offset, &mut len) };
            // SAFETY: The buffer holds a reference to the fragment's page.
            unsafe { segments.readable_page(page.cast(), offset as usize, len as usize) };
        }
    }

    fn into_token(self) -> NonNull<c_void> {
        ManuallyDrop::new(self).ptr.cast()
    }

    unsafe fn from_token(token: NonNull<c_void>) -> Self {
        // INVARIANT: By the safety requirements `token` comes from `into_token()`, so that the
        // buffer is valid, ours, and its control block has stayed as it was.
        Self {
            ptr: token.cast(),
            _control: PhantomData,
        }
    }
}
