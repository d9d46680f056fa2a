//! Images from registries: a real one, and servers that do all that a registry should not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod faults;
mod images;
mod login;
mod mirrors;
mod real;
mod server;
