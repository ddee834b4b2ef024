// SPDX-License-Identifier: GPL-2.0

//! Tests of `ext/` in a kernel, against the virtio entropy device, which any machine monitor has.
//!
//! They run when the module is bound to the device, and say `ok` or `not ok` in the log, line by line,
//! with their number first. What they hold on to beyond that, and what is under way when the device is
//! unbound or the module is unloaded, is the second half of the test: run it with KASAN, lockdep and
//! kmemleak.

#![deny(unsafe_code)]

use crate::ext::{
    mm::{
        order_of,
        PageBlock, //
    },
    module_param::module_param_u32,
    sync::{
        new_spinlock_bh,
        RcuArc,
        SpinLockBh, //
    },
    virtio::{
        self,
        virtio_device_table,
        ConfigSpace,
        Handler,
        Notify,
        Virtqueue,
        VqSpec, //
    },
    work::{
        new_delayed_work,
        new_work,
        DelayedWork,
        Where,
        Work,
        Workqueues, //
    },
};
use kernel::{
    device::Core,
    driver::Registration,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        ArcBorrow, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

// The part that does not have to do with sockets, as a sample takes it.
#[path = "../../samples/ext.rs"]
#[allow(dead_code, unsafe_code, unused_imports, unused_macros)]
mod ext;
#[path = "../ext/test_buffer.rs"]
mod test_buffer;

use test_buffer::{
    Counted,
    ALIVE, //
};

module! {
    type: TestModule,
    name: "rust_ext_test",
    authors: ["The rvsock developers"],
    description: "Tests of ext/ against the virtio entropy device",
    license: "GPL",
}

module_param_u32!(fail_probe, 0, 0..=1, 0o644, "let probe fail at its end");

virtio_device_table!(ID_TABLE, MODULE_ID_TABLE, [virtio::DeviceId::new(4)]);

/// What the rounds work on; it outlives the device, on purpose.
static SHARED: RcuArc<Shared> = RcuArc::new();

const REQUESTS: VqSpec = VqSpec {
    name: c"requests",
    callback: true,
};

#[pin_data]
struct Shared {
    #[pin]
    queue: SpinLockBh<Option<Virtqueue<Counted>>>,
    config: Option<ConfigSpace>,
    dev: Option<ARef<virtio::Device>>,
    #[pin]
    notify: SpinLockBh<Option<Notify>>,
    rounds: Atomic<u64>,
    /// Rounds over a queue that has ended. After some of them it is enough.
    dead: Atomic<u64>,
    used: Atomic<u64>,
    interrupts: Atomic<u64>,
    #[pin]
    bh: Work<Shared>,
    #[pin]
    bh_highpri: Work<Shared>,
    #[pin]
    unbound: Work<Shared>,
    #[pin]
    percpu: Work<Shared>,
    #[pin]
    delayed: DelayedWork<Shared>,
    #[pin]
    late: DelayedWork<Shared>,
}

impl Shared {
    fn new(
        queue: Option<Virtqueue<Counted>>,
        config: Option<ConfigSpace>,
        dev: Option<ARef<virtio::Device>>,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                queue <- new_spinlock_bh!(queue, "Shared::queue"),
                config,
                dev,
                notify <- new_spinlock_bh!(None, "Shared::notify"),
                rounds: Atomic::new(0),
                dead: Atomic::new(0),
                used: Atomic::new(0),
                interrupts: Atomic::new(0),
                bh <- new_work!(Self::bh_round, "Shared::bh"),
                bh_highpri <- new_work!(Self::bh_highpri_round, "Shared::bh_highpri"),
                unbound <- new_work!(Self::unbound_round, "Shared::unbound"),
                percpu <- new_work!(Self::percpu_round, "Shared::percpu"),
                delayed <- new_delayed_work!(Self::delayed_round, "Shared::delayed"),
                late <- new_delayed_work!(Self::late, "Shared::late"),
            }),
            GFP_KERNEL,
        )
    }

    /// Uses the queue in every way, whether the device is there or not.
    fn round(&self) {
        self.rounds.add(1u64, Relaxed);
        let mut slot = self.queue.lock();
        let Some(queue) = &mut *slot else { return };
        queue.disable_cb();
        while queue.get_used().is_some() {
            self.used.add(1u64, Relaxed);
        }
        while let Ok(buffer) = Counted::new(2, GFP_ATOMIC) {
            if queue.add(buffer).is_err() {
                break;
            }
        }
        let notify = queue.kick_prepare();
        let _ = queue.enable_cb();
        if queue.num_free() == 0 && queue.is_broken() {
            self.dead.add(1u64, Relaxed);
        }
        drop(slot);
        if let Some(notify) = notify {
            notify.notify();
        }
    }

    // Each queues the next, beyond the end of the queue, and up to that of the workqueues.
    fn bh_round(self: Arc<Self>) {
        self.round();
        self.unbound.queue(&self, Where::Unbound);
    }

    fn unbound_round(self: Arc<Self>) {
        self.round();
        if let Some(config) = &self.config {
            let _ = config.read_u64(0);
        }
        self.percpu.queue(&self, Where::Percpu);
    }

    fn percpu_round(self: Arc<Self>) {
        self.round();
        self.bh_highpri.queue(&self, Where::BhHighpri);
    }

    fn bh_highpri_round(self: Arc<Self>) {
        self.round();
        if self.dead.load(Relaxed) < 100 {
            self.delayed.requeue_in(&self, 1);
        }
    }

    fn delayed_round(self: Arc<Self>) {
        self.round();
        self.bh.queue(&self, Where::Bh);
    }

    fn late(self: Arc<Self>) {
        pr_info!(
            "the late work ran after {} rounds\n",
            self.rounds.load(Relaxed)
        );
        if let Some(dev) = &self.dev {
            self.test_restart(dev);
        }
    }

    /// Resets the device, which goes on afterwards.
    fn test_restart(&self, dev: &virtio::Device) {
        let mut report = Report(100);
        report.check(
            virtio::Adapter::<OtherDriver>::restart(dev, |_| true) == Err(ENODEV),
            "the device of another driver, with data of the same type, is not restarted",
        );
        report.check(
            virtio::Adapter::<TestDriver>::restart(dev, |_| false) == Err(EAGAIN),
            "nor one that is not wanted",
        );
        report.check(
            virtio::Adapter::<TestDriver>::restart(dev, |_| true).is_ok(),
            "a device is restarted",
        );
        // One round follows the other all the time.
        let before = self.used.load(Relaxed);
        for _ in 0..2000 {
            if self.used.load(Relaxed) > before {
                break;
            }
            fsleep(Delta::from_millis(1));
        }
        report.check(
            self.used.load(Relaxed) > before,
            "and used, though its driver did not say that it is ready",
        );
    }
}

