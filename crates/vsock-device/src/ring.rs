//! One virtqueue, as QEMU sets it up and stops it.

use std::{fs::File, io::Write};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use crate::log;

/// The guest's memory.
pub(crate) type Memory = GuestMemoryMmap<()>;

/// Maximum number of entries of a ring; QEMU's have 128.
pub(crate) const MAX_SIZE: u16 = 1024;

/// A virtqueue.
#[derive(Debug)]
pub(crate) struct Ring {
    name: &'static str,
    queue: Queue,
    /// The eventfd that the guest uses to notify the device.
    pub(crate) kick: Option<File>,
    /// The eventfd that the device uses to notify the guest.
    pub(crate) call: Option<File>,
    pub(crate) enabled: bool,
    /// The ring's content is invalid, so the device ignores it until QEMU restarts it.
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

    /// Returns whether the device may use the ring.
    pub(crate) fn is_running(&self) -> bool {
        self.queue.ready() && self.enabled && !self.broken
    }

    pub(crate) fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Starts the ring. It continues at the used index in the guest's memory.
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

    /// Stops the ring and returns the index of the next available buffer.
    pub(crate) fn stop(&mut self) -> u16 {
        self.queue.set_ready(false);
        self.kick = None;
        self.call = None;
        self.queue.next_avail()
    }

    /// Returns the next available buffer of the guest.
    pub(crate) fn pop<'m>(&mut self, memory: &'m Memory) -> Option<DescriptorChain<&'m Memory>> {
        if !self.is_running() {
            return None;
        }
        match self.queue.iter(memory) {
            Ok(mut available) => available.next(),
            Err(_) => {
                self.fail("has an invalid index");
                None
            }
        }
    }

    /// Undoes the last `pop`.
    pub(crate) fn unpop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a buffer to the guest after `written` bytes were written to it.
    pub(crate) fn push(&mut self, memory: &Memory, head: u16, written: usize) {
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        if self.queue.add_used(memory, head, written).is_err() {
            self.fail("has an invalid buffer");
        }
    }

    /// Requests a notification of the next buffer. Returns whether a buffer is already available.
    pub(crate) fn enable_kicks(&mut self, memory: &Memory) -> bool {
        self.is_running() && self.queue.enable_notification(memory).unwrap_or(false)
    }

    /// Asks the guest not to notify the device.
    pub(crate) fn disable_kicks(&mut self, memory: &Memory) {
        if self.is_running() {
            // An error costs only unneeded notifications.
            let _ = self.queue.disable_notification(memory);
        }
    }

    /// Notifies the guest of returned buffers if it has requested that.
    pub(crate) fn notify(&mut self, memory: &Memory) {
        if self.is_running()
            && self.queue.needs_notification(memory).unwrap_or(true)
            && let Some(mut call) = self.call.as_ref()
        {
            // This fails only when a notification is pending already.
            let _ = call.write(&1_u64.to_ne_bytes());
        }
    }

    fn fail(&mut self, why: &str) {
        self.broken = true;
        log(format_args!("the guest's {} queue {why}; it is no longer served", self.name));
    }
}
