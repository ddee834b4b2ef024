// SPDX-License-Identifier: GPL-2.0

//! What errors are called.

use std::io;

/// The symbolic name of an error's number, such as `ECONNRESET`.
pub fn errno_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
        None => format!("{:?}", error.kind()),
    }
}
