// SPDX-License-Identifier: GPL-2.0

//! Files of debugfs that are read line by line, however many lines there are.
//!
//! [`kernel::debugfs`] has files whose whole content is made at once: its memory grows with the content, and
//! whoever makes it must come to its end. Here a line is made when it is read, and no more than a page of them
//! is held.
//!
//! C headers: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h),
//! [`include/linux/seq_file.h`](srctree/include/linux/seq_file.h)

use kernel::{
    fmt,
    prelude::*,
    types::ForeignOwnable, //
};

/// What a file shows, line by line. It belongs to the module, and has no data of its own.
pub(crate) trait Lines: 'static {
    /// What a line is about; it is kept while the line is shown.
    type Line: ForeignOwnable + Send + 'static;

    /// The first line at `position`, or after it, and its own position. The first of all is at 0 or after it.
    ///
    /// # Context
    ///
    /// May sleep.
    fn find(position: u64) -> Option<(u64, Self::Line)>;

    /// Shows a line, its end included; it may be more than one line of text. It may be asked for twice, where the
    /// reader has no room for it at first.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// What `f` returns.
    fn show(
        line: <Self::Line as ForeignOwnable>::Borrowed<'_>,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result;
}

#[cfg(CONFIG_DEBUG_FS)]
mod imp {
    use super::Lines;
    use crate::ext::module_info::THIS_MODULE;
    use core::{
        ffi::c_void,
        marker::PhantomData, //
    };
    use kernel::{
        bindings,
        fmt,
        prelude::*,
        seq_file::SeqFile,
        seq_print,
        str::CStrExt as _,
        types::ForeignOwnable, //
    };

    /// The last position that C has.
    const LAST: u64 = i64::MAX as u64;

    /// A directory at the root of debugfs, and the files in it.
    ///
    /// # Invariants
    ///
    /// `dir` is what `debugfs_create_dir()` has returned: an error, or a directory that nobody but us removes.
    pub(crate) struct Dir {
        dir: *mut bindings::dentry,
    }

    // SAFETY: The directory is not tied to a thread.
    unsafe impl Send for Dir {}

    // SAFETY: What debugfs does with a directory it locks itself.
    unsafe impl Sync for Dir {}

    impl Dir {
        /// Makes the directory. Without one, as without debugfs, nothing is shown; that is no error.
        ///
        /// # Context
        ///
        /// May sleep.
        pub(crate) fn new(name: &CStr) -> Self {
            // SAFETY: The name is a C string; without a parent it is in the root.
            //
            // INVARIANT: As it was returned.
            let dir =
                unsafe { bindings::debugfs_create_dir(name.as_char_ptr(), core::ptr::null_mut()) };
            Self { dir }
        }

        /// Adds a file that shows `L` to root, until the directory goes.
        ///
        /// # Context
        ///
        /// May sleep.
        pub(crate) fn lines<L: Lines>(&self, name: &CStr) {
            // SAFETY:
            // - The name is a C string; by the type invariant the directory is one, or an error, of which the
            //   function makes nothing.
            // - The operations are static, and ask for no data. Their owner is this module, so that it is there
            //   as long as a file is open.
            unsafe {
                bindings::debugfs_create_file_full(
                    name.as_char_ptr(),
                    0o400,
                    self.dir,
                    core::ptr::null_mut(),
                    core::ptr::null(),
                    const { &Shown::<L>::FILE },
                )
            };
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            // SAFETY: By the type invariant nobody else removes it; of an error nothing is made.
            unsafe { bindings::debugfs_remove(self.dir) };
        }
    }

    /// `L` as C sees it.
    struct Shown<L>(PhantomData<L>);

    impl<L: Lines> Shown<L> {
        const FILE: bindings::file_operations = bindings::file_operations {
            owner: THIS_MODULE,
            open: Some(Self::open),
            read: Some(bindings::seq_read),
            llseek: Some(bindings::seq_lseek),
            release: Some(bindings::seq_release),
            ..pin_init::zeroed()
        };

        const LINES: bindings::seq_operations = bindings::seq_operations {
            start: Some(Self::start),
            next: Some(Self::next),
            stop: Some(Self::stop),
            show: Some(Self::show),
        };

        extern "C" fn open(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
            // SAFETY: The file is being opened; the operations are static.
            unsafe { bindings::seq_open(file, const { &Self::LINES }) }
        }

        /// The first line at `position` or after it, as C holds it, which is told where that is.
        ///
        /// # Safety
        ///
        /// `position` must be the caller's variable.
        unsafe fn find(position: *mut i64) -> *mut c_void {
            // SAFETY: By the safety requirement.
            let position = unsafe { &mut *position };
            match L::find(u64::try_from(*position).unwrap_or(0)) {
                Some((at, line)) => {
                    // CAST: It is not above what C has.
                    *position = at.min(LAST) as i64;
                    line.into_foreign()
                }
                None => core::ptr::null_mut(),
            }
        }

        extern "C" fn start(_: *mut bindings::seq_file, position: *mut i64) -> *mut c_void {
            // SAFETY: The caller's variable.
            unsafe { Self::find(position) }
        }

        extern "C" fn next(
            seq: *mut bindings::seq_file,
            line: *mut c_void,
            position: *mut i64,
        ) -> *mut c_void {
            Self::stop(seq, line);
            // SAFETY: The caller's variable. It must not stay as it was.
            unsafe {
                *position = (*position).saturating_add(1);
                Self::find(position)
            }
        }

        extern "C" fn stop(_: *mut bindings::seq_file, line: *mut c_void) {
            // SAFETY: It is null, or what `start()` or `next()` has returned, which comes back once.
            drop(unsafe { L::Line::try_from_foreign(line) });
        }

        extern "C" fn show(seq: *mut bindings::seq_file, line: *mut c_void) -> c_int {
            // SAFETY: What `start()` or `next()` has returned, and comes back after this.
            let line = unsafe { L::Line::borrow(line) };
            // SAFETY: The file is valid, and locked by the caller.
            let seq = unsafe { SeqFile::from_raw(seq) };
            seq_print!(seq, "{}", Text::<L>(core::cell::Cell::new(Some(line))));
            0
        }
    }

    /// A line, to be formatted once.
    struct Text<'a, L: Lines>(core::cell::Cell<Option<<L::Line as ForeignOwnable>::Borrowed<'a>>>);

    impl<L: Lines> fmt::Display for Text<'_, L> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self.0.take() {
                Some(line) => L::show(line, f),
                None => Ok(()),
            }
        }
    }
}

#[cfg(not(CONFIG_DEBUG_FS))]
mod imp {
    use super::Lines;
    use kernel::prelude::*;

    /// Nothing, in a kernel without debugfs.
    pub(crate) struct Dir(());

    impl Dir {
        /// Makes nothing.
        pub(crate) fn new(_: &CStr) -> Self {
            Self(())
        }

        /// Shows nothing.
        pub(crate) fn lines<L: Lines>(&self, _: &CStr) {
            // So that what would be shown compiles, and counts as used.
            let _ = (L::find, L::show);
        }
    }
}

pub(crate) use imp::Dir;
