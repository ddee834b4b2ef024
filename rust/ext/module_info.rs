// SPDX-License-Identifier: GPL-2.0

//! What `modinfo` shows, and `modprobe` goes by, beside what [`kernel::prelude::module!`] knows.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h)

/// Declares modules that `modprobe` loads before or after this one if they exist: C's `MODULE_SOFTDEP`.
///
/// # Examples
///
/// ```ignore
/// module_softdep!("post: vsock_loopback");
/// ```
macro_rules! module_softdep {
    ($modules:literal) => {
        #[allow(unsafe_code)]
        const _: () = {
            const TEXT: &str = concat!("softdep=", $modules, "\0");

            #[link_section = ".modinfo"]
            #[used(compiler)]
            static SOFTDEP: [u8; TEXT.len()] = $crate::ext::module_param::bytes(TEXT);
        };
    };
}
pub(crate) use module_softdep;
