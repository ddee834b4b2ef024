// SPDX-License-Identifier: GPL-2.0

//! N5: the interface switched, its qdisc replaced, its device taken away, under traffic and with much in the qdisc.

use std::{thread, time::Duration};

use anyhow::{ensure, Context, Result};

use super::{
    carried::{datagrams, Loss},
    control::{scheduled, switch, tc, Counted, INTERFACE, IP, TC},
    streams::Reader,
};
use crate::{
    process::Process,
    session::{Session, Side},
    suites::{
        our_device::{self, messages, streams},
        AT_ONCE, LONG,
    },
};

/// Has `body` run again and again while a program in the guest does something; that ends with a line that begins so.
fn while_runs(
    s: &mut Session,
    program: &Process,
    end: &str,
    mut body: impl FnMut(&mut Session) -> Result<()>,
) -> Result<u32> {
    let mut rounds = 0;
    while !program.ended() {
        body(s).with_context(|| format!("round {rounds}"))?;
        rounds += 1;
    }
    let text = program.success(LONG)?;
    ensure!(text.contains(end), "it said: {text}");
    Ok(rounds)
}

/// Up and down a thousand times: nothing is lost, changed or late, and datagrams, too, keep their order.
pub fn switched(s: &mut Session) -> Result<()> {
    switched_so_often(s, 1000)
}

/// The same for who has not so much time.
pub fn switched_at_times(s: &mut Session) -> Result<()> {
    switched_so_often(s, 100)
}

fn switched_so_often(s: &mut Session, times: u32) -> Result<()> {
    scheduled(s, &["qdisc add DEV root handle 1: fq_codel"], |s| {
        let script = format!(
            "i=0; while [ $i -lt {times} ]; do {IP} link set {INTERFACE} down && {IP} link set {INTERFACE} up || exit; i=$((i + 1)); done; echo SWITCHED"
        );
        let program = s.spawn(Side::Guest, &["sh", "-c", &script])?;
        let mut lost = 0;
        let rounds = while_runs(s, &program, "SWITCHED", |s| {
            our_device::echoes(s)?;
            messages::small(s)?;
            streams::both_ways(s)?;
            lost += datagrams(s, 1000, Loss::Any)?;
            Ok(())
        })?;
        s.events.note(format!(
            "{times} times down and up, {rounds} rounds of traffic, {lost} datagrams lost"
        ));
        Ok(())
    })
}

/// What a qdisc has when it is replaced is lost of datagrams, and asked for again of connections.
pub fn replaced(s: &mut Session) -> Result<()> {
    scheduled(s, &["qdisc add DEV root handle 1: pfifo"], |s| {
        let script = format!(
            "for i in 1 2 3 4 5 6 7 8; do for q in 'netem delay 5ms' prio sfq fq fq_codel cake 'tbf rate 80mbit burst 70kb limit 4mb' pfifo; do {TC} qdisc replace dev {INTERFACE} root handle 1: pfifo limit 3; {TC} qdisc del dev {INTERFACE} root; {TC} qdisc add dev {INTERFACE} root $q || exit; sleep 0.05; done; done; echo REPLACED"
        );
        let program = s.spawn(Side::Guest, &["sh", "-c", &script])?;
        let rounds = while_runs(s, &program, "REPLACED", |s| {
            streams::both_ways(s)?;
            messages::small(s)
        })?;
        ensure!(rounds > 1, "that was not under traffic: {rounds} rounds");
        Ok(())
    })
}

const SLOW: &[&str] = &["qdisc add DEV root handle 1: tbf rate 8kbit burst 70kb limit 1mb"];
const MUCH: u64 = 230_000;

/// A stream that has all its bytes in a qdisc which hardly lets any pass.
fn full(s: &mut Session) -> Result<(Reader, Process)> {
    let reader = Reader::new(s)?;
    let sender = reader.sender(s, MUCH, "")?;
    sender.expect("SENT", LONG)?;
    Counted::until_waiting(s)?;
    thread::sleep(Duration::from_millis(200));
    ensure!(
        reader.bytes() < MUCH,
        "all bytes have passed a qdisc of 8 kbit/s"
    );
    Ok((reader, sender))
}

