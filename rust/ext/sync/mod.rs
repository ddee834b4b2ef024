// SPDX-License-Identifier: GPL-2.0

//! Synchronisation primitives beyond those of [`kernel::sync`].

mod rcu_arc;
mod spinlock_bh;

pub(crate) use rcu_arc::{
    Kept,
    RcuArc, //
};
pub(crate) use spinlock_bh::new_spinlock_bh;
pub(crate) use spinlock_bh::{
    SpinLockBh,
    SpinLockBhBackend,
    SpinLockBhGuard, //
};
