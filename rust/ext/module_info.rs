// SPDX-License-Identifier: GPL-2.0

//! The module that this code is in: who it is, and what `modinfo` shows and `modprobe` goes by, beside
//! what [`kernel::prelude::module!`] knows.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h)
//!
//! Built into the kernel there is no such module: C's `THIS_MODULE` is null then, and what describes it
//! begins with its name and a dot.

use kernel::{
    bindings,
    ModuleMetadata, //
};

/// C's `THIS_MODULE`. The kernel makes it at load time, and does not free it until the module is unloaded.
#[cfg(MODULE)]
pub(crate) const THIS_MODULE: *mut bindings::module =
    (&raw const bindings::__this_module).cast_mut();
#[cfg(not(MODULE))]
pub(crate) const THIS_MODULE: *mut bindings::module = core::ptr::null_mut();

/// What the name of a parameter of the module `M`, and each text about it, begins with.
#[doc(hidden)]
pub(crate) const fn prefix<M: ModuleMetadata>() -> &'static [u8] {
    if cfg!(MODULE) {
        &[]
    } else {
        M::NAME.to_bytes_with_nul()
    }
}

/// `prefix` with a dot in place of its end, if it is not empty, and `text`. `N` is the length of both.
#[doc(hidden)]
pub(crate) const fn joined<const N: usize>(prefix: &[u8], text: &str) -> [u8; N] {
    let text = text.as_bytes();
    assert!(prefix.len() + text.len() == N);
    let mut bytes = [b'.'; N];
    let mut i = 0;
    while i < N {
        if i + 1 < prefix.len() {
            bytes[i] = prefix[i];
        } else if i >= prefix.len() {
            bytes[i] = text[i - prefix.len()];
        }
        i += 1;
    }
    bytes
}

/// Puts `TAG=VALUE` among what `modinfo` shows: C's `MODULE_INFO`.
macro_rules! module_info {
    ($tag:literal, $value:literal) => {
        #[allow(unsafe_code)]
        const _: () = {
            use $crate::ext::module_info::{
                joined,
                prefix, //
            };

            const TEXT: &str = concat!($tag, "=", $value, "\0");
            const PREFIX: &[u8] = prefix::<crate::LocalModule>();

            #[link_section = ".modinfo"]
            #[used(compiler)]
            static INFO: [u8; PREFIX.len() + TEXT.len()] = joined(PREFIX, TEXT);
        };
    };
}
pub(crate) use module_info;

/// Declares modules that `modprobe` loads before or after this one if they exist: C's `MODULE_SOFTDEP`.
///
/// # Examples
///
/// ```ignore
/// module_softdep!("post: vsock_loopback");
/// ```
macro_rules! module_softdep {
    ($modules:literal) => {
        $crate::ext::module_info::module_info!("softdep", $modules);
    };
}
pub(crate) use module_softdep;

/// Declares the module's version, which `/sys/module/MODULE/version` shows as well: C's `MODULE_VERSION`.
///
/// # Examples
///
/// ```ignore
/// module_version!("1.0.0");
/// ```
macro_rules! module_version {
    ($version:literal) => {
        $crate::ext::module_info::module_info!("version", $version);
    };
}
pub(crate) use module_version;
