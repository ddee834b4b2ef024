//! The suites that need no vhost-vsock: the pure code's tests on the host and in a kernel.

pub mod host;
pub mod kunit;
