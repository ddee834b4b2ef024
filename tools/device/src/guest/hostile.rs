// SPDX-License-Identifier: GPL-2.0

//! What no honest device does: packets of any bytes, over any buffers, with any lengths in the used ring.
//!
//! It is for tests of drivers, which must bear all of it, and happens only when the control socket asks for it.

use std::sync::mpsc::Sender;

use super::{Guest, DGRAM_RX, RX};
use crate::{
    command::Injection,
    fault::Queue,
    ring::{Head, Memory, Vring},
};

/// An injection that waits for its thread to come round to the queues, and who waits for it.
pub type Pending = (Queue, Injection, Sender<Result<(), String>>);

impl Guest {
    /// Puts what was asked for on the queues.
    pub fn inject(&mut self, vrings: &[Vring], mem: &Memory) {
        for (queue, injection, answer) in std::mem::take(&mut self.injections) {
            let outcome = self.inject_one(queue, &injection, vrings, mem);
            let _ = answer.send(outcome);
        }
    }

    fn inject_one(
        &mut self,
        queue: Queue,
        injection: &Injection,
        vrings: &[Vring],
        mem: &Memory,
    ) -> Result<(), String> {
        let (index, dgram) = match queue {
            Queue::Rx => (RX, false),
            Queue::DgramRx if self.has_dgram_rings() => (DGRAM_RX, true),
            Queue::DgramRx if self.shares_dgrams() => (RX, true),
            Queue::Event => (self.event_queue(), false),
            _ => return Err("that queue brings nothing to the guest".into()),
        };
        let ring = self.ring(vrings, index, mem);
        let mut ring = ring.ok_or("the queue is not set up")?;
        let bytes = if queue == Queue::Event {
            injection.raw.clone().unwrap_or_default()
        } else {
            injection.bytes(self.shared.cid(), self.header_size(), dgram)
        };
        let mut rest = bytes.as_slice();
        let mut spread = injection.spread.clone();
        if spread.iter().sum::<usize>() < rest.len() || spread.is_empty() {
            spread.push(rest.len().saturating_sub(spread.iter().sum()));
        }
        let mut chains = Vec::new();
        for _ in &spread {
            match ring.pop() {
                Some(chain) => chains.push(chain),
                None => {
                    for _ in &chains {
                        ring.unpop();
                    }
                    return Err(format!(
                        "the driver has only {} buffers there",
                        chains.len()
                    ));
                }
            }
        }
        for (i, (chain, n)) in chains.into_iter().zip(spread).enumerate() {
            let head = chain.head();
            let (part, behind) = rest.split_at(n.min(rest.len()));
            let written = ring.write_chain(chain, part);
            rest = behind;
            let len = injection.used.get(i).copied().unwrap_or(written);
            let id = injection.head.unwrap_or(head.id);
            ring.used(Head { id, ..head }, len);
        }
        Ok(())
    }
}
