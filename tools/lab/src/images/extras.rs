// SPDX-License-Identifier: GPL-2.0

//! Programs of others, which some tests unpack into their machines: which they are, and which tests those are.

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
