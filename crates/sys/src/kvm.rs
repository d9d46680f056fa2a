//! Tests whether KVM really runs a guest: a few instructions in long mode, through the kernel's interface.
//!
//! A `/dev/kvm` that opens and creates a VM proves little: where KVM itself is emulated, guests are very slow, or die
//! at `lock cmpxchg16b`, which every Linux kernel executes. So the probe executes a counted loop and that
//! instruction. It measures CPU time: a busy host delays a guest, but only an emulated processor raises its CPU time.
//! `KVM_RUN` may hang beyond any signal: run this in a separate process, and limit that process's CPU time.

use std::time::Duration;

use kvm_bindings::{kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::cpu_time;

/// Outcome of the test guest.
#[derive(Debug)]
#[non_exhaustive]
pub enum KvmOutcome {
    /// The guest ran to its end, in this much CPU time.
    Ran(Duration),
    /// `/dev/kvm` could not be opened.
    CannotOpen(std::io::Error),
    /// KVM could not create a VM.
    CannotSetUp(std::io::Error),
    /// The guest ended in another way.
    Died(String),
}

const MEMORY: usize = 0x1_0000;
const PML4: usize = 0x1000;
const PDPT: usize = 0x2000;
const PD: usize = 0x3000;
const CODE: usize = 0x8000;
/// Operand of `cmpxchg16b`: 16 bytes, aligned.
const DATA: usize = 0x9000;

/// 64-bit code: count 100 000 down, exchange 16 bytes of zeroes for a one, halt.
#[rustfmt::skip]
const GUEST: [u8; 28] = [
    0xb9, 0xa0, 0x86, 0x01, 0x00,       // mov ecx, 100000
    0xff, 0xc9,                         // dec ecx
    0x75, 0xfc,                         // jnz -2
    0xbf, 0x00, 0x90, 0x00, 0x00,       // mov edi, DATA
    0x31, 0xc0,                         // xor eax, eax
    0x31, 0xd2,                         // xor edx, edx
    0x31, 0xdb,                         // xor ebx, ebx
    0xff, 0xc3,                         // inc ebx
    0xf0, 0x48, 0x0f, 0xc7, 0x0f,       // lock cmpxchg16b [rdi]
    0xf4,                               // hlt
];

/// Runs the test guest.
pub fn probe() -> KvmOutcome {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return KvmOutcome::CannotOpen(error.into()),
    };
    match run(&kvm) {
        Ok(outcome) => outcome,
        Err(error) => KvmOutcome::CannotSetUp(error.into()),
    }
}

fn run(kvm: &Kvm) -> Result<KvmOutcome, kvm_ioctls::Error> {
    let memory = Memory::new()?;
    let vm = kvm.create_vm()?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory.address as u64,
    };
    // SAFETY: the region is memory that we own, of that length, and `memory` outlives `vm` and its vCPU: it was made
    // before them and is dropped after them.
    unsafe { vm.set_user_memory_region(region) }?;
    let mut vcpu = vm.create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    let code = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 8,
        type_: 11,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: 16, type_: 3, l: 0, db: 1, ..code };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
    sregs.cr3 = PML4 as u64;
    sregs.cr4 = 1 << 5; // PAE
    sregs.cr0 = 1 | 1 << 4 | 1 << 31; // PE, ET, PG
    sregs.efer = 1 << 8 | 1 << 10; // LME, LMA
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    (regs.rip, regs.rflags, regs.rsp) = (CODE as u64, 2, DATA as u64);
    vcpu.set_regs(&regs)?;
    let start = cpu_time::thread_cpu_time();
    let exit = loop {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => break None,
            Ok(other) => break Some(format!("{other:?}")),
            // A stop or a freeze of this process interrupts the guest, which then continues.
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => break Some(error.to_string()),
        }
    };
    let took = cpu_time::thread_cpu_time().saturating_sub(start);
    Ok(match exit {
        Some(exit) => KvmOutcome::Died(exit),
        None if memory.first_data_byte() != 1 => KvmOutcome::Died("lock cmpxchg16b did nothing".to_owned()),
        None => KvmOutcome::Ran(took),
    })
}

/// The guest's memory: page tables that map it onto itself, and its code.
struct Memory {
    address: *mut u8,
}

impl Memory {
    fn new() -> Result<Self, kvm_ioctls::Error> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                MEMORY,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let address = address.map_err(|error| kvm_ioctls::Error::new(error.raw_os_error()))?.cast::<u8>();
        let mut memory = Self { address };
        let present_writable = 3;
        memory.put(PML4, &(PDPT as u64 | present_writable).to_le_bytes());
        memory.put(PDPT, &(PD as u64 | present_writable).to_le_bytes());
        let two_mib_page = 1 << 7;
        memory.put(PD, &(present_writable | two_mib_page).to_le_bytes());
        memory.put(CODE, &GUEST);
        Ok(memory)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= MEMORY);
        // SAFETY: the target is within the mapping, as just checked, and nothing else refers to it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.add(at), bytes.len()) };
    }

    fn first_data_byte(&self) -> u8 {
        // SAFETY: within the mapping; volatile, because the guest wrote it behind the compiler's back.
        unsafe { self.address.add(DATA).read_volatile() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of that length, and unused after its owner is dropped. Failure would only leak
        // it, in a process that is about to end.
        let _ = unsafe { munmap(self.address.cast(), MEMORY) };
    }
}
