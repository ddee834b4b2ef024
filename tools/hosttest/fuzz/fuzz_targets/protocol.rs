// SPDX-License-Identifier: GPL-2.0

//! The pure code under scripts that libFuzzer writes: see `rvsock_hosttest::drive`.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| rvsock_hosttest::drive::drive(script));