struct Interrupts;

impl Handler for Interrupts {
    fn used(self: ArcBorrow<'_, Self>, _index: usize) {
        SHARED.with(|shared| shared.interrupts.add(1u64, Relaxed));
        if let Some(shared) = SHARED.load() {
            shared.bh.queue(&shared, Where::Bh);
        }
    }
}

/// Says how a test went.
struct Report(u32);

impl Report {
    fn check(&mut self, ok: bool, what: &str) {
        self.0 = self.0.saturating_add(1);
        let verdict = if ok { "ok" } else { "not ok" };
        pr_info!("{} {} {}\n", verdict, self.0, what);
    }
}

fn test_pages(report: &mut Report) -> Result {
    let order = order_of(32 * 1024);
    let size = PAGE_SIZE << order;
    let mut block = PageBlock::alloc(order, GFP_KERNEL)?;
    report.check(
        block.len() == size && size >= 32 * 1024,
        "a block for 32 KiB has room for them",
    );
    let mut two = [0; 2];
    report.check(
        block.copy_from(0, &mut two) == Err(EINVAL),
        "what nobody has written cannot be read",
    );
    report.check(
        block.copy_to(8, b"ab").is_ok()
            && block.copy_from(6, &mut two).is_ok()
            && two == [0; 2]
            && block.copy_from(9, &mut two) == Err(EINVAL),
        "nor what is beyond that, and what is before it is zero",
    );
    report.check(
        block.copy_to(size - 2, b"ab").is_ok() && block.copy_from(size - 2, &mut two).is_ok(),
        "its last bytes can be copied",
    );
    report.check(two == *b"ab", "and are what was written");
    report.check(
        block.copy_to(size - 1, b"ab") == Err(EINVAL),
        "not one byte beyond",
    );
    report.check(
        block.copy_from(usize::MAX, &mut two) == Err(EINVAL),
        "nor an offset that overflows",
    );
    report.check(
        block.copy_to(size, b"").is_ok(),
        "nothing can be copied at the end",
    );
    report.check(
        PageBlock::alloc(PageBlock::MAX_ORDER + 1, GFP_KERNEL).is_err(),
        "an order that is too high is refused",
    );
    report.check(
        PageBlock::alloc(0, GFP_ATOMIC).is_ok_and(|block| block.len() == PAGE_SIZE),
        "a page",
    );
    Ok(())
}

