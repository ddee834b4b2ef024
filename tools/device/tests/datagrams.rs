// SPDX-License-Identifier: GPL-2.0

//! Datagrams between a driver and programs on the host.

mod driver;

use std::{thread::sleep, time::Duration};

use driver::{wait_for, Device, Driver, ALL, DGRAM_RX, DGRAM_TX};

const DGRAM: u16 = 3;
const RST: u16 = 3;
const RW: u16 = 5;

const FIVE: &str = "--features stream,seqpacket,dgram,mrg-rxbuf";
const PLAIN: &str = "--features stream,dgram";

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
}

#[test]
fn to_the_host_and_back() {
    for (options, features) in [(FIVE, ALL), (PLAIN, 5)] {
        let device = Device::start(options);
        let mut driver = Driver::new(&device, 3, 5, features);
        assert_eq!(driver.cid, 3);
        driver.post(DGRAM_RX, 32, 66_000);
        let host = device.dgram("3_1000");
        for len in [0, 1, 44, 4096, 65_535, 65_536] {
            let data = pattern(len);
            let packet = driver.packet(DGRAM, RW, 77, 1000, &data);
            driver.send(DGRAM_TX, &packet);
            let mut buffer = vec![0; 70_000];
            let (n, from) = host.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..n], data);
            assert_eq!(from.as_pathname(), Some(&*device.path("3.dgram_77")));
            host.send_to_addr(&data, &from).unwrap();
            let back = driver.receive(DGRAM_RX, 66_000);
            assert_eq!((back.src, back.dst), ((2, 1000), (3, 77)));
            assert_eq!((back.kind, back.op), (DGRAM, RW));
            assert!(back.data == data, "{len} bytes came back changed");
        }
        assert_eq!(device.counter(3, "dgram_to_host"), 6);
        assert_eq!(device.counter(3, "dgram_rx_packets"), 6);
    }
}

#[test]
fn a_host_program_begins() {
    let device = Device::start(FIVE);
    let mut driver = Driver::new(&device, 3, 5, ALL);
    driver.post(DGRAM_RX, 16, 4096);
    let host = device.dgram("somebody");
    let to = device.path("3.dgram");
    host.send_to(b"no greeting", &to).unwrap();
    host.send_to(b"CONNECT 55\n", &to).unwrap();
    let mut line = [0; 64];
    let n = host.recv(&mut line).unwrap();
    let line = std::str::from_utf8(&line[..n]).unwrap();
    let port: u32 = line.strip_prefix("OK ").unwrap().trim().parse().unwrap();
    host.send_to(b"hello", &to).unwrap();
    let packet = driver.receive(DGRAM_RX, 4096);
    assert_eq!((packet.src, packet.dst), ((2, port), (3, 55)));
    assert_eq!(packet.data, b"hello");
    let answer = driver.packet(DGRAM, RW, 55, port, b"and back");
    driver.send(DGRAM_TX, &answer);
    let mut buffer = [0; 64];
    let n = host.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"and back");
    assert_eq!(device.counter(3, "dgram_bad_greetings"), 1);
    // One whose name has a port keeps it.
    let host = device.dgram("3_4321");
    host.send_to(b"CONNECT 55\n", &to).unwrap();
    let n = host.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"OK 4321\n");
    host.send_to(b"", &to).unwrap();
    let packet = driver.receive(DGRAM_RX, 4096);
    assert_eq!(
        (packet.src, packet.dst.1, packet.data.len()),
        ((2, 4321), 55, 0)
    );
}

#[test]
fn mergeable_buffers_are_full_but_the_last() {
    let device = Device::start(FIVE);
    let mut driver = Driver::new(&device, 3, 5, ALL);
    driver.post(DGRAM_RX, 40, 2048);
    let host = device.dgram("3_9");
    driver.send(DGRAM_TX, &driver.packet(DGRAM, RW, 1, 9, b"x"));
    let (_, from) = host.recv_from(&mut [0; 8]).unwrap();
    // Each length meets the edge of a buffer: 2048 bytes with the header in the first.
    for (len, buffers) in [(2002, 1), (2003, 2), (4050, 2), (4051, 3), (65_536, 33)] {
        let data = pattern(len);
        host.send_to_addr(&data, &from).unwrap();
        let packet = driver.receive(DGRAM_RX, 2048);
        assert_eq!(packet.buffers, buffers);
        assert!(packet.data == data, "{len} bytes came changed");
    }
}

