// SPDX-License-Identifier: GPL-2.0

//! The suites that need no vhost-vsock: the pure code's tests on the host and in a kernel, what must not compile,
//! and what must compile for the next kernel.

pub mod host;
pub mod kunit;
pub mod misuse;
pub mod next;
