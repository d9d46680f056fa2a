//! Pulls from a real registry, and from servers that misbehave.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod faults;
mod images;
mod login;
mod mirrors;
mod real;
mod server;
