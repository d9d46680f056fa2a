//! Kernels, and the boot initrds built from them.

mod initrds;
mod kernels;

pub(crate) use initrds::Initrds;
pub use kernels::Kernels;
