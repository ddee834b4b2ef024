// SPDX-License-Identifier: GPL-2.0

//! Tests of `ext/` in a kernel, on a virtio socket device and on sockets: what is misused says so.
//!
//! It is a transport, and a driver that looks at the device's configuration space and no more. Programs
//! connect to CID 2 and send; what they meet depends on the port. Each test says `ok` or `not ok` in the log,
//! with its name; tools/lab/src/suites/ext.rs has the programs, and the names.

#![deny(unsafe_code)]

use crate::ext::{
    error::NetError,
    mm::PageBlock,
    net::{
        device::{
            Token,
            Turn, //
        },
        msg::Msg,
        skbuff::{
            Growing,
            SkBuff, //
        },
        vsock::{
            self,
            declare_vsock_transport,
            Addr,
            NewSock,
            Releasing,
            Serves,
            Transport,
            UserOwned,
            VsockSock,
            WeakSock, //
        },
        zerocopy::ZeroCopy, //
    },
    sync::RcuArc,
    virtio::{
        self,
        virtio_device_table, //
    },
    work::{
        new_work,
        Where,
        Work,
        Workqueues, //
    }, //
};
use kernel::{
    device::Core,
    driver::Registration,
    prelude::*,
    sync::{
        atomic::{
            AtomicFlag,
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

#[path = "../ext/mod.rs"]
#[allow(dead_code, unreachable_pub, unsafe_code, unused_imports, unused_macros)]
mod ext;

module! {
    type: NetTest,
    name: "rust_net_test",
    authors: ["The rvsock developers"],
    description: "Tests of ext/ on sockets",
    license: "GPL",
}

/// A connection to this port is established, and fails at once.
const FAILS: u32 = 1;
/// A connection to any other is established.
const HEADER: usize = 44;

declare_vsock_transport! {
    /// Found by nothing.
    rust_net_test_transport: connections::<TestTransport>
}

virtio_device_table!(ID_TABLE, MODULE_ID_TABLE, [virtio::DeviceId::new(19)]);

/// A turn that is charged to a socket which may be closed meanwhile, until another connects.
static KEPT: RcuArc<Turn> = RcuArc::new();

/// Says how a test went.
fn check(ok: bool, what: &str) {
    let verdict = if ok { "ok" } else { "not ok" };
    pr_info!("{}: {}\n", verdict, what);
}

/// What becomes of a socket.
struct Sock {
    way: WeakSock,
}

struct TestTransport;

impl Serves for TestTransport {
    type Socket = Sock;

    fn init(_sk: &NewSock<'_>, way: WeakSock, _listener: Option<&VsockSock>) -> Result<Arc<Sock>> {
        check(
            way.upgrade().is_none(),
            "a way leads nowhere before its socket is served",
        );
        Ok(Arc::new(Sock { way }, GFP_KERNEL)?)
    }

    fn destruct(sock: Arc<Sock>) {
        check(
            KEPT.is_empty(),
            "a socket's memory is there as long as a turn of it",
        );
        check(
            sock.way.upgrade().is_none(),
            "nor once it is served no longer",
        );
    }

    fn release(sock: ArcBorrow<'_, Sock>, sk: Releasing<'_>) {
        // Found by nobody, if another transport is to serve it: then it goes with the data.
        let _ = sock.way.own_or_defer(|_| {});
        let sk = sk.linger();
        sk.disconnect(false);
        sk.remove_from_tables();
    }

    fn deferred(_sock: ArcBorrow<'_, Sock>, sk: &vsock::OwnedSock<'_>) {
        if sk.set_connected() && sk.remote_addr().port == FAILS {
            sk.fail(NetError::ConnReset.into());
        }
    }

    fn local_cid() -> u32 {
        3
    }
}

impl Transport for TestTransport {
    const ZEROCOPY: bool = true;

    fn connect(sock: ArcBorrow<'_, Sock>, _sk: &UserOwned<'_>) -> Result {
        drop(KEPT.replace(None));
        // The rest when connect() waits.
        sock.way.own_or_defer(|_| {})
    }

    fn cancel(_sock: ArcBorrow<'_, Sock>, _sk: &UserOwned<'_>) -> Result {
        Ok(())
    }

    fn stream_enqueue(
        _sock: ArcBorrow<'_, Sock>,
        sk: &UserOwned<'_>,
        msg: &mut Msg,
        len: usize,
    ) -> Result<usize> {
        test_charged(sk, msg)?;
        test_fill(msg)?;
        test_user_pages(sk, msg)?;
        test_turn(sk)?;
        Ok(len)
    }

    fn stream_dequeue(
        _sock: ArcBorrow<'_, Sock>,
        _sk: &UserOwned<'_>,
        _msg: &mut Msg,
        _len: usize,
        _peek: bool,
    ) -> Result<usize> {
        Ok(0)
    }

    fn stream_has_data(_sock: ArcBorrow<'_, Sock>) -> u32 {
        0
    }

    fn stream_has_space(_sock: ArcBorrow<'_, Sock>) -> u32 {
        65536
    }

    fn stream_allow(_sk: &VsockSock, _remote: Addr) -> bool {
        true
    }

    fn unsent_bytes(_sock: ArcBorrow<'_, Sock>) -> usize {
        1
    }

    fn shutdown(_sock: ArcBorrow<'_, Sock>, _sk: &UserOwned<'_>, _mode: u32) -> Result {
        Ok(())
    }
}

/// A page that is written.
fn page() -> Result<PageBlock> {
    let mut block = PageBlock::alloc(0, GFP_KERNEL)?;
    block.copy_to(0, &[1; 64])?;
    Ok(block)
}

/// Memory that is added to a buffer that is charged would not be charged.
fn test_charged(sk: &UserOwned<'_>, msg: &mut Msg) -> Result {
    let mut skb = SkBuff::alloc(HEADER, GFP_KERNEL, ())?;
    skb.put_slice(&[0; HEADER])?;
    skb.charge_to(sk);
    let size = skb.truesize();
    check(
        matches!(skb.add_block(page()?, 0, 64), Err((error, _)) if error == EINVAL),
        "a charged buffer takes no block",
    );
    check(
        skb.truesize() == size && skb.len() == HEADER,
        "and is as it was",
    );
    check(
        matches!(Growing::new(skb, 64), Err(error) if error == EINVAL),
        "nor does it grow",
    );
    test_growing(sk, msg)
}

/// What grows has the room that it was given, and what could not be read is not there.
fn test_growing(sk: &UserOwned<'_>, msg: &mut Msg) -> Result {
    let left = msg.left();
    let header = || SkBuff::alloc(HEADER, GFP_KERNEL, ());
    check(
        matches!(Growing::new(header()?, 0), Err(error) if error == EINVAL)
            && Growing::new(header()?, usize::MAX).is_err(),
        "a buffer grows by something, and not without limit",
    );
    let mut full = header()?;
    while full.add_block(page()?, 0, 64).is_ok() {}
    check(
        matches!(Growing::new(full, 64), Err(error) if error == EINVAL),
        "nor where there is no fragment left",
    );
    // Beyond what any block has.
    let mut skb = Growing::new(header()?, 1 << 20)?;
    let room = skb.room();
    check(
        room < 1 << 20 && skb.truesize() >= room,
        "it has what there is",
    );
    check(
        skb.add_msg(msg, room + 1) == Err(ENOSPC)
            && skb.add_msg(msg, left + 1) == Err(EFAULT)
            && (skb.len(), skb.room(), msg.left()) == (0, room, left),
        "and takes no more than that, nor what the user has not",
    );
    let (mut one, mut other) = (Growing::new(header()?, 64)?, Growing::new(header()?, 64)?);
    for _ in 0..64 {
        for skb in [&mut one, &mut other] {
            let add = |msg: &mut Msg| {
                skb.add_msg(msg, 1)?;
                Err::<(), _>(EAGAIN)
            };
            // The same byte again.
            let _ = msg.unmoved_on_error(add);
        }
    }
    one.charge_to(sk);
    check(
        one.room() == 0 && other.room() == 0 && one.add_msg(msg, 1) == Err(ENOSPC),
        "two that grow in turns have their own room",
    );
    let (one, other) = (one.close(), other.close());
    check(one.len() == 64 && other.len() == 64, "and their own bytes");
    Ok(())
}

/// What could not be written is not there.
fn test_fill(msg: &mut Msg) -> Result {
    let left = msg.left();
    let mut skb = SkBuff::alloc(left.saturating_add(64), GFP_KERNEL, ())?;
    check(
        skb.put_msg(msg, left.saturating_add(1)) == Err(EFAULT)
            && skb.is_empty()
            && msg.left() == left,
        "what the user has not is not put into a buffer",
    );
    let mut other = SkBuff::alloc(256, GFP_KERNEL, ())?;
    other.put_slice(&[0; 8])?;
    check(
        skb.put_skb(&other, 4, 8) == Err(EFAULT) && skb.is_empty(),
        "nor what another buffer has not",
    );
    let fresh = PageBlock::alloc(0, GFP_KERNEL)?;
    check(
        skb.put_block(&fresh, 0, 8) == Err(EINVAL) && skb.is_empty(),
        "nor what nobody has written to a block",
    );
    check(
        skb.add_block(fresh, 0, 8).is_err() && skb.add_block(page()?, 0, 65).is_err(),
        "which is no fragment either",
    );
    let written = page()?;
    check(
        skb.add_block(page()?, 0, 64).is_ok()
            && skb.put_slice(&[]).is_ok()
            && skb.put_block(&written, 0, 0).is_ok()
            && skb.put_msg(msg, 0).is_ok()
            && skb.put_slice(&[0]) == Err(ENOSPC)
            && skb.len() == 64,
        "nothing can be put behind fragments",
    );
    let half = SkBuff::alloc_paged(128, GFP_KERNEL, (), |skb| skb.put_block(&written, 0, 64));
    let more = SkBuff::alloc_paged(63, GFP_KERNEL, (), |skb| skb.put_block(&written, 0, 64));
    check(
        matches!(half, Err(e) if e == EINVAL) && matches!(more, Err(e) if e == ENOSPC),
        "a buffer that is not filled is none",
    );
    let other = SkBuff::alloc_paged(64, GFP_KERNEL, (), |outer| {
        let _ = SkBuff::alloc_paged(8192, GFP_KERNEL, (), |inner| {
            inner.put_block(&written, 0, 64)?;
            core::mem::swap(outer, inner);
            Ok(())
        });
        Ok(())
    });
    check(
        matches!(other, Err(e) if e == EINVAL),
        "nor is a longer one that is put in its place",
    );
    let whole = SkBuff::alloc_paged(8192, GFP_KERNEL, (), |skb| {
        (0..128).try_for_each(|_| skb.put_block(&written, 0, 64))
    })?;
    let mut last = [0; 2];
    whole.read(8190, &mut last)?;
    check(last == [1, 1] && whole.len() == 8192, "one that is, is");
    whole.consume();
    Ok(())
}

/// A turn for a packet of a socket is charged to that, for longer than the packet.
fn test_turn(sk: &UserOwned<'_>) -> Result {
    let mut skb = SkBuff::alloc(HEADER, GFP_KERNEL, ())?;
    skb.put_slice(&[0; HEADER])?;
    skb.charge_to(sk);
    let token = Token::new(&skb, HEADER, 1, 0, 1)?;
    drop(KEPT.replace(Some(Arc::new(token.turn(Some(&skb))?, GFP_KERNEL)?)));
    drop(skb);
    check(
        token.is_out() && KEPT.with(|turn| token.matches(turn)) == Some(true),
        "a turn of a socket outlives its packet",
    );
    Ok(())
}

/// Pages of the user belong to a socket, and to a notification.
fn test_user_pages(sk: &UserOwned<'_>, msg: &mut Msg) -> Result {
    let left = msg.left();
    let mut skb = SkBuff::alloc(HEADER, GFP_KERNEL, ())?;
    check(
        skb.add_user_pages(msg, left) == Err(EINVAL),
        "user pages are not charged to nobody",
    );
    skb.charge_to(sk);
    check(
        skb.add_user_pages(msg, left) == Err(EINVAL) && skb.is_empty() && msg.left() == left,
        "nor are they there without a notification",
    );
    let Some(notification) = ZeroCopy::begin(sk, msg, left)? else {
        return Ok(());
    };
    // More than there is memory for, if one were kept.
    let all = (0..2000).all(|_| matches!(ZeroCopy::begin(sk, msg, left), Ok(Some(_))));
    check(all, "a notification ends with its call");
    notification.attach(&mut skb);
    check(
        skb.add_user_pages(msg, left) == Ok(left) && skb.len() == left,
        "with both they are",
    );
    drop(skb);
    notification.end(true);
    Ok(())
}

/// The device, for its configuration space alone.
struct TestDriver;

struct Nothing;

#[vtable]
impl virtio::Driver for TestDriver {
    const ID_TABLE: virtio::IdTable = &ID_TABLE;
    const FEATURES: &'static [u32] = &[];
    const CONFIG_LEN: usize = 8;
    type Data = Nothing;

    fn probe(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Nothing>> {
        check(
            dev.config_u64(0).is_ok() && dev.config_u32(4).is_ok() && dev.config_u8(7).is_ok(),
            "the configuration space can be read to its end",
        );
        check(
            dev.config_u8(8) == Err(EINVAL)
                && dev.config_u32(8) == Err(EINVAL)
                && dev.config_u64(4) == Err(EINVAL),
            "and not beyond it",
        );
        check(
            dev.config_u8(u32::MAX) == Err(EINVAL) && dev.config_u64(u32::MAX - 3) == Err(EINVAL),
            "nor where the offset overflows",
        );
        check(
            dev.config_u32(2) == Err(EINVAL) && dev.config_u16(1) == Err(EINVAL),
            "nor across fields",
        );
        Ok(Arc::new(Nothing, GFP_KERNEL)?)
    }

    fn remove(_dev: &virtio::Device<Core<'_>>, _data: &Arc<Nothing>) {}
}

virtio_device_table!(
    FAKE_ID_TABLE,
    FAKE_MODULE_ID_TABLE,
    [virtio::DeviceId::new(0x7ff1)]
);

/// The device of fake_virtio.c, which has less than it should.
struct FakeDriver;

#[vtable]
impl virtio::Driver for FakeDriver {
    const ID_TABLE: virtio::IdTable = &FAKE_ID_TABLE;
    const FEATURES: &'static [u32] = &[];
    const CONFIG_LEN: usize = 8;
    type Data = Nothing;

    fn probe(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Nothing>> {
        check(
            dev.config_u32(0).is_ok()
                && dev.config_u32(4) == Err(EINVAL)
                && dev.config_u64(0) == Err(EINVAL),
            "of a shorter configuration space no more is read",
        );
        Ok(Arc::new(Nothing, GFP_KERNEL)?)
    }

    fn remove(_dev: &virtio::Device<Core<'_>>, _data: &Arc<Nothing>) {}
}

/// A bottom half, in which `current` is whom it interrupts.
#[pin_data]
struct BottomHalf {
    #[pin]
    work: Work<BottomHalf>,
    over: AtomicFlag,
}

impl BottomHalf {
    fn run(self: Arc<Self>) {
        let skb = SkBuff::alloc(HEADER, GFP_ATOMIC, ());
        check(
            skb.is_ok_and(|skb| matches!(Growing::new(skb, 64), Err(error) if error == EINVAL)),
            "in a bottom half no buffer grows in a thread's memory",
        );
        self.over.store(true, Relaxed);
    }

    /// Has it run, once.
    fn test() -> Result {
        let _workqueues = Workqueues::new::<NetTest>()?;
        let this = Arc::pin_init(
            pin_init!(Self {
                work <- new_work!(Self::run, "BottomHalf::work"),
                over: AtomicFlag::new(false),
            }),
            GFP_KERNEL,
        )?;
        this.work.queue(&this, Where::Bh);
        for _ in 0..1000 {
            if this.over.load(Relaxed) {
                return Ok(());
            }
            fsleep(Delta::from_millis(1));
        }
        Err(ETIMEDOUT)
    }
}

/// Fields drop in this order.
#[pin_data]
struct NetTest {
    #[pin]
    _fake: Registration<virtio::Adapter<FakeDriver>>,
    #[pin]
    _driver: Registration<virtio::Adapter<TestDriver>>,
    _transport: vsock::Registration,
}

impl kernel::InPlaceModule for NetTest {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _transport: BottomHalf::test().and_then(|()| {
                vsock::Registration::new(&rust_net_test_transport, vsock::Role::GuestToHost)
            })?,
            _driver <- Registration::new(<Self as kernel::ModuleMetadata>::NAME, module),
            _fake <- Registration::new(c"rust_net_test_fake", module),
        })
    }
}
