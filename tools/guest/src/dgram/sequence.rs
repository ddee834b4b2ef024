// SPDX-License-Identifier: GPL-2.0

//! Many datagrams with numbers: none comes twice or late, and those that are missing are counted somewhere.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{ensure, Context, Result};
use nix::{
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::socket::MsgFlags,
};

use super::socket::{Address, Dgram, Received, LARGEST, STALL};
use crate::pattern;

const NONE: MsgFlags = MsgFlags::empty();
/// A number and a length.
const STAMP: usize = 12;

/// Makes datagram `number`, of any length up to `largest`.
pub fn fill(buffer: &mut Vec<u8>, number: u64, largest: usize) {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    let len = STAMP + mixed as usize % (largest.max(STAMP) - STAMP + 1);
    buffer.resize(len, 0);
    buffer[..8].copy_from_slice(&number.to_le_bytes());
    buffer[8..STAMP].copy_from_slice(&(len as u32).to_le_bytes());
    pattern::fill(&mut buffer[STAMP..], number, 0);
}

/// The number of a datagram that must be as [`fill`] made it.
pub fn check(bytes: &[u8]) -> Result<u64> {
    let stamp = bytes.first_chunk::<STAMP>();
    let stamp = stamp.with_context(|| format!("a datagram of {} bytes", bytes.len()))?;
    let number = u64::from_le_bytes(std::array::from_fn(|i| stamp[i]));
    let len = u32::from_le_bytes(std::array::from_fn(|i| stamp[8 + i]));
    ensure!(
        len as usize == bytes.len(),
        "datagram {number} had {len} bytes, and has {}",
        bytes.len()
    );
    let wrong = pattern::mismatch(&bytes[STAMP..], number, 0);
    ensure!(
        wrong.is_none(),
        "datagram {number}, of {len} bytes: wrong at {wrong:?}"
    );
    Ok(number)
}

pub fn send(peer: Address, count: u64, size: usize, ms: Option<u64>) -> Result<()> {
    let socket = Dgram::bound(u32::MAX)?;
    socket.connect(peer)?;
    let end = ms.map(|ms| Instant::now() + Duration::from_millis(ms));
    let (mut datagram, mut sent) = (Vec::new(), 0);
    while sent < count && end.is_none_or(|end| Instant::now() < end) {
        fill(&mut datagram, sent, size);
        socket
            .send(&datagram, NONE)
            .with_context(|| format!("datagram {sent}"))?;
        sent += 1;
    }
    println!("OK sent={sent}");
    Ok(())
}

/// What has come.
#[derive(Default)]
struct Count {
    received: u64,
    next: u64,
    time: f64,
}

impl Count {
    fn take(&mut self, bytes: &[u8], got: &Received) -> Result<()> {
        let number = check(&bytes[..got.len])?;
        ensure!(
            number >= self.next,
            "datagram {number} came where {} or a later one was due",
            self.next
        );
        self.next = number + 1;
        self.received += 1;
        let time = got.time.context("a datagram without SO_TIMESTAMP")?;
        let time = time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        ensure!(
            time >= self.time,
            "datagram {number} came at {time}, the one before at {}",
            self.time
        );
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        ensure!(
            time <= now.as_secs_f64() && time + 60.0 > now.as_secs_f64(),
            "datagram {number} came at {time}, and it is {now:?}"
        );
        self.time = time;
        Ok(())
    }
}

/// Takes what comes to `port` until something comes to the next; then all that is there, and one more.
pub fn collect(port: u32, buffer: Option<usize>, sleepy: bool) -> Result<()> {
    let socket = Dgram::bound(port)?;
    let end = Dgram::bound(port + 1)?;
    if let Some(bytes) = buffer {
        socket.receive_buffer(bytes)?;
    }
    socket.tell_drops_and_time()?;
    println!("READY {port}");
    let (mut count, mut bytes) = (Count::default(), vec![0; LARGEST]);
    loop {
        let wanted = if sleepy {
            PollFlags::empty()
        } else {
            PollFlags::POLLIN
        };
        let mut fds = [
            PollFd::new(std::os::fd::AsFd::as_fd(&socket), wanted),
            PollFd::new(std::os::fd::AsFd::as_fd(&end), PollFlags::POLLIN),
        ];
        ensure!(
            poll(&mut fds, PollTimeout::try_from(STALL)?)? > 0,
            "nothing comes after {} datagrams",
            count.received
        );
        let ended = fds[1].any().unwrap_or(false);
        loop {
            match socket.receive(&mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(got) => count.take(&bytes, &got)?,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e.into()),
            }
        }
        if ended {
            break;
        }
    }
    println!("DRAINED received={}", count.received);
    // How many were dropped comes with the next one.
    let last = socket
        .receive(&mut bytes, NONE)
        .context("waiting for one more")?;
    println!(
        "OK received={} next={} dropped={}",
        count.received,
        count.next,
        last.drops.unwrap_or(0)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_that_is_cut_or_changed_is_seen() {
        let mut datagram = Vec::new();
        for number in 0..1000 {
            fill(&mut datagram, number, 100);
            assert!(datagram.len() <= 100);
            assert_eq!(check(&datagram).unwrap(), number);
        }
        fill(&mut datagram, 7, 100);
        assert!(check(&datagram[..datagram.len() - 1]).is_err());
        *datagram.last_mut().unwrap() ^= 1;
        assert!(check(&datagram).is_err());
        assert!(check(b"").is_err());
        fill(&mut datagram, 3, 0);
        assert_eq!(check(&datagram).unwrap(), 3);
    }
}
