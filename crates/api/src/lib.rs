//! The API between `banger` and `bangerd`, and the product's value types.
//!
//! HTTP/1.1 and JSON over a Unix socket. Short requests return one JSON value or an [`ApiError`]. Long ones return a
//! stream of [`OperationEvent`]s, one JSON line each, that ends with `done` or `error`. The types guarantee valid
//! values: every [`VmName`] is a valid name, every [`Size`] a valid size. This crate does no I/O.

mod certificates;
mod check;
pub mod config;
mod credentials;
mod daemon;
mod defaults;
mod digest;
mod dirs;
mod egress;
mod error;
mod event;
mod flow;
mod guest_settings;
mod host_ports;
mod image;
mod image_name;
mod kernel;
mod lock_record;
mod log;
mod name;
mod network;
mod operation;
mod period;
mod proxies;
mod published;
mod reference;
mod remedy;
mod schema;
mod size;
mod stats;
mod text;
mod vm;

pub use certificates::{Certificates, InvalidCertificates};
pub use check::{Check, Verdict};
pub use config::{AutoStop, Config, HostResources, ProjectPolicy, ProxyPort};
pub use credentials::Credentials;
pub use daemon::{BUILD_HEADER, DaemonStatus, MAX_RESPONSE, ProgramId, ProxyStatus};
pub use defaults::Defaults;
pub use digest::{Digest, InvalidDigest};
pub use dirs::{Dirs, DirsError};
pub use egress::{Destination, DomainName, Egress, EgressRule, InvalidEgress, Network};
pub use error::{ApiError, ErrorKind};
pub use event::{Event, EventKind, WatchEvents};
pub use flow::{Flow, FlowProtocol, FlowVerdict, ReadFlows};
pub use guest_settings::{GuestSettings, InvalidGuestSettings};
pub use host_ports::{HostPorts, InvalidHostPorts};
pub use image::{
    Bundle, CatalogEntry, CommitVm, Image, ImageConfig, ImageSource, NameImage, PruneCache, Pruned,
    PrunedKind, Pull, PullImage, RegisterImage,
};
pub use image_name::{ImageName, InvalidImageName, Reference};
pub use kernel::{AvailableKernel, Driver, DriverPresence, Kernel, KernelDetails};
pub use lock_record::LockRecord;
pub use log::{LogSource, ReadLog};
pub use name::{Id, InvalidName, Name, VmName};
pub use network::{InvalidNetworkKind, NetworkKind};
pub use operation::{Operation, OperationEvent, OperationKind, OperationState, Span};
pub use period::{InvalidPeriod, Period};
pub use proxies::{HttpProxy, InvalidProxy, ProxyUrl, ProxyVariables};
pub use published::{
    InvalidPublish, MAX_AUTOMATIC, MAX_PUBLISHED, PortProtocol, PortSelector, Publish, PublishPorts,
    PublishedPort, UnpublishPorts,
};
pub use reference::{Named, RefError, exact_image, resolve, resolve_image};
pub use remedy::{ConfigPart, Remedy, Subject, SubjectKind};
pub use size::{InvalidSize, Size};
pub use stats::{DiskStats, GuestStats, VmStats};
pub use text::{GuestText, is_hidden, push_visible, visible_line, visible_lines};
pub use vm::{
    Accel, CreateVm, DeleteVm, KillSignal, KillVm, LastRun, Limits, RestartVm, SetVm, StartVm, StopVm, Vm,
    VmState, Vmm,
};
