// SPDX-License-Identifier: GPL-2.0

//! Files that go into a socket and come out of it without a copy in user space, as far as the kernel has a way.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::fd::AsRawFd,
};

use anyhow::{ensure, Context, Result};
use clap::Subcommand;
use nix::{
    errno::Errno,
    sys::memfd::{memfd_create, MFdFlags},
};

use crate::{
    pattern,
    socket::{Kind, Peer, Socket, DEFAULT_BUFFER},
};

#[derive(Subcommand)]
pub enum Task {
    /// Take a stream into a file by splice(), through a pipe, and check it
    Server {
        #[arg(long)]
        port: u32,
    },
    /// Send a file by sendfile()
    Client {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        bytes: usize,
    },
}

impl Task {
    pub fn run(self) -> Result<()> {
        match self {
            Task::Server { port } => server(port),
            Task::Client { peer, bytes } => client(peer, bytes),
        }
    }
}

fn memory_file() -> Result<File> {
    Ok(memfd_create("rvtest", MFdFlags::MFD_CLOEXEC)
        .context("memfd_create")?
        .into())
}

fn client(peer: Peer, bytes: usize) -> Result<()> {
    let mut file = memory_file()?;
    let mut content = vec![0; bytes];
    pattern::fill(&mut content, 0, 0);
    file.write_all(&content)?;
    file.rewind()?;
    let socket = Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer)?;
    let mut sent = 0;
    while sent < bytes {
        // SAFETY: The call takes descriptors and numbers; the file's own offset is used.
        let n = Errno::result(unsafe {
            libc::sendfile(
                socket.as_raw_fd(),
                file.as_raw_fd(),
                std::ptr::null_mut(),
                bytes - sent,
            )
        })
        .with_context(|| format!("sendfile() after {sent} bytes"))?;
        ensure!(n > 0, "sendfile() sent nothing after {sent} bytes");
        sent += n as usize;
    }
    println!("OK sent={sent}");
    Ok(())
}

fn splice(from: i32, to: i32, len: usize) -> nix::Result<usize> {
    // SAFETY: The call takes descriptors and numbers; the files' own offsets are used.
    let n = Errno::result(unsafe {
        libc::splice(
            from,
            std::ptr::null_mut(),
            to,
            std::ptr::null_mut(),
            len,
            libc::SPLICE_F_MOVE,
        )
    })?;
    Ok(n as usize)
}

fn server(port: u32) -> Result<()> {
    let listener = Socket::listening(Kind::Stream, DEFAULT_BUFFER, port)?;
    println!("READY {port}");
    let socket = listener.accept()?;
    let mut file = memory_file()?;
    let (out, into) = nix::unistd::pipe()?;
    let mut received = 0;
    loop {
        let n = splice(socket.as_raw_fd(), into.as_raw_fd(), 64 << 10)
            .with_context(|| format!("splice() out of the socket after {received} bytes"))?;
        if n == 0 {
            break;
        }
        let mut moved = 0;
        while moved < n {
            moved += splice(out.as_raw_fd(), file.as_raw_fd(), n - moved)
                .context("splice() into the file")?;
        }
        received += n;
    }
    file.rewind()?;
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    ensure!(
        content.len() == received,
        "the file has {} bytes, {received} were moved",
        content.len()
    );
    if let Some(place) = pattern::mismatch(&content, 0, 0) {
        anyhow::bail!("the byte at {place} is wrong");
    }
    println!("OK received={received}");
    Ok(())
}
