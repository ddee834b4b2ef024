// SPDX-License-Identifier: GPL-2.0

//! The control socket, and what its commands do to a driver.

mod driver;

use std::{thread::sleep, time::Duration};

use driver::{Device, Driver, ALL, DGRAM_RX, RX};

const FIVE: &str = "--features stream,seqpacket,dgram,mrg-rxbuf";

#[test]
fn a_reset_is_an_event_on_the_last_queue() {
    // The event queue is behind the datagrams', which a driver may not know of.
    for (features, queue) in [(ALL, 4), (3, 2)] {
        let device = Device::start(FIVE);
        let mut driver = Driver::new(&device, 3, 5, features);
        driver.post(queue, 2, 64);
        assert_eq!(device.command("reset cid=30"), "ok");
        driver::wait_for("an event", || (driver.pending(queue) == 1).then_some(()));
        assert_eq!(driver.configured_cid(), 30);
        assert!(device.command("counters guest=3").starts_with("error"));
        assert_eq!(device.counter(30, "events"), 1);
    }
}

#[test]
fn packets_are_put_there_as_they_were_asked_for() {
    let device = Device::start(FIVE);
    let mut driver = Driver::new(&device, 3, 5, ALL);
    driver.post(RX, 8, 4096);
    assert_eq!(device.command("inject rx op=1 dst_port=9 flags=5"), "ok");
    let packet = driver.receive(RX, 4096);
    assert_eq!((packet.op, packet.dst, packet.flags), (1, (3, 9), 5));
    assert!(device
        .command("inject dgram-rx data=00")
        .starts_with("error"));
    driver.post(DGRAM_RX, 8, 4096);
    // A short middle, and a used length that is more than there is.
    let command = "inject dgram-rx zeros=100 spread=50,60 used=50,100000 num_buffers=7";
    assert_eq!(device.command(command), "ok");
    assert_eq!(driver.raw(DGRAM_RX), Some(50));
    assert_eq!(driver.raw(DGRAM_RX), Some(100_000));
}

#[test]
fn queues_pause_and_lose() {
    let device = Device::start(FIVE);
    let mut driver = Driver::new(&device, 3, 5, ALL);
    driver.post(DGRAM_RX, 8, 4096);
    let host = device.dgram("somebody");
    let to = device.path("3.dgram");
    host.send_to(b"CONNECT 1\n", &to).unwrap();
    host.recv(&mut [0; 32]).unwrap();
    assert_eq!(device.command("pause dgram-rx"), "ok");
    host.send_to(b"a", &to).unwrap();
    sleep(Duration::from_millis(100));
    assert_eq!(driver.pending(DGRAM_RX), 0);
    assert_eq!(device.command("resume dgram-rx"), "ok");
    assert_eq!(driver.receive(DGRAM_RX, 4096).data, b"a");
    assert_eq!(device.command("drop dgram-rx 2"), "ok");
    for message in [b"b", b"c", b"d"] {
        host.send_to(message, &to).unwrap();
    }
    assert_eq!(driver.receive(DGRAM_RX, 4096).data, b"d");
    assert_eq!(device.counter(3, "dropped_on_command"), 2);
    assert_eq!(device.command("delay dgram-rx 200"), "ok");
    let begin = std::time::Instant::now();
    host.send_to(b"e", &to).unwrap();
    assert_eq!(driver.receive(DGRAM_RX, 4096).data, b"e");
    assert!(begin.elapsed() >= Duration::from_millis(200));
}