fn test_queue(dev: &virtio::Device<Core<'_>>, report: &mut Report) -> Result {
    report.check(
        matches!(dev.find_vqs(Arc::new(Interrupts, GFP_KERNEL)?, [REQUESTS; 2]), Err(e) if e == EINVAL),
        "two queues are one too many",
    );
    report.check(!dev.delete_vqs(), "a failure leaves no queues");
    let [queue] = dev.find_vqs(Arc::new(Interrupts, GFP_KERNEL)?, [REQUESTS])?;
    report.check(
        matches!(dev.find_vqs(Arc::new(Interrupts, GFP_KERNEL)?, [REQUESTS]), Err(e) if e == EBUSY),
        "queues are found once",
    );
    let mut queue = Virtqueue::<Counted>::new(queue);
    report.check(
        queue.size() > 0 && queue.num_free() == queue.size(),
        "it is empty",
    );
    let many = queue.add(Counted::new(queue.size() + 1, GFP_KERNEL)?);
    report.check(
        matches!(many, Err(e) if e.error == E2BIG && e.buffer.len() > 0),
        "more segments than descriptors come back",
    );
    let none = queue.add(Counted::new(0, GFP_KERNEL)?);
    report.check(
        matches!(none, Err(e) if e.error == EINVAL),
        "no segments come back",
    );
    let too_many = queue.add(Counted::new(20, GFP_KERNEL)?);
    report.check(
        matches!(too_many, Err(e) if e.error == EINVAL || e.error == E2BIG),
        "more than the type says come back",
    );
    report.check(ALIVE.load(Relaxed) == 0, "and none is lost");
    let mut added = 0;
    let error = loop {
        match queue.add(Counted::new(3, GFP_KERNEL)?) {
            Ok(()) => added += 1,
            Err(e) => break e.error,
        }
    };
    report.check(
        error == ENOSPC && added > 0 && ALIVE.load(Relaxed) == added,
        "a queue takes what it has room for",
    );
    report.check(
        queue.get_used().is_none(),
        "nothing is used before the device is ready",
    );
    let kick = queue.kick_prepare();
    report.check(dev.delete_vqs(), "queues are deleted");
    report.check(
        matches!(dev.find_vqs(Arc::new(Interrupts, GFP_KERNEL)?, [REQUESTS]), Err(e) if e == EIO)
            && dev.ready() == Err(EIO),
        "a device that was reset has no features, and so no queues",
    );
    report.check(ALIVE.load(Relaxed) == 0, "and what was in them dropped");
    if let Some(kick) = kick {
        kick.notify();
    }
    report.check(
        queue
            .add(Counted::new(1, GFP_KERNEL)?)
            .is_err_and(|e| e.error == EIO)
            && queue.get_used().is_none()
            && queue.is_broken()
            && queue.num_free() == 0
            && queue.enable_cb(),
        "a dead queue does nothing",
    );
    report.check(
        queue.config().read_u64(0) == Err(EIO),
        "nor its configuration space",
    );
    let features = dev.features();
    report.check(
        dev.renegotiate(0).is_ok() && dev.features() == features,
        "features can be negotiated again, those of the transport stay",
    );
    let [queue] = dev.find_vqs(Arc::new(Interrupts, GFP_KERNEL)?, [REQUESTS])?;
    let mut queue = Virtqueue::<KBox<[u8; 0]>>::new(queue);
    report.check(
        matches!(queue.add(KBox::new([], GFP_KERNEL)?), Err(e) if e.error == EINVAL),
        "a buffer of no bytes has no segments",
    );
    dev.delete_vqs();
    dev.renegotiate(0)?;
    report.check(
        !dev.has_feature(0) && !dev.has_feature(64),
        "the rest is not there",
    );
    report.check(
        dev.has_config() || dev.config_u64(0) == Err(ENODEV),
        "no configuration space, no configuration",
    );
    Ok(())
}

struct TestDriver;

#[vtable]
impl virtio::Driver for TestDriver {
    const ID_TABLE: virtio::IdTable = &ID_TABLE;
    const FEATURES: &'static [u32] = &[];
    type Data = Shared;

    fn validate(features: &mut virtio::Features<'_>) -> Result {
        let before = features.bits();
        let mut is_refused = |bit| features.clear(bit) == Err(EINVAL);
        let refused = (28..42).all(&mut is_refused) && (64..70).all(is_refused);
        Report(0).check(
            refused && features.bits() == before,
            "the bits of the transport are not the driver's to take back",
        );
        features.clear(63)
    }

