//! QEMU's requests (its documentation, "Vhost-user Protocol").

use std::{fs::File, os::fd::OwnedFd, sync::Arc};

use rustix::event::epoll;
use vhost::vhost_user::{
    Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
    message::{
        VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
        VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
        VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
    },
};
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestRegionMmap};

use crate::{
    log,
    ring::{Memory, Ring},
};

/// The features that the device offers, by their bits (virtio 1.2, 6): `VIRTIO_F_VERSION_1`, and
/// `VIRTIO_F_EVENT_IDX`, which avoids most notifications.
const FEATURES: u64 = 1 << 32 | 1 << EVENT_IDX | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
const EVENT_IDX: u32 = 29;

/// The guest's memory and the virtqueues, as QEMU sets them up.
pub(crate) struct VhostUser {
    guest_cid: u64,
    /// Watches the notifications of the rings, with the tokens in `kicks`.
    epoll: Arc<OwnedFd>,
    kicks: [u64; 2],
    pub(crate) memory: Memory,
    /// The memory's regions with their addresses in QEMU.
    regions: Vec<VhostUserMemoryRegion>,
    /// The rx ring (0) and the tx ring (1). QEMU itself serves the event ring (2).
    pub(crate) rings: [Ring; 2],
}

impl VhostUser {
    pub(crate) fn new(guest_cid: u32, epoll: Arc<OwnedFd>, kicks: [u64; 2]) -> Self {
        Self {
            guest_cid: guest_cid.into(),
            epoll,
            kicks,
            memory: Memory::default(),
            regions: Vec::new(),
            rings: [Ring::new("rx"), Ring::new("tx")],
        }
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        usize::try_from(index).ok().and_then(|index| self.rings.get_mut(index)).ok_or(Error::InvalidParam)
    }

    /// Converts an address in QEMU to the guest's.
    fn guest_address(&self, address: u64) -> Result<GuestAddress> {
        let within = |region: &VhostUserMemoryRegion| {
            let offset =
                address.checked_sub(region.user_addr).filter(|offset| *offset < region.memory_size)?;
            Some(GuestAddress(region.guest_phys_addr + offset))
        };
        self.regions.iter().find_map(within).ok_or(Error::InvalidParam)
    }
}

/// Requests of features that the device does not offer.
const UNSUPPORTED: Error = Error::InvalidOperation("not supported by the vsock device");

impl VhostUserBackendReqHandlerMut for VhostUser {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !FEATURES != 0 {
            return Err(Error::InvalidParam);
        }
        for ring in &mut self.rings {
            ring.queue().set_event_idx(features & 1 << EVENT_IDX != 0);
            // QEMU before 7.2 acknowledges no protocol features here, and enables no rings.
            if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
                ring.enabled = true;
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let mut mapped = Vec::with_capacity(regions.len());
        for (region, file) in regions.iter().zip(files) {
            let start = GuestAddress(region.guest_phys_addr);
            mapped.push(GuestRegionMmap::new(region.mmap_region(file)?, start).ok_or(Error::InvalidParam)?);
        }
        self.memory = Memory::from_regions(mapped).map_err(|_| Error::InvalidParam)?;
        self.regions = regions.to_vec();
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        let size = u16::try_from(size).map_err(|_| Error::InvalidParam)?;
        self.ring(index)?.queue().try_set_size(size).map_err(|_| Error::InvalidParam)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _: u64,
    ) -> Result<()> {
        let [descriptors, used, available] =
            [descriptors, used, available].map(|address| self.guest_address(address));
        let queue = self.ring(index)?.queue();
        queue.try_set_desc_table_address(descriptors?).map_err(|_| Error::InvalidParam)?;
        queue.try_set_used_ring_address(used?).map_err(|_| Error::InvalidParam)?;
        queue.try_set_avail_ring_address(available?).map_err(|_| Error::InvalidParam)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.ring(index)?.queue().set_next_avail(base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.unwatch(index)?;
        let next = self.ring(index)?.stop();
        Ok(VhostUserVringState::new(index, next.into()))
    }

    fn set_vring_kick(&mut self, index: u8, kick: Option<File>) -> Result<()> {
        let index = u32::from(index);
        self.unwatch(index)?;
        let Self { epoll, kicks, memory, rings, .. } = self;
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let (Some(ring), Some(token)) = (rings.get_mut(at), kicks.get(at)) else {
            return Err(Error::InvalidParam);
        };
        if let Some(kick) = &kick {
            // Edge-triggered, so that the device need not read it: a read could block.
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&**epoll, kick, epoll::EventData::new_u64(*token), flags)
                .map_err(|error| Error::ReqHandlerError(error.into()))?;
        }
        ring.kick = kick;
        ring.start(memory);
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, call: Option<File>) -> Result<()> {
        self.ring(index.into())?.call = call;
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _: Option<File>) -> Result<()> {
        self.ring(index.into()).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::CONFIG)
    }

    fn set_protocol_features(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Err(UNSUPPORTED)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let config = self.guest_cid.to_le_bytes();
        let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
        let range = range.and_then(|(offset, size)| Some(offset..offset.checked_add(size)?));
        range.and_then(|range| config.get(range)).map(<[u8]>::to_vec).ok_or(Error::InvalidParam)
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(UNSUPPORTED)
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(UNSUPPORTED)
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Err(UNSUPPORTED)
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<u64>> {
        Err(UNSUPPORTED)
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(UNSUPPORTED)
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(UNSUPPORTED)
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        Err(UNSUPPORTED)
    }
}

impl VhostUser {
    /// Stops watching a ring's notifications. Closing the eventfd is not enough, because QEMU has it open, too.
    fn unwatch(&mut self, index: u32) -> Result<()> {
        let epoll = Arc::clone(&self.epoll);
        if let Some(kick) = &self.ring(index)?.kick
            && let Err(error) = epoll::delete(&*epoll, kick)
        {
            log(format_args!("cannot end the wait for the guest's notifications: {error}"));
        }
        Ok(())
    }
}
