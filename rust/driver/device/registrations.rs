// SPDX-License-Identifier: GPL-2.0

//! What a device makes known to the kernel: SOCK_DGRAM, and a network interface.

use super::Vsock;
use crate::{
    driver::{
        dgram,
        interface::Interface,
        parameters, //
    },
    ext::{
        net::vsock,
        virtio, //
    }, //
};
use kernel::{
    device::Core,
    prelude::*, //
};

impl Vsock {
    /// Whether SOCK_DGRAM is ours.
    ///
    /// # Context
    ///
    /// May sleep. Takes `Vsock::registration`.
    pub(in crate::driver) fn has_registered_datagrams(&self) -> bool {
        self.registration.lock().is_some()
    }

    /// Makes SOCK_DGRAM exist no longer.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Vsock::registration`.
    pub(super) fn unregister_datagrams(&self) {
        drop(self.registration.lock().take());
    }

    /// Makes SOCK_DGRAM exist, if the device has datagrams (D9).
    ///
    /// Whether or not it can, streams work.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Vsock::registration`.
    pub(super) fn register_datagrams(&self) {
        if !self.link.profile.dgram {
            return;
        }
        match vsock::Registration::new(&dgram::virtio_dgram_transport, vsock::Role::Datagrams) {
            Ok(registration) => *self.registration.lock() = Some(registration),
            Err(error) => {
                let reason = if error == EBUSY {
                    "another transport has it (vmw_vsock_vmci_transport?)"
                } else {
                    "registration was interrupted; bind the device again"
                };
                pr_warn!("no SOCK_DGRAM: {reason}\n");
            }
        }
    }

    /// Makes the network interface, if it is asked for. Whether or not it can, sockets work.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Vsock::interface`, and RTNL.
    pub(super) fn register_interface(&self, dev: &virtio::Device<Core<'_>>) {
        if !parameters::interface.get() {
            return;
        }
        match Interface::register(&self.link, dev.as_ref()) {
            Ok(registration) => *self.interface.lock() = Some(registration),
            Err(error) => pr_warn!("no network interface: {error:?}\n"),
        }
    }

    /// Ends the network interface. What waits for its scheduler goes without.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Vsock::interface`, and RTNL.
    pub(super) fn unregister_interface(&self) {
        drop(self.interface.lock().take());
    }
}
