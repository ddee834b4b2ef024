// SPDX-License-Identifier: GPL-2.0

//! The device as a program: its options, and how it begins and ends.

mod driver;

use std::process::{Command, Output};

use driver::{Device, Driver, ALL, DGRAM_TX};

fn run(words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rvsock-device"))
        .args(words.split_whitespace())
        .output()
        .unwrap()
}

#[test]
fn help_names_every_option() {
    let text = String::from_utf8(run("--help").stdout).unwrap();
    for option in [
        "--guest",
        "--features",
        "--queues",
        "--event-idx",
        "--indirect",
        "--queue-size",
        "--control",
        "--buffer",
        "--memory",
        "--connections",
        "--dgram-ports",
        "--host",
        "--in-order",
        "--rx-pieces",
        "--contiguous",
        "--update-below",
        "--answer-requests",
        "--ask-first",
        "--ask-when-out",
        "--shrink",
        "--answer-goodbye",
        "--pass-half-close",
        "--host-end",
        "--stale",
        "--reset-ack",
    ] {
        assert!(text.contains(option), "{option}");
    }
}

#[test]
fn wrong_options_are_named() {
    let dir = std::env::temp_dir().display().to_string();
    let long = "x".repeat(100);
    for (words, why) in [
        ("", "--guest"),
        ("--guest cid=2,socket=/a,uds=/b", "cid=2 is reserved"),
        ("--guest cid=x,socket=/a,uds=/b", "cid=x is no number"),
        ("--guest cid=3,uds=/b", "socket=PATH is missing"),
        ("--guest cid=3,socket=/a,uds=/b --features color", "color"),
        (
            "--guest cid=3,socket=/a,uds=/b --features dgram,no-implied-stream",
            "same bit",
        ),
        ("--guest cid=3,socket=/a,uds=/b --host apple", "is closed"),
        ("--guest cid=3,socket=/a,uds=/b --host nitro", "wrongly"),
        (
            "--guest cid=3,socket=/a,uds=/b --queue-size 3",
            "power of two",
        ),
        (
            "--guest cid=3,socket=/a,uds=/b --queues 4",
            "three queues, or five",
        ),
        (
            "--guest cid=3,socket=/nowhere/a,uds=/nowhere/b",
            "/nowhere/b",
        ),
        (
            &format!("--guest cid=3,socket=/a,uds={dir}/{long}"),
            "107 bytes",
        ),
        (
            &format!("--guest cid=3,socket={dir}/none,uds={dir}"),
            "is no socket",
        ),
    ] {
        let output = run(words);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{words}");
        assert!(text.contains(why), "{words}: {text}");
    }
}

#[test]
fn it_ends_when_asked_and_leaves_nothing() {
    let mut device = Device::start("--features stream,seqpacket,dgram,mrg-rxbuf");
    let mut driver = Driver::new(&device, 3, 5, ALL);
    let packet = driver.packet(3, 5, 1, 2, b"");
    driver.send(DGRAM_TX, &packet);
    assert!(device.path("3.dgram_1").exists());
    assert_eq!(device.stop(), Some(0));
    let left: Vec<_> = std::fs::read_dir(&device.dir).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_a_dead_device_left_is_no_hindrance() {
    let device = Device::start("");
    let socket = device.path("3.vhost").display().to_string();
    let uds = device.path("3").display().to_string();
    // Alive, it keeps its place.
    let output = run(&format!("--guest cid=3,socket={socket}2,uds={uds}"));
    assert!(String::from_utf8(output.stderr).unwrap().contains("in use"));
    let device = device.crash("");
    Driver::new(&device, 3, 3, 3);
}
