// SPDX-License-Identifier: GPL-2.0

//! Datagrams on the streams' queues, as a driver sees them.

mod driver;

use std::{thread::sleep, time::Duration};

use driver::{wait_for, Device, Driver, RX, TX};

const STREAM: u16 = 1;
const DGRAM: u16 = 3;
const RST: u16 = 3;
const RW: u16 = 5;

const SHARED: &str = "--features shared-dgram";
const BUFFER: usize = 66_000;

/// Long enough for the device to say something, had it anything to say.
const A_WHILE: Duration = Duration::from_millis(100);

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
}

fn start(options: &str, size: usize) -> (Device, Driver) {
    let device = Device::start(options);
    let mut driver = Driver::new(&device, 3, 3, 8);
    driver.post(RX, 32, size);
    (device, driver)
}

#[test]
fn to_the_host_and_back() {
    for options in [SHARED, "--host libkrun", "--host libkrun-1.19"] {
        let (device, mut driver) = start(options, BUFFER);
        let host = device.dgram("3_1000");
        for len in [0, 1, 44, 4096, 65_535, 65_536] {
            let data = pattern(len);
            let packet = driver.packet(DGRAM, RW, 77, 1000, &data);
            driver.send(TX, &packet);
            let mut buffer = vec![0; 70_000];
            let (n, from) = host.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..n], data);
            host.send_to_addr(&data, &from).unwrap();
            let back = driver.receive(RX, BUFFER);
            assert_eq!((back.src, back.dst), ((2, 1000), (3, 77)));
            assert_eq!((back.kind, back.op), (DGRAM, RW));
            assert_eq!((back.buf_alloc, back.fwd_cnt), (0, 0));
            assert!(back.data == data, "{len} bytes came back changed");
        }
        for name in [
            "dgram_to_host",
            "dgram_rx_packets",
            "rx_packets",
            "tx_packets",
        ] {
            assert_eq!(device.counter(3, name), 6, "{name}");
        }
    }
}

#[test]
fn nobody_is_told_of_unless_it_is_a_habit() {
    for (options, answers) in [
        (SHARED, true),
        ("--host libkrun", false),
        ("--host libkrun --refuse-dgrams on", true),
    ] {
        let (device, mut driver) = start(options, BUFFER);
        driver.send(TX, &driver.packet(DGRAM, RW, 77, 1000, b"anybody?"));
        wait_for("the counter", || {
            (device.counter(3, "dgram_to_host_nobody") == 1).then_some(())
        });
        if answers {
            let packet = driver.receive(RX, BUFFER);
            assert_eq!((packet.kind, packet.op), (DGRAM, RST));
            assert_eq!((packet.src, packet.dst), ((2, 1000), (3, 77)));
        }
        sleep(A_WHILE);
        assert_eq!(driver.pending(RX), 0);
    }
}

#[test]
fn what_is_longer_than_the_buffer_is_lost_or_cut() {
    for (options, cuts) in [(SHARED, false), ("--host libkrun", true)] {
        let (device, mut driver) = start(options, 4096);
        let host = device.dgram("3_9");
        driver.send(TX, &driver.packet(DGRAM, RW, 1, 9, b"x"));
        let (_, from) = host.recv_from(&mut [0; 8]).unwrap();
        host.send_to_addr(&pattern(4053), &from).unwrap();
        host.send_to_addr(&pattern(4051), &from).unwrap();
        if cuts {
            assert!(driver.receive(RX, 4096).data == pattern(4053)[..4052]);
        }
        assert!(driver.receive(RX, 4096).data == pattern(4051));
        assert_eq!(device.counter(3, "dgram_rx_too_big"), u64::from(!cuts));
    }
}

#[test]
fn what_finds_no_buffer_waits_for_one() {
    let device = Device::start("--host libkrun");
    let mut driver = Driver::new(&device, 3, 3, 8);
    driver.post(RX, 1, 4096);
    let host = device.dgram("3_9");
    driver.send(TX, &driver.packet(DGRAM, RW, 1, 9, b"x"));
    let (_, from) = host.recv_from(&mut [0; 8]).unwrap();
    for number in 0..3 {
        host.send_to_addr(&[number], &from).unwrap();
    }
    sleep(Duration::from_secs(1));
    for number in 0..3 {
        // It is posted again by this.
        assert_eq!(driver.receive(RX, 4096).data, [number]);
    }
    assert_eq!(device.counter(3, "dgram_rx_no_buffers"), 0);
}

#[test]
fn cids_the_wrong_way_round() {
    let (device, mut driver) = start("--host libkrun --swap-cids on", BUFFER);
    let host = device.dgram("3_9");
    driver.send(TX, &driver.packet(DGRAM, RW, 1, 9, b"x"));
    let (_, from) = host.recv_from(&mut [0; 8]).unwrap();
    host.send_to_addr(b"back", &from).unwrap();
    let packet = driver.receive(RX, BUFFER);
    assert_eq!((packet.src, packet.dst), ((3, 0), (2, 1)));
}

#[test]
fn without_the_bit_there_are_none() {
    let device = Device::start("--host libkrun");
    let mut driver = Driver::new(&device, 3, 3, 0);
    driver.post(RX, 4, BUFFER);
    driver.send(TX, &driver.packet(DGRAM, RW, 77, 1000, b"hello"));
    wait_for("the counter", || {
        (device.counter(3, "tx_wrong_kind") == 1).then_some(())
    });
    // Streams work with it and without.
    driver.send(TX, &driver.packet(STREAM, RW, 77, 1000, b"hello"));
    assert_eq!(driver.receive(RX, BUFFER).op, RST);
}