#[test]
fn what_does_not_fit_is_counted() {
    let device = Device::start(PLAIN);
    let mut driver = Driver::new(&device, 3, 5, 5);
    driver.post(DGRAM_RX, 4, 4096);
    let host = device.dgram("3_9");
    driver.send(DGRAM_TX, &driver.packet(DGRAM, RW, 1, 9, b"x"));
    let (_, from) = host.recv_from(&mut [0; 8]).unwrap();
    host.send_to_addr(&pattern(4053), &from).unwrap();
    host.send_to_addr(&pattern(4052), &from).unwrap();
    assert_eq!(driver.receive(DGRAM_RX, 4096).data.len(), 4052);
    assert_eq!(device.counter(3, "dgram_rx_too_big"), 1);

    // Mergeable, but with fewer buffers than it takes: given up after a while, and the next one passes.
    let device = Device::start(FIVE);
    let mut driver = Driver::new(&device, 3, 5, ALL);
    driver.post(DGRAM_RX, 4, 2048);
    let host = device.dgram("3_9");
    driver.send(DGRAM_TX, &driver.packet(DGRAM, RW, 1, 9, b"x"));
    let (_, from) = host.recv_from(&mut [0; 8]).unwrap();
    host.send_to_addr(&pattern(9000), &from).unwrap();
    host.send_to_addr(b"small", &from).unwrap();
    assert_eq!(driver.receive(DGRAM_RX, 2048).data, b"small");
    assert_eq!(device.counter(3, "dgram_rx_no_buffers"), 1);
}

#[test]
fn nobody_is_answered_by_a_reset() {
    let device = Device::start(FIVE);
    let mut driver = Driver::new(&device, 3, 5, ALL);
    driver.post(DGRAM_RX, 4, 4096);
    for cid in [2, 9, 3] {
        let mut packet = driver.packet(DGRAM, RW, 5, 66, b"anybody?");
        packet.dst.0 = cid;
        driver.send(DGRAM_TX, &packet);
        let reset = driver.receive(DGRAM_RX, 4096);
        assert_eq!((reset.kind, reset.op), (DGRAM, RST));
        assert_eq!((reset.src, reset.dst), ((cid, 66), (3, 5)));
        // And no reset by another.
        packet.op = RST;
        packet.data.clear();
        driver.send(DGRAM_TX, &packet);
    }
    sleep(Duration::from_millis(50));
    assert_eq!(driver.pending(DGRAM_RX), 0);
    assert_eq!(device.counter(3, "dgram_to_host_nobody"), 1);
    assert_eq!(device.counter(3, "dgram_to_guest_nobody"), 2);
}

#[test]
fn a_program_that_does_not_read() {
    let device = Device::start(FIVE);
    let mut driver = Driver::new(&device, 3, 5, ALL);
    let host = device.dgram("3_9");
    let (sent, mut received) = (3000, 0);
    for _ in 0..sent {
        driver.send(DGRAM_TX, &driver.packet(DGRAM, RW, 1, 9, b"x"));
    }
    host.set_nonblocking(true).unwrap();
    while host.recv(&mut [0; 8]).is_ok() {
        received += 1;
    }
    assert!(received > 0 && received < sent);
    assert_eq!(device.counter(3, "dgram_to_host_full") + received, sent);
}

