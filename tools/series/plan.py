# SPDX-License-Identifier: GPL-2.0
"""What is in each patch, and where it comes from: the map from this repository to the kernel's tree."""

EXT = "rust/ext/"
DRIVER = "net/vmw_vsock/rvsock/"

# The C functions of rust/ext that go to rust/helpers, by file. The driver keeps the others.
HELPERS = {
    "rust/helpers/spinlock.c": ["spin_lock_bh", "spin_unlock_bh", "spin_trylock_bh"],
    "rust/helpers/page.c": ["page_address", "virt_to_page", "compound_order", "get_page", "put_page", "copy"],
    "rust/helpers/device.c": ["device_lock", "device_unlock"],
    "rust/helpers/virtio.c": [
        "virtio_device_ready", "virtio_synchronize_cbs", "CONFIG_LEN_UNKNOWN", "pci_config_len", "virtio_config_len",
        "virtio_cut_off",
    ],
    "rust/helpers/net/skbuff.c": [
        "alloc_skb", "free_skb", "skb_is_charged", "skb_headlen", "skb_tailroom", "skb_headroom", "skb_reserve",
        "skb_nr_frags", "skb_frag", "skb_add_page", "skb_grow_frag", "task_frag", "zerocopy_from_msg",
    ],
    "rust/helpers/net/device.c": [
        "device_priv", "device_setup", "net_device_alloc", "net_device_interface", "net_device_name", "net_device_start",
        "net_device_start_xmit", "net_device_submit", "net_device_refuse", "net_device_xmit_more", "can_stop", "net_device_stop_queue",
        "net_device_is_ready", "net_device_wake_queue", "outstanding", "net_device_sent", "net_device_completed", "charged_to", "take_marks",
        "token_alloc", "token_turn", "token_is_out", "token_matches", "skb_is_turn", "turn_key", "skb_queue",
    ],
    "rust/helpers/net/msg.c": ["msg_pages", "msg_data_left", "msg_read", "msg_over", "msg_over_nothing"],
}
# What the kernel has in another way, or is for our own tests; and what only declares modules, as the kernel's files do.
LEFT = [EXT + name for name in (
    "alloc.rs", "bindings.rs", "compat.rs", "error.rs", "mm/mod.rs", "mod.rs", "net/mod.rs", "sync/mod.rs",
    "test_buffer.rs",
)]
# What has another name there, or is a function that the kernel has bindings for by now.
RENAMED = {"copy": "copy_untyped"}
BOUND = ["get_random_u32"]

# The comment at the head of a new file of rust/helpers, its headers, and what it depends on.
NEW_HELPERS = {
    "rust/helpers/virtio.c": (
        ["linux/pci.h", "linux/platform_device.h", "linux/virtio_config.h", "uapi/linux/virtio_mmio.h",
         "uapi/linux/virtio_pci.h"], None),
    "rust/helpers/net/skbuff.c": (["linux/netdevice.h", "linux/skbuff.h", "linux/socket.h"], "CONFIG_NET"),
    "rust/helpers/net/device.c": (
        ["linux/if_arp.h", "linux/if_ether.h", "linux/netdevice.h", "linux/pgtable.h", "linux/skbuff.h", "net/pkt_sched.h",
         "net/sch_generic.h", "net/sock.h"], "CONFIG_NET"),
    "rust/helpers/net/msg.c": (["linux/socket.h", "linux/uio.h"], "CONFIG_NET"),
}

# Any flags do where they can be looked into; and there is a block of pages without virtqueues, too.
BLOCK = [
    ("It moves into a [`Virtqueue`] as a buffer, and into an skb\n/// as a fragment.\n",
     "It moves into a virtqueue as a buffer, and into an skb\n/// as a fragment.\n"),
    ("///\n/// [`Virtqueue`]: crate::ext::virtio::Virtqueue\n", ""),
    ("    /// - `EINVAL` if `order` is above [`MAX_ORDER`](Self::MAX_ORDER), or `flags` are none of\n"
     "    ///   `GFP_KERNEL`, `GFP_KERNEL_ACCOUNT`, `GFP_ATOMIC`, `GFP_NOWAIT`.\n",
     "    /// - `EINVAL` if `order` is above [`MAX_ORDER`](Self::MAX_ORDER).\n"),
]

