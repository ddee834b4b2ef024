// SPDX-License-Identifier: GPL-2.0

//! A driver for the virtio entropy device, on `ext/` alone.
//!
//! The entropy device is the simplest that virtio knows: it has one queue, and fills each buffer that
//! it finds there with random bytes. So this shows what any driver of a virtio device does, and little
//! else: find the queue, give buffers to the device, take them back in a softirq after it has
//! interrupted, and stop. There is no `unsafe` in it.
//!
//! ```text
//!   used buffer -> interrupt -> used() -> work in a softirq -> collect() -> full -> show()
//!        ^                                                                            |
//!        +------------------------------------ post() <-------------------------------+
//! ```
//!
//! Each read of `/sys/module/rust_virtio_rng/parameters/entropy` gives 64 bytes, in hexadecimal. (A
//! `kernel::miscdevice` would be the natural place, but it does not keep the module loaded while a file
//! is open; sysfs does.)
//!
//! The kernel's own driver, `virtio-rng`, must not have the device: the first one that is loaded gets
//! it.

#![deny(unsafe_code)]

use crate::ext::{
    module_param::{
        module_param_text,
        module_param_u32,
        Page, //
    },
    sync::{
        new_spinlock_bh,
        RcuArc,
        SpinLockBh, //
    },
    virtio::{
        self,
        virtio_device_table,
        Handler,
        Virtqueue,
        VqSpec, //
    },
    work::{
        new_work,
        Where,
        Work,
        Workqueues, //
    },
};
use core::fmt::Write;
use kernel::{
    device::Core,
    driver::Registration,
    new_condvar,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        CondVar, //
    }, //
};

#[allow(dead_code, unsafe_code, unused_imports, unused_macros)]
mod ext;

module! {
    type: RngModule,
    name: "rust_virtio_rng",
    authors: ["The rvsock developers"],
    description: "Sample driver for the virtio entropy device",
    license: "GPL",
}

module_param_u32!(
    buffers,
    4,
    1..=64,
    0o444,
    "buffers of 64 bytes that the device fills in advance"
);

module_param_text!(entropy, show, 0o400, "64 random bytes");

/// `VIRTIO_ID_RNG`.
const ID_RNG: u32 = 4;

virtio_device_table!(ID_TABLE, MODULE_ID_TABLE, [virtio::DeviceId::new(ID_RNG)]);

/// What the device fills.
type Buffer = KBox<[u8; 64]>;

/// The device that [`show`] finds.
static DEVICE: RcuArc<Rng> = RcuArc::new();

/// An entropy device.
#[pin_data]
struct Rng {
    #[pin]
    inner: SpinLockBh<Inner>,
    /// There is a full buffer, or there is no queue any more.
    #[pin]
    changed: CondVar,
    #[pin]
    work: Work<Rng>,
}

struct Inner {
    /// None unless the device runs.
    queue: Option<Virtqueue<Buffer>>,
    /// What the device has filled, and how far.
    full: KVec<(Buffer, usize)>,
}

