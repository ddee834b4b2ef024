// SPDX-License-Identifier: GPL-2.0

//! Commands, carried out by the guest's thread.

use std::sync::mpsc::Sender;

use super::Guest;
use crate::command::Command;

impl Guest {
    /// Does what the control socket asks for.
    pub fn obey_all(&mut self) {
        while let Some((command, answer)) = self.shared.next_command() {
            self.obey(command, answer);
        }
    }

    fn obey(&mut self, command: Command, answer: Sender<Result<(), String>>) {
        match command {
            Command::Reset => {
                self.forget_all();
                self.gate.close();
                // A driver that is just starting may have read the old CID.
                self.events = 1;
            }
            Command::Become => self.forget_all(),
            Command::Abort(port) => {
                let found: Vec<usize> = (self.connections.iter())
                    .filter(|(_, connection)| connection.key.guest_port == port)
                    .map(|(index, _)| index)
                    .collect();
                for index in found {
                    self.reset_connection(index);
                }
            }
            Command::Pause(queue, paused) => self.fault(queue).paused = paused,
            Command::Drop(queue, n) => self.fault(queue).drop = n,
            Command::Delay(queue, delay) => self.fault(queue).delay = delay,
            Command::Forget(queue) => self.fault(queue).deaf = true,
            Command::Loud(queue, loud) => self.fault(queue).loud = loud,
            Command::Pace(queue, pace) => self.fault(queue).pace = pace,
            // The queues are not at hand here.
            Command::Inject(queue, injection) => {
                return self.injections.push((queue, injection, answer));
            }
        }
        self.tx_stalled = false;
        let _ = answer.send(Ok(()));
    }
}
