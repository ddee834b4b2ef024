// SPDX-License-Identifier: GPL-2.0

//! The habits of other hosts, one by one, as a driver sees them.

mod driver;

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    thread::sleep,
    time::Duration,
};

use driver::{wait_for, Device, Driver, Packet, RX, TX};

const EVENT: usize = 2;
const STREAM: u16 = 1;
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const SHUTDOWN: u16 = 4;
const RW: u16 = 5;
const UPDATE: u16 = 6;
const ASK: u16 = 7;

const OURS: u32 = 77;
const THEIRS: u32 = 1000;
const BUFFER: usize = 36 << 10;

/// Long enough for the device to say something, had it anything to say.
const A_WHILE: Duration = Duration::from_millis(100);

/// A device with these options, and a driver with buffers.
fn start(options: &str) -> (Device, Driver) {
    let device = Device::start(options);
    let mut driver = Driver::new(&device, 3, 3, 0);
    driver.post(RX, 32, BUFFER);
    (device, driver)
}

fn packet(driver: &Driver, op: u16, data: &[u8]) -> Packet {
    driver.packet(STREAM, op, OURS, THEIRS, data)
}

fn send(driver: &mut Driver, op: u16, data: &[u8]) {
    let packet = packet(driver, op, data);
    driver.send(TX, &packet);
}

fn receive(driver: &mut Driver) -> Packet {
    driver.receive(RX, BUFFER)
}

fn shut(driver: &mut Driver, flags: u32) {
    let mut packet = packet(driver, SHUTDOWN, b"");
    packet.flags = flags;
    driver.send(TX, &packet);
}

/// A connection of the guest's, as far as the request; the host's end.
fn request(device: &Device, driver: &mut Driver) -> UnixStream {
    let path = device.path(&format!("3_{THEIRS}"));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    send(driver, REQUEST, b"");
    let (stream, _) = listener.accept().unwrap();
    let patience = Some(Duration::from_secs(5));
    stream.set_read_timeout(patience).unwrap();
    stream
}

fn connected(device: &Device, driver: &mut Driver) -> UnixStream {
    let stream = request(device, driver);
    assert_eq!(receive(driver).op, RESPONSE);
    stream
}

fn is_silent(driver: &Driver) -> bool {
    sleep(A_WHILE);
    driver.pending(RX) == 0
}

/// The program reads on, and has nothing to read, nor an end.
fn hears_nothing(stream: &UnixStream) -> bool {
    stream.set_read_timeout(Some(A_WHILE)).unwrap();
    let mut stream = stream;
    let error = stream.read(&mut [0; 1]).unwrap_err();
    error.kind() == std::io::ErrorKind::WouldBlock
}

/// The requests that came once the driver had kicked the event queue, or read the configuration.
fn held_back(host: &str, acknowledge: impl FnOnce(&mut Driver)) {
    let (device, mut driver) = start(&format!("--host {host}"));
    driver.post(EVENT, 2, 64);
    // Before the reset nothing is held back.
    let _first = device.greet(3, 9);
    assert_eq!(receive(&mut driver).op, REQUEST);
    assert_eq!(device.command("reset"), "ok");
    wait_for("an event", || (driver.pending(EVENT) == 1).then_some(()));
    let programs: Vec<_> = (0..20).map(|_| device.greet(3, 9)).collect();
    assert!(is_silent(&driver));
    acknowledge(&mut driver);
    wait_for("all requests", || (driver.pending(RX) == 20).then_some(()));
    drop(programs);
}

#[test]
fn firecracker_waits_for_the_event_queue_after_a_reset() {
    held_back("firecracker", |driver| driver.post(EVENT, 1, 64));
}

#[test]
fn the_read_of_the_cid_can_be_what_is_waited_for() {
    held_back("vhost-device-vsock", |driver| {
        driver.post(EVENT, 1, 64);
        assert!(is_silent(driver));
        assert_eq!(driver.configured_cid(), 3);
    });
}

#[test]
fn a_reset_holds_back_what_was_asked_for_before_its_event_went_out() {
    let (device, mut driver) = start("--host firecracker");
    driver.post(EVENT, 2, 64);
    assert_eq!(device.command("pause event"), "ok");
    assert_eq!(device.command("reset"), "ok");
    let _program = device.greet(3, 9);
    // The driver has not heard of the reset, so that this kick says nothing of it.
    driver.post(EVENT, 1, 64);
    assert!(is_silent(&driver));
    assert_eq!(device.command("resume event"), "ok");
    wait_for("an event", || (driver.pending(EVENT) == 1).then_some(()));
    assert!(is_silent(&driver));
    driver.post(EVENT, 1, 64);
    assert_eq!(receive(&mut driver).op, REQUEST);
}

#[test]
fn firecracker_passes_no_half_close_on() {
    let (device, mut driver) = start("--host firecracker");
    let stream = connected(&device, &mut driver);
    shut(&mut driver, 2);
    assert!(hears_nothing(&stream));
    shut(&mut driver, 1);
    assert_eq!(receive(&mut driver).op, RST);

    let stream = connected(&device, &mut driver);
    stream.shutdown(Shutdown::Write).unwrap();
    let said = receive(&mut driver);
    assert_eq!((said.op, said.flags), (SHUTDOWN, 3));
}