# What is in the kernel has the kernel's version, and the name of its parent's driver: the core says so.
NO_DRVINFO = [("        get_drvinfo: Some(bindings::rvsock_helper_net_device_drvinfo),\n", "")]

# A module's metadata have it by now.
THIS_MODULE = [
    ("#[cfg(MODULE)]\npub(crate) const THIS_MODULE: *mut bindings::module =\n"
     "    (&raw const bindings::__this_module).cast_mut();\n"
     "#[cfg(not(MODULE))]\npub(crate) const THIS_MODULE: *mut bindings::module = core::ptr::null_mut();\n",
     "pub(crate) const THIS_MODULE: *mut bindings::module =\n"
     "    <crate::LocalModule as ModuleMetadata>::THIS_MODULE.as_ptr();\n"),
]


def unused(attribute):
    """Half of what a block of pages has is for the patches to come."""
    header = "//! C header: [`include/linux/gfp.h`](srctree/include/linux/gfp.h)\n"
    return [(header, f"{header}\n#![{attribute}]\n")]


def series(p):
    """`p` is a Patch factory of make.py: each call begins a patch, and its methods fill it."""
    p.patch("01-spinlock-bh")
    p.kernel("sync/spinlock_bh.rs", "sync/lock/spinlock_bh.rs")
    p.helpers("rust/helpers/spinlock.c")
    p.after("rust/kernel/sync/lock.rs", "pub mod spinlock;\n", "pub mod spinlock_bh;\n")
    p.before("rust/kernel/sync.rs", "pub use locked_by::LockedBy;\n",
             "pub use lock::spinlock_bh::{\n    new_spinlock_bh,\n    SpinLockBh,\n    SpinLockBhBackend,\n"
             "    SpinLockBhGuard, //\n};\n")

    p.patch("02-rcu-arc")
    p.kernel("sync/rcu_arc.rs", "sync/rcu_arc.rs")
    p.after("rust/kernel/sync.rs", "pub mod rcu;\n", "mod rcu_arc;\n")
    p.before("rust/kernel/sync.rs", "pub use refcount::Refcount;\n",
             "pub use rcu_arc::{\n    Kept,\n    RcuArc, //\n};\n")

    p.patch("03-page-block")
    p.kernel("mm/page_block.rs", "page/block.rs", BLOCK + unused("expect(dead_code)"))
    p.helpers("rust/helpers/page.c")
    p.before("rust/kernel/page.rs", "/// A bitwise shift for the page size.\n",
             "mod block;\n\npub use self::block::PageBlock;\n\n")
    p.before("rust/kernel/page.rs", "/// Representation of a non-owning reference to a [`Page`].\n",
             p.tail("mm/mod.rs", "/// The order of the smallest block") + "\n")

    p.patch("04-virtio")
    p.kernel("mm/page_block.rs", "page/block.rs",
             BLOCK + unused('cfg_attr(not(CONFIG_VIRTIO = "y"), expect(dead_code))'))
    p.kernel("virtio/device.rs", "virtio/device.rs", [("points to the [`Queues`] of that", "points to the `Queues` of that")])
    for name in ("buffer", "config", "driver", "features", "queues", "restart", "uevent", "virtqueue"):
        p.kernel(f"virtio/{name}.rs", f"virtio/{name}.rs")
    p.kernel("virtio/mod.rs", "virtio.rs")
    p.helpers("rust/helpers/device.c")
    p.helpers("rust/helpers/virtio.c")
    p.bind("linux/virtio.h", "linux/virtio_config.h", "linux/virtio_ids.h", "linux/skbuff.h")
    p.before("rust/kernel/lib.rs", "pub mod workqueue;\n", '#[cfg(CONFIG_VIRTIO = "y")]\npub mod virtio;\n')
    p.maintainers("RUST [VIRTIO]", ["rust-for-linux@vger.kernel.org", "virtualization@lists.linux.dev"],
                  ["rust/helpers/virtio.c", "rust/kernel/virtio.rs", "rust/kernel/virtio/"])

    p.patch("05-sample-virtio")
    p.add("samples/rust/rust_driver_virtio.rs")
    p.after("samples/rust/Makefile", "obj-$(CONFIG_SAMPLE_RUST_DRIVER_USB)		+= rust_driver_usb.o\n",
            "obj-$(CONFIG_SAMPLE_RUST_DRIVER_VIRTIO)	+= rust_driver_virtio.o\n")
    p.before("samples/rust/Kconfig", "config SAMPLE_RUST_DRIVER_FAUX\n", p.piece("samples/rust/Kconfig"))
    p.covers("RUST [VIRTIO]", "samples/rust/rust_driver_virtio.rs")

    p.patch("06-net")
    p.kernel("net/msg.rs", "net/msg.rs")
    p.kernel("net/sock.rs", "net/sock.rs")
    for name in ("device", "growing", "paged", "queue", "reason", "user"):
        p.kernel(f"net/skbuff/{name}.rs", f"net/skbuff/{name}.rs")
    p.kernel("net/skbuff/mod.rs", "net/skbuff.rs", [("mod device;\n", '#[cfg(CONFIG_VIRTIO = "y")]\nmod device;\n')])
    p.kernel("mm/page_block.rs", "page/block.rs", BLOCK)
    p.helpers("rust/helpers/net/skbuff.c")
    p.helpers("rust/helpers/net/msg.c")
    p.bind("linux/net.h", "linux/socket.h", "net/sock.h")
    p.replace("rust/kernel/net/mod.rs", "pub mod netlink;\n",
              "pub mod msg;\npub mod netlink;\npub mod skbuff;\npub mod sock;\n\nuse crate::bindings;\n\n"
              + p.item("net/mod.rs", "net_ratelimit"))
    p.maintainers("RUST [SOCKET BUFFERS]", ["rust-for-linux@vger.kernel.org", "netdev@vger.kernel.org"],
                  ["rust/helpers/net/msg.c", "rust/helpers/net/skbuff.c", "rust/kernel/net/msg.rs",
                   "rust/kernel/net/skbuff.rs", "rust/kernel/net/skbuff/", "rust/kernel/net/sock.rs"])

    p.patch("07-net-device")
    p.kernel("net/device/mod.rs", "net/device.rs")
    p.kernel("net/device/callbacks.rs", "net/device/callbacks.rs", NO_DRVINFO)
    for name in ("registration", "turn"):
        p.kernel(f"net/device/{name}.rs", f"net/device/{name}.rs")
    p.helpers("rust/helpers/net/device.c")
    p.bind("linux/ethtool.h", "linux/netdevice.h", "linux/rtnetlink.h")
    p.replace("rust/kernel/net/mod.rs", "pub mod msg;\n", "pub mod device;\npub mod msg;\n")
    p.maintainers("RUST [NETWORK DEVICES]", ["rust-for-linux@vger.kernel.org", "netdev@vger.kernel.org"],
                  ["rust/helpers/net/device.c", "rust/kernel/net/device.rs", "rust/kernel/net/device/"])

    p.patch("08-wire")
    p.tree("rust/wire/", DRIVER + "wire/")
    p.maintainers("VIRTIO VSOCK GUEST DRIVER IN RUST",
                  ["virtualization@lists.linux.dev", "netdev@vger.kernel.org", "rust-for-linux@vger.kernel.org"],
                  [DRIVER])

    p.patch("09-connection")
    for name in ("actions", "credit", "connection"):
        p.tree(f"rust/proto/{name}", f"{DRIVER}proto/{name}")

    p.patch("10-endpoint")
    p.tree("rust/proto/endpoint/", DRIVER + "proto/endpoint/")

    p.patch("11-rules")
    p.tree("rust/proto/", DRIVER + "proto/")

    p.patch("12-af-vsock")
    p.tree(EXT + "net/vsock/", DRIVER + "ext/vsock/")
    p.driver(EXT + "net/zerocopy.rs", "ext/zerocopy.rs")
    p.driver(EXT + "module_info.rs", "ext/module_info.rs", THIS_MODULE)
    for name in ("debugfs", "module_param", "time", "trace", "work", "workqueues"):
        p.driver(f"{EXT}{name}.rs", f"ext/{name}.rs")
    p.add(DRIVER + "ext/mod.rs")
    p.own_helpers(DRIVER + "helpers")
    for name in ("rvsock_trace.h", "trace.c", "trace_helpers.h"):
        p.copy(EXT + name, DRIVER + name)
    p.covers("RUST [SOCKET BUFFERS]")

    p.patch("13-queues")
    for name in ("queue/", "trace", "stats", "hash_table", "parameters"):
        p.tree(f"rust/driver/{name}", f"{DRIVER}driver/{name}")

    p.patch("14-connections")
    for name in ("link", "conn/"):
        p.tree(f"rust/driver/{name}", f"{DRIVER}driver/{name}")

    p.patch("15-driver")
    p.tree("rust/driver/", DRIVER + "driver/")
    p.driver("rust/rvsock_main.rs", "rvsock_main.rs", [
        ("// Their items are public to the tests on the host, which compile the same files.\n",
         "// They stand for themselves, as a crate does.\n"),
        ("//! - [`ext`]: what the `kernel` crate lacks. All `unsafe` code is there.\n",
         "//! - [`ext`]: AF_VSOCK as a transport sees it. All `unsafe` code is there.\n"),
        ("// A library: the driver need not use all of it.\n",
         "// All that a transport can have: this one need not use all of it.\n"),
    ])
    p.add(DRIVER + "Makefile")
    p.add(DRIVER + "Kconfig")
    p.add(DRIVER + ".kunitconfig")
    p.before("net/vmw_vsock/Kconfig", "config VIRTIO_VSOCKETS_COMMON\n", 'source "net/vmw_vsock/rvsock/Kconfig"\n\n')
    p.after("net/vmw_vsock/Makefile", "obj-$(CONFIG_VIRTIO_VSOCKETS_COMMON) += vmw_vsock_virtio_transport_common.o\n",
            "obj-$(CONFIG_VIRTIO_VSOCKETS_RUST) += rvsock/\n")
    p.bind("linux/vm_sockets.h", "linux/vsockmon.h", "net/af_vsock.h")
    p.before("rust/bindings/bindings_helper.h", "/*\n * The driver-core Rust code needs to know about some C",
             "#if IS_ENABLED(CONFIG_VIRTIO_VSOCKETS_RUST)\n#include \"../../net/vmw_vsock/rvsock/helpers.h\"\n"
             "#include \"../../net/vmw_vsock/rvsock/trace_helpers.h\"\n#endif\n\n")

    p.patch("16-documentation")
    p.document("Documentation/networking/rvsock.rst", [
        ("Documentation/admin-guide.rst", ["What it says", "Parameters", "Counters", "Memory"]),
        ("Documentation/architecture.rst",
         ["How a packet is sent", "How a packet is received", "Datagrams", "What the device is",
          "Nothing waits for lock_sock()", "When connect() gives up", "The order of the locks", "When the device goes"]),
        ("Documentation/tracing.rst", ["Connections", "Tracepoints", "Why packets are dropped", "Events"]),
    ])
    p.after("Documentation/networking/index.rst", "   rds\n   regulatory\n   representors\n", "   rvsock\n")
    p.covers("VIRTIO VSOCK GUEST DRIVER IN RUST", "Documentation/networking/rvsock.rst")
