// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate lacks, under the path that it would have there.

pub(crate) mod bindings;