#[test]
fn ports_come_and_go() {
    let device = Device::start(&format!("{FIVE} --dgram-ports 2"));
    let mut driver = Driver::new(&device, 3, 5, ALL);
    let host = device.dgram("3_9");
    for port in [1, 2, 1, 3] {
        driver.send(DGRAM_TX, &driver.packet(DGRAM, RW, port, 9, b"x"));
        host.recv(&mut [0; 8]).unwrap();
    }
    let there = [1, 2, 3].map(|p| device.path(&format!("3.dgram_{p}")).exists());
    assert_eq!(there, [true, false, true]);
    // They go with the driver.
    driver.stop();
    driver.start(5);
    driver.post(DGRAM_RX, 1, 4096);
    wait_for("the sockets to go", || {
        (!device.path("3.dgram_1").exists()).then_some(())
    });
}

#[test]
fn from_guest_to_guest() {
    let device = Device::with_guests(2, FIVE);
    let mut one = Driver::new(&device, 3, 5, ALL);
    // The other has the shorter header.
    let mut other = Driver::new(&device, 4, 5, 7);
    one.post(DGRAM_RX, 40, 2048);
    other.post(DGRAM_RX, 4, 66_000);
    wait_for("the other's driver", || {
        (device.counter(4, "kicks") > 0).then_some(())
    });
    let data = pattern(65_536);
    let mut packet = one.packet(DGRAM, RW, 10, 20, &data);
    packet.dst.0 = 4;
    one.send(DGRAM_TX, &packet);
    let got = other.receive(DGRAM_RX, 66_000);
    assert_eq!((got.src, got.dst), ((3, 10), (4, 20)));
    assert!(got.data == data);
    let mut packet = other.packet(DGRAM, RW, 20, 10, &data);
    packet.dst.0 = 3;
    other.send(DGRAM_TX, &packet);
    let got = one.receive(DGRAM_RX, 2048);
    assert_eq!((got.src, got.dst, got.buffers), ((4, 20), (3, 10), 33));
    assert!(got.data == data);
    // A guest that takes nothing: the rest is counted.
    for _ in 0..60 {
        packet.dst.0 = 3;
        other.send(DGRAM_TX, &packet);
    }
    let full = device.counter(4, "dgram_to_guest_full");
    assert!(full > 0);
    let mut got = 0;
    while got + full + device.counter(3, "dgram_rx_no_buffers") < 60 {
        if one.pending(DGRAM_RX) > 0 {
            one.receive(DGRAM_RX, 2048);
            got += 1;
        }
    }
}

#[test]
fn packets_that_are_none() {
    let mut device = Device::start(FIVE);
    let mut driver = Driver::new(&device, 3, 5, ALL);
    let host = device.dgram("3_9");
    let whole = driver.packet(DGRAM, RW, 1, 9, b"12345678");
    let header = driver.header(&whole);
    // Too short, too long for what is there, nothing at all.
    driver.send_pieces(DGRAM_TX, &[&header[..20]]);
    driver.send_pieces(DGRAM_TX, &[&header, &whole.data[..7]]);
    driver.send_pieces(DGRAM_TX, &[&[]]);
    let mut long = header.clone();
    long[24..28].copy_from_slice(&65_537_u32.to_le_bytes());
    driver.send_pieces(DGRAM_TX, &[&long, &pattern(65_537)]);
    assert_eq!(device.counter(3, "tx_malformed"), 4);
    // From somebody else, of another type, of an unknown op.
    for (at, value) in [(0, 4), (28, 1), (30, 9)] {
        let mut other = header.clone();
        other[at] = value;
        driver.send_pieces(DGRAM_TX, &[&other, &whole.data]);
    }
    assert_eq!(device.counter(3, "tx_wrong_source"), 1);
    assert_eq!(device.counter(3, "tx_wrong_kind"), 1);
    assert_eq!(device.counter(3, "tx_unknown_op"), 1);
    // In pieces of any size it is a packet.
    let bytes = [header.as_slice(), &whole.data].concat();
    for size in [1, 7, 45, 46, 47, 60] {
        let pieces: Vec<_> = bytes.chunks(size).collect();
        driver.send_pieces(DGRAM_TX, &pieces);
        let mut buffer = [0; 64];
        let n = host.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"12345678");
    }
    assert!(device.alive());
}
