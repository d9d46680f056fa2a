//! Kernels, and the boot initrds made of them.

mod initrds;
mod kernels;

pub(crate) use initrds::Initrds;
pub use kernels::Kernels;
