// SPDX-License-Identifier: GPL-2.0

//! Rust virtio driver sample, for the entropy device.
//!
//! The entropy device is the simplest that virtio knows: it has one queue, and fills each buffer that
//! it finds there with random bytes. The driver gives it one, and says how many bytes came back,
//! whenever that is.
//!
//! To make this driver probe, QEMU must be run with `-device virtio-rng-pci`.

use kernel::{
    device::Core,
    prelude::*,
    sync::{
        new_spinlock_irq,
        Arc,
        ArcBorrow,
        SpinLockIrq, //
    },
    virtio::{
        self,
        Handler,
        Virtqueue,
        VqSpec, //
    }, //
};

/// `VIRTIO_ID_RNG`.
const ID_RNG: u32 = 4;

#[pin_data]
struct Entropy {
    /// None until the device has its buffer.
    #[pin]
    queue: SpinLockIrq<Option<Virtqueue<KBox<[u8; 64]>>>>,
}

impl Entropy {
    /// Takes back what the device has used.
    fn take(&self) {
        if let Some(queue) = &mut *self.queue.lock() {
            while let Some((_bytes, len)) = queue.get_used() {
                pr_info!("{len} random bytes\n");
            }
        }
    }
}

impl Handler for Entropy {
    fn used(self: ArcBorrow<'_, Self>, _index: usize) {
        self.take();
    }
}

struct SampleDriver;

kernel::virtio_device_table!(
    ID_TABLE,
    MODULE_ID_TABLE,
    [virtio::DeviceId::new(ID_RNG)]
);

#[vtable]
impl virtio::Driver for SampleDriver {
    const ID_TABLE: virtio::IdTable = &ID_TABLE;
    const FEATURES: &'static [u32] = &[];
    type Data = Entropy;

    fn probe(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Entropy>> {
        let entropy = Arc::pin_init(
            pin_init!(Entropy {
                queue <- new_spinlock_irq!(None),
            }),
            GFP_KERNEL,
        )?;
        let spec = VqSpec {
            name: c"requests",
            callback: true,
        };
        let [queue] = dev.find_vqs(entropy.clone(), [spec])?;
        let mut queue = Virtqueue::new(queue);

        queue.add(KBox::new([0u8; 64], GFP_KERNEL)?)?;
        dev.ready()?;
        queue.kick();
        *entropy.queue.lock() = Some(queue);
        // It may have been used before the handler could find the queue.
        entropy.take();
        Ok(entropy)
    }

    fn remove(dev: &virtio::Device<Core<'_>>, _entropy: &Arc<Entropy>) {
        dev_info!(dev, "Remove Rust virtio driver sample.\n");
    }
}

#[pin_data]
struct SampleModule {
    #[pin]
    _driver: kernel::driver::Registration<virtio::Adapter<SampleDriver>>,
}

impl kernel::InPlaceModule for SampleModule {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _driver <- kernel::driver::Registration::new(
                <Self as kernel::ModuleMetadata>::NAME,
                module,
            ),
        })
    }
}

module! {
    type: SampleModule,
    name: "rust_driver_virtio",
    authors: ["The rvsock developers"],
    description: "Rust virtio driver sample",
    license: "GPL",
}
