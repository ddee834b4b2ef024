// SPDX-License-Identifier: GPL-2.0

//! The driver on its bus: which devices it takes, and what they are (Documentation/datagrams.rst).

use super::{
    lifecycle::Found,
    Vsock, //
};
use crate::{
    driver::{
        parameters,
        transport, //
    },
    ext::virtio::{
        self,
        virtio_device_table, //
    },
    proto::{
        after_no_five_queues,
        first_attempt,
        Choice,
        Dialect,
        Feature,
        Profile,
        Queues, //
    },
    wire::Config, //
};
use kernel::{
    device::Core,
    fmt,
    prelude::*,
    sync::{
        atomic::{
            AtomicFlag,
            Full,
            Release, //
        },
        Arc, //
    }, //
};

/// `VIRTIO_ID_VSOCK`.
const ID_VSOCK: u32 = 19;

virtio_device_table!(ID_TABLE, MODULE_ID_TABLE, [virtio::DeviceId::new(ID_VSOCK)]);

/// There is a device, running or not; there is never a second (H5).
static TAKEN: AtomicFlag = AtomicFlag::new(false);

/// The driver of virtio socket devices.
pub(crate) struct Driver;

#[vtable]
impl virtio::Driver for Driver {
    const ID_TABLE: virtio::IdTable = &ID_TABLE;
    const FEATURES: &'static [u32] = &[
        Feature::Stream.bit(),
        Feature::Seqpacket.bit(),
        Feature::Dgram.bit(),
        Feature::MrgRxbuf.bit(),
    ];
    const CONFIG_LEN: usize = Config::LEN;
    type Data = Vsock;

    fn validate(features: &mut virtio::Features<'_>) -> Result {
        let accept = first_attempt(features.bits(), choice()).accept;
        for feature in Feature::ALL {
            if !feature.is_in(accept) {
                features.clear(feature.bit())?;
            }
        }
        Ok(())
    }

    fn probe(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Vsock>> {
        if TAKEN.cmpxchg(false, true, Full).is_err() {
            pr_err!(
                "virtio{}: there is a virtio socket device already, and only one is supported\n",
                dev.index()
            );
            return Err(EBUSY);
        }
        let result = Self::set_up(dev);
        if result.is_err() {
            TAKEN.store(false, Release);
        }
        result
    }

    fn remove(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) {
        data.unregister_datagrams();
        data.unregister_interface();
        data.stop(dev);
        // Release: the next device finds all of this one's end.
        TAKEN.store(false, Release);
    }

    fn shutdown(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) {
        data.stop(dev);
    }

    fn freeze(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) -> Result {
        data.stop(dev);
        Ok(())
    }

    fn restore(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) -> Result {
        data.resume(dev)
    }

    fn reset_prepare(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) -> Result {
        data.stop(dev);
        Ok(())
    }

    fn reset_done(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) -> Result {
        data.resume(dev)
    }
}

/// The administrator's word on what the feature bits mean.
fn choice() -> Choice {
    match parameters::profile.get() {
        1 => Choice::Ratified,
        2 => Choice::Draft,
        3 => Choice::Shared,
        _ => Choice::Auto,
    }
}

impl Driver {
    /// As [`try_to_set_up`](Self::try_to_set_up), and puts into the log why it failed.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// As of [`try_to_set_up`](Self::try_to_set_up).
    fn set_up(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Vsock>> {
        let result = Self::try_to_set_up(dev);
        if let Err(error) = &result {
            pr_err!("virtio{}: cannot be used: {error:?}\n", dev.index());
        }
        result
    }

    /// Finds out what the device is, starts it, and has sockets find it.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// As of [`negotiate`](Self::negotiate), [`transport::register`], and [`Vsock::start`].
    fn try_to_set_up(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Vsock>> {
        let (vsock, found) = Self::negotiate(dev)?;
        transport::register().inspect_err(|_| vsock.stop(dev))?;
        vsock.start(dev, found).inspect_err(|_| vsock.stop(dev))?;
        // Before anything slow: sockets that outlived the device work already.
        vsock.register_datagrams();
        vsock.register_interface(dev);
        vsock.announce(dev);
        Ok(vsock)
    }

    /// Finds out what the device is, by the number of its queues.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// - `ENODEV`: the device offers no type of socket, or the module is being unloaded.
    /// - `ENOMEM`: no memory.
    /// - Others as of [`Vsock::find_queues`] and [`renegotiate`](virtio::Device::renegotiate).
    fn negotiate(dev: &virtio::Device<Core<'_>>) -> Result<(Arc<Vsock>, Found)> {
        let (offered, choice) = (dev.features(), choice());
        let mut attempt = first_attempt(offered, choice);
        loop {
            let profile = attempt.profile();
            if profile.is_useless() {
                pr_err!("the device offers no type of socket (features {offered:#x})\n");
                return Err(ENODEV);
            }
            let vsock = Vsock::new(profile, dev)?;
            match vsock.find_queues(dev) {
                Ok(found) => return Ok((vsock, found)),
                Err(error) => {
                    let next = (attempt.queues == Queues::Five)
                        .then(|| after_no_five_queues(offered, choice))
                        .flatten();
                    attempt = next.ok_or(error)?;
                    dev.renegotiate(attempt.accept)?;
                }
            }
        }
    }
}

impl Vsock {
    /// Writes what was negotiated into the log, as one line.
    fn announce(&self, dev: &virtio::Device<Core<'_>>) {
        let sizes = self.streams.rx.sizes();
        pr_info!(
            "virtio{}: guest CID {}, features {:#x} ({}:{}), {} queues, rx {} deep with {} buffers of {} bytes, tx {} deep\n",
            dev.index(),
            self.link.cid(),
            self.features,
            self.dialect(),
            Offers(&self.link.profile),
            self.link.profile.queues.count(),
            sizes.queue,
            sizes.buffers,
            sizes.buffer_bytes,
            self.link.streams.tx().size(),
        );
    }

    /// The reading of the feature bits, as users know it.
    pub(in crate::driver) fn dialect(&self) -> &'static str {
        match self.link.profile.dialect {
            Dialect::Ratified => "ratified",
            Dialect::Draft => "draft",
            Dialect::Shared => "shared",
        }
    }
}

/// What a device offers, each after a space.
pub(in crate::driver) struct Offers<'a>(pub(in crate::driver) &'a Profile);

impl fmt::Display for Offers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let profile = self.0;
        for (offered, name) in [
            (profile.stream, "stream"),
            (profile.seqpacket, "seqpacket"),
            (profile.dgram, "dgram"),
            (profile.mrg_rxbuf, "mrg_rxbuf"),
            (profile.no_implied_stream, "no_implied_stream"),
        ] {
            if offered {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}
