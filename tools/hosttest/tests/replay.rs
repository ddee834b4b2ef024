// SPDX-License-Identifier: GPL-2.0

//! What the fuzzer does, without one: the kept inputs, and scripts of random bytes, the same each time.

use std::{
    fs,
    path::Path, //
};

use rvsock_hosttest::drive::drive;

/// Marsaglia's xorshift: the scripts need to be arbitrary, and the same everywhere, no more.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn kept_inputs() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/kept");
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none() {
            println!("{}", path.display());
            drive(&fs::read(&path).unwrap());
            count += 1;
        }
    }
    assert!(count > 0, "nothing is kept in fuzz/kept");
}

#[test]
fn random_scripts() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..4000 {
        let len = random.next() % 4096;
        let mut script: Vec<u8> = (0..len).map(|_| random.next().to_le_bytes()[3]).collect();
        // A plausible buffer, half of the time, or one that is soon full.
        let buffer: u32 = [256 * 1024, 256 * 1024 + 1, 2000, 2001][random.next() as usize % 4];
        if random.next() % 2 == 0 && script.len() >= 4 {
            script[..4].copy_from_slice(&buffer.to_le_bytes());
        }
        drive(&script);
    }
}
