// SPDX-License-Identifier: GPL-2.0

//! A caller that sits in a page fault inside recv() or setsockopt(), with its socket locked, for as long as it is
//! told to.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsRawFd, FromRawFd},
    thread,
    time::Duration,
};

use anyhow::{ensure, Context, Result};
use nix::{errno::Errno, sys::mman};

use crate::{
    memory::page_size,
    pattern,
    socket::{Kind, Socket, SO_VM_SOCKETS_BUFFER_SIZE},
    stream,
};

const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
/// struct uffd_msg is 32 bytes, whatever the event.
const UFFD_MSG: usize = 32;

#[repr(C)]
#[derive(Default)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Default)]
struct UffdioRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Default)]
struct UffdioZeropage {
    start: u64,
    len: u64,
    mode: u64,
    zeropage: i64,
}

nix::ioctl_readwrite!(uffdio_api, 0xaa, 0x3f, UffdioApi);
nix::ioctl_readwrite!(uffdio_register, 0xaa, 0x00, UffdioRegister);
nix::ioctl_readwrite!(uffdio_zeropage, 0xaa, 0x04, UffdioZeropage);

/// A page of memory that is not there until it is filled in: who touches it waits.
struct MissingPage {
    uffd: File,
    start: u64,
}

impl MissingPage {
    fn new() -> Result<Self> {
        // SAFETY: The system call takes flags alone and gives a new descriptor.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) })
            .context("userfaultfd")?;
        // SAFETY: The descriptor is new, and nobody else's.
        let uffd = unsafe { File::from_raw_fd(fd as i32) };
        // SAFETY: A new anonymous mapping touches no memory that anybody has.
        let page = unsafe {
            mman::mmap_anonymous(
                None,
                page_size().try_into()?,
                mman::ProtFlags::PROT_READ | mman::ProtFlags::PROT_WRITE,
                mman::MapFlags::MAP_PRIVATE,
            )
        }
        .context("mmap")?;
        let start = page.as_ptr() as u64;
        let mut api = UffdioApi {
            api: UFFD_API,
            ..Default::default()
        };
        let mut register = UffdioRegister {
            start,
            len: page_size() as u64,
            mode: UFFDIO_REGISTER_MODE_MISSING,
            ioctls: 0,
        };
        // SAFETY: Both structures are as the kernel's header lays them out, and live through the calls.
        unsafe {
            uffdio_api(uffd.as_raw_fd(), &mut api).context("UFFDIO_API")?;
            uffdio_register(uffd.as_raw_fd(), &mut register).context("UFFDIO_REGISTER")?;
        }
        Ok(Self { uffd, start })
    }

    /// Waits until somebody touches it, and has him wait for `hold`.
    fn hold(mut self, hold: Duration) -> Result<()> {
        let mut message = [0; UFFD_MSG];
        self.uffd
            .read_exact(&mut message)
            .context("waiting for the page fault")?;
        println!("STUCK");
        thread::sleep(hold);
        let mut zero = UffdioZeropage {
            start: self.start,
            len: page_size() as u64,
            ..Default::default()
        };
        // SAFETY: The structure is as the kernel's header lays it out, and lives through the call.
        unsafe { uffdio_zeropage(self.uffd.as_raw_fd(), &mut zero) }.context("UFFDIO_ZEROPAGE")?;
        println!("RELEASED");
        Ok(())
    }
}

/// Listens, and sits in a page fault inside setsockopt(), with the listener locked, for `hold`; accepts then.
pub fn listener(port: u32, backlog: i32, hold: Duration) -> Result<()> {
    let listener = Socket::bound(Kind::Stream, port)?;
    listener.listen(backlog)?;
    println!("READY {port}");
    let page = MissingPage::new()?;
    let (fd, start) = (listener.as_raw_fd(), page.start);
    let owner = thread::spawn(move || {
        // SAFETY: The page is mapped for the program's life; a value of 0 is what comes to be in it.
        unsafe {
            libc::setsockopt(
                fd,
                libc::AF_VSOCK,
                SO_VM_SOCKETS_BUFFER_SIZE,
                start as *const libc::c_void,
                size_of::<u64>() as libc::socklen_t,
            )
        }
    });
    page.hold(hold)?;
    owner
        .join()
        .map_err(|_| anyhow::anyhow!("the owner panicked"))?;
    loop {
        drop(listener.accept()?);
    }
}

/// Accepts one connection and reads into a page that is not there; fills the page in after `hold`.
pub fn server(port: u32, hold: Duration, bytes: Option<u64>) -> Result<()> {
    let page = MissingPage::new()?;
    let start = page.start;
    let (mut stream, _) = stream::listen(port)?.accept().context("accept")?;
    println!("ACCEPTED");
    let reader = thread::spawn(move || -> Result<u64> {
        // SAFETY: The page is mapped for the program's life and no other reference to it exists.
        let buffer = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, page_size()) };
        // The fault happens here, inside the system call.
        let n = stream.read(buffer).context("read into the missing page")?;
        ensure!(n > 0, "the connection ended before any data came");
        ensure!(
            pattern::mismatch(&buffer[..n], 0, 0).is_none(),
            "the data that came is wrong"
        );
        let mut rest = vec![0; 1 << 16];
        let mut total = n as u64;
        loop {
            if bytes.is_some_and(|bytes| total >= bytes) {
                return Ok(total);
            }
            let n = stream.read(&mut rest)?;
            if n == 0 {
                return Ok(total);
            }
            ensure!(
                pattern::mismatch(&rest[..n], 0, total).is_none(),
                "wrong data after byte {total}"
            );
            total += n as u64;
        }
    });

    page.hold(hold)?;
    let total = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    println!("OK received={total}");
    Ok(())
}
