//! One virtqueue, as QEMU sets it up and stops it.

use std::{fs::File, io::Write};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use crate::log;

/// The guest's memory.
pub(crate) type Memory = GuestMemoryMmap<()>;

/// Most entries of a ring; QEMU's have 128.
pub(crate) const MAX_SIZE: u16 = 1024;

/// A virtqueue.
#[derive(Debug)]
pub(crate) struct Ring {
    name: &'static str,
    queue: Queue,
    /// The guest has notified the device here since the ring was started.
    pub(crate) kick: Option<File>,
    /// The device notifies the guest here.
    pub(crate) call: Option<File>,
    pub(crate) enabled: bool,
    /// The guest has put something impossible in the ring.
    broken: bool,
}

impl Ring {
    pub(crate) fn new(name: &'static str) -> Self {
        let mut queue = Queue::default();
        // The default has a size of 0, which is never valid.
        if let Ok(new) = Queue::new(MAX_SIZE) {
            queue = new;
        }
        Self { name, queue, kick: None, call: None, enabled: false, broken: false }
    }

    /// Returns whether QEMU lets the device use the ring, and the guest has not broken it.
    pub(crate) fn is_running(&self) -> bool {
        self.queue.ready() && self.enabled && !self.broken
    }

    pub(crate) fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Starts the ring; where it continues is in the guest's memory and in QEMU's request.
    pub(crate) fn start(&mut self, memory: &Memory) {
        self.queue.set_ready(true);
        self.broken = false;
        if !self.queue.is_valid(memory) {
            return self.fail("is outside of the guest's memory");
        }
        match self.queue.used_idx(memory, std::sync::atomic::Ordering::Relaxed) {
            Ok(used) => self.queue.set_next_used(used.0),
            Err(_) => self.fail("has no used index"),
        }
    }

    /// Stops the ring and returns the index at which it continues when it is started again.
    pub(crate) fn stop(&mut self) -> u16 {
        self.queue.set_ready(false);
        self.kick = None;
        self.call = None;
        self.queue.next_avail()
    }

    /// Takes the next buffer of the guest.
    pub(crate) fn pop<'m>(&mut self, memory: &'m Memory) -> Option<DescriptorChain<&'m Memory>> {
        if !self.is_running() {
            return None;
        }
        match self.queue.iter(memory) {
            Ok(mut available) => available.next(),
            Err(_) => {
                self.fail("has an impossible index");
                None
            }
        }
    }

    /// Gives the last buffer that was taken back, unused.
    pub(crate) fn unpop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a buffer to the guest after `written` bytes were written to it.
    pub(crate) fn push(&mut self, memory: &Memory, head: u16, written: usize) {
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        if self.queue.add_used(memory, head, written).is_err() {
            self.fail("has an impossible buffer");
        }
    }

    /// Asks the guest for a notification of the next buffer; returns whether there is one already.
    pub(crate) fn enable_kicks(&mut self, memory: &Memory) -> bool {
        self.is_running() && self.queue.enable_notification(memory).unwrap_or(false)
    }

    /// Tells the guest that its notifications are of no use now.
    pub(crate) fn disable_kicks(&mut self, memory: &Memory) {
        if self.is_running() {
            // The guest only notifies more than it need.
            let _ = self.queue.disable_notification(memory);
        }
    }

    /// Notifies the guest of buffers that were returned, if it wants to be.
    pub(crate) fn notify(&mut self, memory: &Memory) {
        if self.is_running()
            && self.queue.needs_notification(memory).unwrap_or(true)
            && let Some(mut call) = self.call.as_ref()
        {
            // It fails only when a notification is pending already.
            let _ = call.write(&1_u64.to_ne_bytes());
        }
    }

    fn fail(&mut self, why: &str) {
        self.broken = true;
        log(format_args!("the guest's {} queue {why}; it is no longer served", self.name));
    }
}