    fn probe(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Shared>> {
        let mut report = Report(0);
        test_pages(&mut report)?;
        test_queue(dev, &mut report)?;

        let [queue] = dev.find_vqs(Arc::new(Interrupts, GFP_KERNEL)?, [REQUESTS])?;
        let config = Some(queue.config());
        let shared = Shared::new(Some(Virtqueue::new(queue)), config, Some(dev.into()))?;
        let other = Shared::new(None, None, None)?;
        report.check(
            !other.bh.queue(&shared, Where::Bh),
            "work of another object is refused",
        );
        report.check(
            shared.late.queue_in(&shared, 1000) && !shared.late.queue_in(&shared, 1),
            "delayed work is queued once",
        );
        report.check(
            shared.late.cancel() && !shared.late.cancel_sync(),
            "and cancelled once",
        );
        report.check(
            shared.late.requeue_in(&shared, 1000) && !shared.late.requeue_in(&shared, 100),
            "and can be moved",
        );
        if let Some(queue) = &mut *shared.queue.lock() {
            let _ = queue.add(Counted::new(1, GFP_ATOMIC)?);
            *shared.notify.lock() = queue.kick_prepare();
        }
        if fail_probe.get() != 0 {
            pr_info!("probe is to fail\n");
            drop(SHARED.replace(Some(shared)));
            return Err(EINVAL);
        }
        dev.ready()?;
        drop(SHARED.replace(Some(shared.clone())));
        if let Some(notify) = shared.notify.lock().take() {
            notify.notify();
        }
        shared.bh.queue(&shared, Where::Bh);
        pr_info!("1..{}\n", report.0);
        Ok(shared)
    }

    // It stops nothing: rounds go on over a queue that is gone, for a while.
    fn remove(_dev: &virtio::Device<Core<'_>>, shared: &Arc<Shared>) {
        pr_info!(
            "removed after {} rounds, {} interrupts, {} buffers\n",
            shared.rounds.load(Relaxed),
            shared.interrupts.load(Relaxed),
            shared.used.load(Relaxed)
        );
    }

    fn freeze(_dev: &virtio::Device<Core<'_>>, _shared: &Arc<Shared>) -> Result {
        Ok(())
    }

    fn restore(dev: &virtio::Device<Core<'_>>, shared: &Arc<Shared>) -> Result {
        let [queue] = dev.find_vqs(Arc::new(Interrupts, GFP_KERNEL)?, [REQUESTS])?;
        let old = shared.queue.lock().replace(Virtqueue::new(queue));
        drop(old);
        Ok(())
    }

    fn reset_prepare(dev: &virtio::Device<Core<'_>>, shared: &Arc<Shared>) -> Result {
        Self::freeze(dev, shared)
    }

    fn reset_done(dev: &virtio::Device<Core<'_>>, shared: &Arc<Shared>) -> Result {
        Self::restore(dev, shared)
    }

    fn shutdown(_dev: &virtio::Device<Core<'_>>, _shared: &Arc<Shared>) {}
}

/// A driver that has nothing but the same type of data.
struct OtherDriver;

#[vtable]
impl virtio::Driver for OtherDriver {
    const ID_TABLE: virtio::IdTable = &ID_TABLE;
    const FEATURES: &'static [u32] = &[];
    type Data = Shared;

    fn probe(_dev: &virtio::Device<Core<'_>>) -> Result<Arc<Shared>> {
        Err(ENODEV)
    }

    fn remove(_dev: &virtio::Device<Core<'_>>, _shared: &Arc<Shared>) {}

    fn reset_prepare(_dev: &virtio::Device<Core<'_>>, _shared: &Arc<Shared>) -> Result {
        Ok(())
    }

    fn reset_done(_dev: &virtio::Device<Core<'_>>, _shared: &Arc<Shared>) -> Result {
        Ok(())
    }
}

/// Fields drop in this order. Work goes on until the workqueues end.
#[pin_data]
struct TestModule {
    #[pin]
    _driver: Registration<virtio::Adapter<TestDriver>>,
    _workqueues: Workqueues,
    _last: Last,
}

/// What is left when all is over.
struct Last;

impl Drop for Last {
    fn drop(&mut self) {
        drop(SHARED.replace(None));
        let alive = ALIVE.load(Relaxed);
        let verdict = if alive == 0 { "ok" } else { "not ok" };
        pr_info!("{} last {} buffers are left\n", verdict, alive);
    }
}

impl kernel::InPlaceModule for TestModule {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _last: Last,
            _workqueues: Workqueues::new::<Self>()?,
            _driver <- Registration::new(<Self as kernel::ModuleMetadata>::NAME, module),
        })
    }
}
