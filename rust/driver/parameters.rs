// SPDX-License-Identifier: GPL-2.0

//! The module's parameters: the administrator's word (Documentation/admin-guide.rst).

use crate::ext::{
    mm::{
        order_of,
        PageBlock, //
    },
    module_param::{
        module_param_bool,
        module_param_choice,
        module_param_u32, //
    }, //
};

module_param_u32!(
    rx_pool_kb,
    1024,
    64..=65536,
    0o444,
    "memory of the receive buffers of the device, in KiB"
);
module_param_u32!(
    rx_buffer_order,
    order_of(32 * 1024),
    0..=PageBlock::MAX_ORDER,
    0o444,
    "size of a receive buffer: this power of two, in pages"
);
module_param_u32!(
    mrg_buffer_order,
    0,
    0..=PageBlock::MAX_ORDER,
    0o444,
    "the same for a device that merges receive buffers"
);

module_param_choice!(
    profile,
    ["auto", "ratified", "draft", "shared"],
    0,
    0o444,
    "what feature bits 2 and 3 mean: read from the number of queues, as virtio 1.3 has it, as the drafts of datagrams do, or bit 3 as datagrams on the streams' queues"
);

module_param_u32!(
    buffer_kb,
    0,
    0..=1 << 20,
    0o644,
    "SO_VM_SOCKETS_BUFFER_SIZE of new connections that left it alone, in KiB; 0: the kernel's 256"
);

module_param_bool!(
    cork,
    true,
    0o644,
    "put small writes of a stream together while the device has not yet taken what went before"
);

module_param_bool!(
    interface,
    false,
    0o444,
    "make a network interface vsock%d, down at first: while it is up, its queueing discipline (tc) orders what is sent"
);

module_param_bool!(
    zerocopy,
    true,
    0o644,
    "send MSG_ZEROCOPY from the user's pages; off: always copy, for hosts that cannot take packets in several pieces"
);
