// SPDX-License-Identifier: GPL-2.0

//! Where kernels differ: the one place that knows of more than one.
//!
//! What a kernel has is found out as the module is built: rust/Kbuild asks the compiler whether a probe compiles, so
//! that a distribution's kernel with something of a later one is no special case.

/// Makes an `IdArray` of identifiers without data.
///
/// Up to Linux 7.2 each of them comes with its data, which are nothing here.
macro_rules! id_array {
    ($($id:expr),+) => {{
        #[cfg(rvsock_id_pairs)]
        let ids = [$(($id, ())),+];
        #[cfg(not(rvsock_id_pairs))]
        let ids = [$($id),+];
        ::kernel::device_id::IdArray::new_without_index(ids)
    }};
}
pub(crate) use id_array;

/// A full barrier between processors.
///
/// Up to Linux 7.2 it is told of no kind.
#[inline]
pub(crate) fn smp_mb() {
    #[cfg(rvsock_smp_mb_alone)]
    kernel::sync::barrier::smp_mb();
    #[cfg(not(rvsock_smp_mb_alone))]
    kernel::sync::barrier::smp_mb(kernel::sync::barrier::Full);
}
