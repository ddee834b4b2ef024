// SPDX-License-Identifier: GPL-2.0

//! What `vhost_user_backend` asks of a device: the features, the configuration, and to look when something happens.

use std::{
    io,
    sync::{Arc, Mutex},
};

use log::debug;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::VhostUserBackend;
use vmm_sys_util::{
    epoll::EventSet,
    event::{new_event_consumer_and_notifier, EventConsumer, EventFlag, EventNotifier},
};

use crate::{
    guest::{Guest, RX, TX},
    options::{Profile, ACCESS_PLATFORM},
    ring::{Space, Vring},
    switch::{lock, Shared},
};

pub struct Backend {
    profile: Profile,
    shared: Arc<Shared>,
    /// Only the queues' thread takes it.
    guest: Mutex<Guest>,
    exit: (EventConsumer, EventNotifier),
}

impl Backend {
    pub fn new(guest: Guest) -> io::Result<Self> {
        Ok(Self {
            profile: guest.limits.profile,
            shared: guest.shared.clone(),
            guest: Mutex::new(guest),
            exit: new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC)?,
        })
    }

    /// The number under which the queues' thread hears of everything that is not a kick.
    pub fn other_events(&self) -> u64 {
        u64::from(self.profile.queues) + 1
    }

    pub fn epoll_fd(&self) -> i32 {
        lock(&self.guest).epoll_fd()
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        self.profile.queues.into()
    }

    fn max_queue_size(&self) -> usize {
        self.profile.queue_size.into()
    }

    fn features(&self) -> u64 {
        self.profile.features
    }

    fn acked_features(&self, features: u64) {
        self.shared.set_features(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let always = VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ;
        if self.profile.features & ACCESS_PLATFORM == 0 {
            return always;
        }
        // QEMU wants to be asked for addresses, which without an IOMMU are what they seem.
        always | VhostUserProtocolFeatures::BACKEND_REQ
    }

    fn set_event_idx(&self, _enabled: bool) {}

    /// The configuration is the guest's CID and nothing else.
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = self.shared.cid().to_le_bytes();
        self.shared.count_config_read();
        let rest = config.iter().copied().chain(std::iter::repeat(0));
        rest.skip(offset.min(8) as usize)
            .take(size.min(4096) as usize)
            .collect()
    }

    fn update_memory(&self, _mem: Space) -> io::Result<()> {
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        let (consumer, notifier) = &self.exit;
        Some((consumer.try_clone().ok()?, notifier.try_clone().ok()?))
    }

    fn stop_vring(&self, index: u32) -> io::Result<()> {
        if [RX, TX].contains(&(index as usize)) && self.shared.running() {
            debug!("{}: the driver has stopped its queues", self.shared.name);
            self.shared.set_running(false);
        }
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _set: EventSet,
        vrings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        let mut guest = lock(&self.guest);
        if event < u16::from(self.profile.queues) {
            guest.kicked(event.into());
        }
        guest.run(vrings);
        Ok(())
    }
}
