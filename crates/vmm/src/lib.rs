//! A VM's hardware as data in, a process out.
//!
//! [`discover`] finds what can run a VM, [`choose`] picks one, and its [`Vmm::plan`] turns a [`VmSpec`] into a
//! [`LaunchPlan`]: files and processes as plain data, that the engine then starts. Once it runs, [`control`] sends its VMM
//! requests, and [`connect`] and [`listen`] are the two ways between host and guest.

mod channel;
mod choose;
mod discover;
mod error;
mod firecracker;
mod identity;
mod kept;
mod kind;
mod probe;
mod program;
mod qemu;
mod spec;
mod verdict;
mod vmm;

pub use channel::{GuestChannel, GuestListener, GuestStream, connect, listen};
pub use choose::{choose, control};
pub use discover::{HostVmms, VmmSearch, discover};
pub use error::VmmError;
pub use kind::{Accel, VmmKind};
pub use probe::{KvmSource, probe_main};
pub use spec::{Disk, GuestNetwork, LaunchPlan, Network, ProcessSpec, Role, VmSpec};
pub use verdict::{KvmProbe, KvmVerdict};
pub use vmm::{BoxFuture, Control, Vmm};
