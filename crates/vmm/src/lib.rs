//! Turns a VM's hardware specification into processes, and connects to its guest.
//!
//! [`discover`] finds the VMMs on this host, [`choose`] selects one, and its [`Vmm::plan`] turns a [`VmSpec`] into a
//! [`LaunchPlan`]: files and processes as plain data, which the engine then starts. Requests to a running VMM use
//! [`control`]. [`connect`] and [`listen`] open streams to and from the guest.

mod channel;
mod choose;
mod confinement;
mod discover;
mod error;
mod firecracker;
mod identity;
mod inherit;
mod kind;
mod probe;
mod program;
mod qemu;
mod spec;
mod verdict;
mod verdict_cache;
mod vmm;

pub use channel::{GuestChannel, GuestListener, GuestStream, connect, listen};
pub use choose::{choose, control};
pub use confinement::confinements;
pub use discover::{HostVmms, VmmSearch, discover};
pub use error::VmmError;
pub use kind::{Accel, VmmKind};
pub use probe::{KvmSource, probe_main};
pub use spec::{Disk, InheritedSocket, LaunchPlan, ProcessSpec, Role, SocketSide, Tap, VmSpec};
pub use verdict::{KvmProbe, KvmVerdict};
pub use vmm::{BoxFuture, Control, Vmm};