impl Rng {
    fn new() -> Result<Arc<Self>> {
        let full = KVec::with_capacity(buffers.get() as usize, GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                inner <- new_spinlock_bh!(Inner { queue: None, full }, "Rng::inner"),
                changed <- new_condvar!("Rng::changed"),
                work <- new_work!(Self::collect, "Rng::work"),
            }),
            GFP_KERNEL,
        )
    }

    /// Finds the queue, and gives buffers to the device.
    fn start(self: &Arc<Self>, dev: &virtio::Device<Core<'_>>) -> Result {
        let spec = VqSpec {
            name: c"requests",
            callback: true,
        };
        let [queue] = dev.find_vqs(self.clone(), [spec])?;
        let mut queue = Virtqueue::new(queue);
        let have = self.inner.lock().full.len();
        for _ in have..(buffers.get() as usize).min(queue.size()) {
            queue.add(KBox::new([0; 64], GFP_KERNEL)?)?;
        }
        dev.ready()?;
        queue.kick();
        self.inner.lock().queue = Some(queue);
        // What was used before the queue was there to look at.
        self.work.queue(self, Where::Bh);
        Ok(())
    }

    /// Stops to use the device. Readers that wait get `ENODEV`.
    fn stop(&self, dev: &virtio::Device<Core<'_>>) {
        let queue = self.inner.lock().queue.take();
        drop(queue);
        // No interrupts after this; the buffers that the device had are dropped.
        dev.delete_vqs();
        self.work.cancel_sync();
        self.changed.notify_all();
    }

    /// Takes the buffers that the device has filled. Runs in a softirq.
    fn collect(self: Arc<Self>) {
        let mut inner = self.inner.lock();
        let Inner { queue, full } = &mut *inner;
        let Some(queue) = queue else {
            return;
        };
        loop {
            queue.disable_cb();
            while let Some(filled) = queue.get_used() {
                // There is room for all. Dropping one would do no harm.
                let _ = full.push_within_capacity(filled);
            }
            if queue.enable_cb() {
                break;
            }
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// Gives a buffer back to the device, if there still is one.
    fn post(&self, mut buffer: Buffer) {
        // Nobody reads the same bytes twice, whatever the device says that it has written.
        buffer.fill(0);
        let mut inner = self.inner.lock();
        let Some(queue) = &mut inner.queue else {
            return;
        };
        // It came from this queue, so there is room for it, unless the device is broken.
        let notify = match queue.add(buffer) {
            Ok(()) => queue.kick_prepare(),
            Err(_) => None,
        };
        drop(inner);
        if let Some(notify) = notify {
            notify.notify();
        }
    }

    /// Waits for a buffer that is full.
    fn take(&self) -> Result<(Buffer, usize)> {
        let mut inner = self.inner.lock();
        loop {
            if inner.queue.is_none() {
                return Err(ENODEV);
            }
            if let Some(filled) = inner.full.pop() {
                return Ok(filled);
            }
            if self.changed.wait_interruptible(&mut inner) {
                return Err(ERESTARTSYS);
            }
        }
    }
}

impl Handler for Rng {
    fn used(self: ArcBorrow<'_, Self>, _index: usize) {
        self.work.queue(&self, Where::Bh);
    }
}

struct RngDriver;

#[vtable]
impl virtio::Driver for RngDriver {
    const ID_TABLE: virtio::IdTable = &ID_TABLE;
    const FEATURES: &'static [u32] = &[];
    type Data = Rng;

    fn probe(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Rng>> {
        let rng = Rng::new()?;
        rng.start(dev)?;
        drop(DEVICE.replace(Some(rng.clone())));
        dev_info!(dev, "ready\n");
        Ok(rng)
    }

    fn remove(dev: &virtio::Device<Core<'_>>, rng: &Arc<Rng>) {
        drop(DEVICE.replace(None));
        rng.stop(dev);
    }

    fn freeze(dev: &virtio::Device<Core<'_>>, rng: &Arc<Rng>) -> Result {
        rng.stop(dev);
        Ok(())
    }

    fn restore(dev: &virtio::Device<Core<'_>>, rng: &Arc<Rng>) -> Result {
        rng.start(dev)
    }

    fn reset_prepare(dev: &virtio::Device<Core<'_>>, rng: &Arc<Rng>) -> Result {
        rng.stop(dev);
        Ok(())
    }

    fn reset_done(dev: &virtio::Device<Core<'_>>, rng: &Arc<Rng>) -> Result {
        rng.start(dev)
    }
}

/// What reading the parameter `entropy` gives.
fn show(out: &mut Page<'_>) -> Result {
    let rng = DEVICE.load().ok_or(ENODEV)?;
    let (buffer, len) = rng.take()?;
    for byte in buffer.get(..len).unwrap_or_default() {
        write!(out, "{byte:02x}")?;
    }
    writeln!(out)?;
    rng.post(buffer);
    Ok(())
}

/// Fields drop in this order: the workqueues end when nobody queues work any more.
#[pin_data]
struct RngModule {
    #[pin]
    _driver: Registration<virtio::Adapter<RngDriver>>,
    _workqueues: Workqueues,
}

impl kernel::InPlaceModule for RngModule {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _workqueues: Workqueues::new::<Self>()?,
            _driver <- Registration::new(<Self as kernel::ModuleMetadata>::NAME, module),
        })
    }
}