/// It goes out when the interface is switched off, in order, and at once.
pub fn down_while_full(s: &mut Session) -> Result<()> {
    scheduled(s, SLOW, |s| {
        let (reader, sender) = full(s)?;
        switch(s, "down")?;
        reader.has_more_than(MUCH - 1, AT_ONCE)?;
        sender.success(AT_ONCE)?;
        reader.is_right()
    })
}

/// A filter that drops a stream's turns: it stands still, another goes on; and it goes on when the filter is taken away.
pub fn dropped(s: &mut Session) -> Result<()> {
    use super::control::for_port;
    scheduled(s, &["qdisc add DEV clsact"], |s| {
        let [one, other] = [Reader::new(s)?, Reader::new(s)?];
        let _senders = [one.endless(s, "")?, other.endless(s, "")?];
        one.has_more_than(0, LONG)?;
        tc(
            s,
            &format!(
                "filter add dev {INTERFACE} egress protocol all {} action drop",
                for_port(one.port)
            ),
        )?;
        // What has had its turn is on its way.
        let stands = one.stands_still()?;
        let goes = other.bytes();
        thread::sleep(Duration::from_secs(2));
        ensure!(
            one.bytes() == stands,
            "{} bytes came of a stream whose turns are dropped",
            one.bytes() - stands
        );
        other.has_more_than(goes + 1_000_000, LONG)?;
        tc(s, &format!("filter del dev {INTERFACE} egress"))?;
        one.has_more_than(stands + 1_000_000, LONG)?;
        one.is_right()?;
        other.is_right()
    })
}

/// The device goes while its qdisc is full; what waits of connections goes first, as without a qdisc.
pub fn unbound_while_full(s: &mut Session) -> Result<()> {
    scheduled(s, SLOW, |s| {
        let (reader, sender) = full(s)?;
        let (device, driver) = s.device()?;
        s.guest_sh(&format!(
            "echo {device} >/sys/bus/virtio/drivers/{driver}/unbind && [ ! -e /sys/class/net/{INTERFACE} ]"
        ))
        .context("unbound, the interface is to go")?;
        sender.wait(LONG)?;
        reader.is_right()?;
        s.guest_sh(&format!(
            "echo {device} >/sys/bus/virtio/drivers/{driver}/bind && [ -e /sys/class/net/{INTERFACE} ]"
        ))
        .context("bound anew, the interface is to be there")?;
        our_device::echoes(s)?;
        // It is another one: down, and without a qdisc of ours.
        switch(s, "up")?;
        tc(
            s,
            &format!("qdisc add dev {INTERFACE} root handle 1: fq_codel"),
        )?;
        our_device::echoes(s)?;
        let counted = Counted::now(s)?;
        ensure!(counted.packets > 0, "its qdisc has counted {counted:?}");
        Ok(())
    })
}

/// The module goes while its interface is up, once no socket holds it. Turns in a qdisc hold theirs: so they are dropped, and
/// what they were for goes.
pub fn unloaded(s: &mut Session) -> Result<()> {
    scheduled(s, SLOW, |s| {
        let (_reader, sender) = full(s)?;
        drop(sender);
        tc(
            s,
            &format!("qdisc replace dev {INTERFACE} root handle 2: fq_codel"),
        )?;
        s.unload_when_free()?;
        s.guest_sh(&format!("[ ! -e /sys/class/net/{INTERFACE} ]"))?;
        s.load()?;
        our_device::echoes(s)
    })
}

/// The host resets all connections while their turns wait.
pub fn reset_while_full(s: &mut Session) -> Result<()> {
    scheduled(s, SLOW, |s| {
        let (reader, sender) = full(s)?;
        our_device::control::say(s, "reset")?;
        sender.wait(LONG)?;
        reader.is_right()?;
        tc(
            s,
            &format!("qdisc replace dev {INTERFACE} root handle 2: fq_codel"),
        )?;
        our_device::echoes(s)
    })
}

/// Who closes a socket with much in the qdisc loses nothing of it.
pub fn closed_while_full(s: &mut Session) -> Result<()> {
    scheduled(s, SLOW, |s| {
        let (reader, sender) = full(s)?;
        drop(sender);
        thread::sleep(Duration::from_millis(500));
        switch(s, "down")?;
        reader.has_more_than(MUCH - 1, AT_ONCE)?;
        reader.is_right()
    })
}