#[test]
fn cloud_hypervisor_passes_half_closes_on() {
    let (device, mut driver) = start("--host cloud-hypervisor");
    let mut stream = connected(&device, &mut driver);
    shut(&mut driver, 2);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    stream.write_all(b"more").unwrap();
    assert_eq!(receive(&mut driver).data, b"more");

    drop(stream);
    let said = receive(&mut driver);
    assert_eq!(said.op, SHUTDOWN);
    shut(&mut driver, 3);
    assert_eq!(receive(&mut driver).op, RST);
    let stream = connected(&device, &mut driver);
    stream.shutdown(Shutdown::Write).unwrap();
    let said = receive(&mut driver);
    assert_eq!((said.op, said.flags), (SHUTDOWN, 2));
}

#[test]
fn libkrun_resets_when_the_program_ends_its_half() {
    let (device, mut driver) = start("--host libkrun");
    let stream = connected(&device, &mut driver);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive(&mut driver).op, RST);
}

/// Sends so much, which the program reads; true if the device then tells of room.
fn tells_after(driver: &mut Driver, stream: &mut UnixStream, bytes: usize) -> bool {
    let mut left = bytes;
    while left > 0 {
        let n = left.min(16 << 10);
        send(driver, RW, &vec![1; n]);
        stream.read_exact(&mut vec![0; n]).unwrap();
        left -= n;
    }
    if is_silent(driver) {
        return false;
    }
    let said = receive(driver);
    assert_eq!(said.op, UPDATE);
    true
}

#[test]
fn room_is_told_of_late() {
    for (host, quiet) in [
        ("firecracker", 60 << 10),
        ("vhost-device-vsock", 48 << 10),
        ("libkrun", (4 << 20) - 1),
        // Half of what the driver of these tests says of its own buffer.
        ("libkrun-1.19", (128 << 10) - 1),
        ("linux-old", (2 << 20) - (64 << 10)),
    ] {
        let (device, mut driver) = start(&format!("--host {host}"));
        let mut stream = connected(&device, &mut driver);
        assert!(!tells_after(&mut driver, &mut stream, quiet), "{host}");
        assert!(tells_after(&mut driver, &mut stream, 1), "{host}");
    }
}

#[test]
fn who_asks_for_credit_is_answered_or_not() {
    for (options, answer) in [("--host libkrun", true), ("--host libkrun-1.19", false)] {
        let (device, mut driver) = start(options);
        let _stream = connected(&device, &mut driver);
        send(&mut driver, ASK, b"");
        if answer {
            assert_eq!(receive(&mut driver).op, UPDATE);
        } else {
            assert!(is_silent(&driver));
        }
    }
}

#[test]
fn credit_is_asked_for_before_the_answer() {
    let (device, mut driver) = start("--host libkrun --ask-first on");
    let _stream = request(&device, &mut driver);
    assert_eq!(receive(&mut driver).op, ASK);
    assert_eq!(receive(&mut driver).op, RESPONSE);
}

#[test]
fn packets_get_ever_smaller_and_then_credit_is_asked_for() {
    let (device, mut driver) = start("--host libkrun");
    let mut stream = connected(&device, &mut driver);
    let mut credit = packet(&driver, UPDATE, b"");
    credit.buf_alloc = 1000;
    driver.send(TX, &credit);
    // The device has this credit before it has anything to send.
    stream.write_all(&[7; 2000]).unwrap();
    let mut sizes = Vec::new();
    loop {
        let said = receive(&mut driver);
        if said.op == ASK {
            break;
        }
        sizes.push(said.data.len());
    }
    assert_eq!(sizes, [500, 250, 125, 63, 31, 16, 8, 4, 2, 1]);
    assert!(is_silent(&driver));
    credit.fwd_cnt = 1000;
    driver.send(TX, &credit);
    assert_eq!(receive(&mut driver).data.len(), 500);
}

#[test]
fn a_goodbye_without_an_answer() {
    let (device, mut driver) = start("--host libkrun --answer-goodbye off");
    let mut stream = connected(&device, &mut driver);
    shut(&mut driver, 3);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert!(is_silent(&driver));
    // The guest's own patience ends it.
    send(&mut driver, RST, b"");
    assert!(is_silent(&driver));
    let _stream = connected(&device, &mut driver);
}

#[test]
fn payloads_in_pieces_are_refused() {
    for (pieces, taken) in [(1, true), (2, false)] {
        let (device, mut driver) = start("--host vhost-device-vsock");
        let mut stream = connected(&device, &mut driver);
        let data = vec![5; 32 << 10];
        let header = {
            let packet = packet(&driver, RW, &data);
            driver.header(&packet)
        };
        let (first, second) = data.split_at(data.len() / pieces);
        driver.send_pieces(TX, &[&header, first, second]);
        if taken {
            stream.read_exact(&mut vec![0; data.len()]).unwrap();
        } else {
            assert_eq!(receive(&mut driver).op, RST);
        }
    }
    let (device, mut driver) = start("--host vhost-device-vsock");
    let _stream = connected(&device, &mut driver);
    send(&mut driver, RW, &vec![5; (32 << 10) + 1]);
    assert_eq!(receive(&mut driver).op, RST);
    assert_eq!(device.counter(3, "tx_violations"), 1);
}

#[test]
fn a_buffer_comes_back_with_what_it_held_before() {
    let device = Device::start("--host vhost-device-vsock");
    let mut driver = Driver::new(&device, 3, 3, 0);
    driver.post(RX, 1, BUFFER);
    let old: Vec<u8> = (0..44).collect();
    driver.leave_bytes(RX, &old);
    driver.post(RX, 1, BUFFER);
    let _stream = request(&device, &mut driver);
    wait_for("the answer", || driver.raw_bytes(RX));
    send(&mut driver, RST, b"");
    assert_eq!(wait_for("a stale buffer", || driver.raw_bytes(RX)), old);
    assert_eq!(device.counter(3, "rx_stale"), 1);
}
