//! The daemon's domain: VMs, images, kernels, operations, published ports and the store.
//! It opens no sockets for clients of the API.
//!
//! [`Engine`] composes the services that the daemon's routes call.

mod admission;
mod api_errors;
mod cache;
mod catalog;
mod config;
mod dirs;
mod doctor;
mod engine;
mod error;
mod event_log;
#[cfg(feature = "fail-points")]
mod fail;
mod files;
mod guest;
mod host;
mod image;
mod kernel;
mod layout;
mod logs;
mod operation;
mod ports;
mod programs;
mod publish;
mod random;
mod recovery;
mod remote;
mod resource;
mod runtime_dir;
mod sessions;
mod spans;
mod step;
mod store;
mod store_lock;
mod vm;
mod vmms;
mod watch;

pub use banger_net::{gateway::main as gateway_main, namespace::main as namespace_main};
pub use banger_vmm::probe_main as kvm_probe_main;
pub use cache::Cache;
pub use catalog::Catalogs;
pub use doctor::doctor;
pub use engine::Engine;
pub use error::EngineError;
pub use image::{Images, Tar};
pub use kernel::Kernels;
pub use logs::{CONSOLE_MAX, RotatingLog, console_logger_main};
pub use operation::{Events, with_requester};
pub use ports::GuestPort;
pub use programs::Programs;
pub use sessions::Session;
#[cfg(feature = "fail-points")]
pub use step::fail_points;
pub use store::StoreError;
pub use store_lock::StoreLock;
pub use vm::Vms;
pub use watch::ByteStream;
