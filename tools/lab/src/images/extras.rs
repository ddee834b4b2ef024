// SPDX-License-Identifier: GPL-2.0

//! Programs of others, which some tests unpack into their machines: which they are, and which tests those are.

use crate::suites;

/// Whether a test has [`PROGRAMS`] in its machines: its name says so.
pub fn wanted_by(test: &str) -> bool {
    [
        "programs: ",
        "Python",
        "ss --vsock",
        "systemd's own program",
    ]
    .iter()
    .any(|word| test.contains(word))
}

/// Whether a test has [`TRAFFIC_CONTROL`] in its machines, and the modules of what that sets up.
pub fn controls_traffic(test: &str) -> bool {
    suites::turns::has(test)
}

/// What is unpacked into the machines of those tests, with libraries. Busybox has an `ip` and a `tc` of its own, which can
/// less, and come first unless they are called by their paths.
pub const TRAFFIC_CONTROL: &[&str] = &["/usr/bin/ip", "/usr/sbin/ethtool", "/usr/sbin/tc"];
/// What they read.
pub const TRAFFIC_CONTROL_FILES: &[&str] = &["/usr/share/iproute2/ematch_map"];
/// What they ask the kernel for, where it is not a part of it.
pub const SCHEDULERS: &[&str] = &[
    "act_gact",
    "act_mirred",
    "act_skbedit",
    "cls_basic",
    "cls_bpf",
    "cls_cgroup",
    "cls_flow",
    "cls_fw",
    "cls_matchall",
    "cls_u32",
    "em_cmp",
    "em_u32",
    "ifb",
    "sch_cake",
    "sch_fq",
    "sch_htb",
    "sch_ingress",
    "sch_netem",
    "sch_prio",
    "sch_sfq",
    "sch_tbf",
];

/// What is unpacked into the machines of these tests, with libraries.
pub const PROGRAMS: &[&str] = &[
    "/usr/bin/ip",
    "/usr/bin/ncat",
    "/usr/bin/python3",
    "/usr/bin/socat",
    "/usr/bin/ss",
    "/usr/bin/ssh",
    "/usr/bin/ssh-keygen",
    "/usr/bin/systemd-notify",
    "/usr/bin/tcpdump",
    "/usr/lib/openssh/sshd-auth",
    "/usr/lib/openssh/sshd-session",
    "/usr/sbin/sshd",
];
/// The last is there for its folder of libraries, which Python asks for.
pub const PYTHON_MODULES: &str = "fcntl, socket, struct, hashlib";
pub const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
];
