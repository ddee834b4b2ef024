// SPDX-License-Identifier: GPL-2.0

//! The houses, and their layers: the one place where they stand.

use crate::rooms::House;

/// The driver.
pub(crate) const DRIVER: House = House {
    root: "rust/rvsock_main.rs",
    open: &["driver"],
    deep: false,
    layers: &[
        &["rvsock_main"],
        // What it passes on to the root.
        &["driver"],
        &["driver/debugfs"],
        &["driver/device"],
        &["driver/accept"],
        &["driver/transport"],
        &["driver/conn", "driver/dgram", "driver/interface"],
        &["driver/link"],
        &["driver/queue"],
        &["driver/trace"],
        &["driver/stats", "driver/hash_table", "driver/parameters"],
        &["proto"],
        &["wire"],
        &["ext"],
    ],
    // The pure rooms.
    apart: &[("proto", "ext"), ("wire", "ext")],
};

/// What is not the driver: no circles, at any depth; which module stands above which is left to their imports.
pub(crate) const TOOLS: &[House] = &[
    tool("tools/device/src/main.rs"),
    tool("tools/guest/src/lib.rs"),
    House {
        // The pure rooms as a whole: what is in them is the driver's.
        deep: false,
        ..tool("tools/hosttest/src/lib.rs")
    },
    tool("tools/lab/src/main.rs"),
];

const fn tool(root: &'static str) -> House {
    House {
        root,
        open: &[],
        deep: true,
        layers: &[],
        apart: &[],
    }
}
