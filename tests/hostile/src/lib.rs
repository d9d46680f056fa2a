//! A hostile guest for the whole client, and the promises that the client keeps whatever the guest says.
//!
//! ```text
//! bytes ──generate──▶ Case ──Harness──▶ banger (another process) ──HTTP──▶ daemon ──▶ the case's conversations
//!                               │                                            (this process)
//!                               └── compares the sandbox, the terminal, memory and time with the promises
//! ```
//!
//! A [`Case`] is a few command lines, each with what the guest answers. [`Case::generate`] makes one of any bytes:
//! random ones in the property test, those of libFuzzer in the fuzz target. [`Harness`] runs it: a fake daemon passes
//! the guest's bytes on, a real client runs the commands in a [`Sandbox`], and every [`Violation`] is returned.
//!
//! The client is a worker process of the test program ([`serve_worker`]), the built program, or this process.

#![allow(clippy::expect_used, clippy::unwrap_used)] // a panic fails the test that uses this

mod check;
mod choices;
mod client;
mod command;
mod conversation;
mod daemon;
mod encode;
mod generate;
mod harness;
mod limits;
mod orders;
mod promise;
mod remote;
mod sandbox;
mod snapshot;
mod terminal;
mod texts;
mod worker;
mod workspace;

pub use client::{Client, Entry};
pub use command::{Command, ExportTo};
pub use conversation::{Action, Case, Conversation, Step};
pub use encode::{Item, Listed, frame, greeting, listing, reply, stream};
pub use generate::Programs;
pub use harness::Harness;
pub use promise::{Promise, Violation};
pub use sandbox::{Sandbox, environment};
pub use worker::{Memory, is_worker, serve_worker};
pub use workspace::Workspace;
