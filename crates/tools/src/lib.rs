//! What a repository asks for of its guest: tools, environment, ports, commands; and what carries that out there.
//!
//! ```text
//! plan(root) ─▶ folder: a file's bytes ─▶ readers: one a family of files ─▶ findings ─▶ choose ─▶ Plan
//!                                             Plan ─▶ arguments ─▶ SCRIPT, and then SETUP, in the guest
//! ```
//!
//! Only `folder` does I/O; the readers are functions of bytes. Nothing that a file holds makes a plan fail: what cannot
//! be used becomes a [`Note`] with its place.
//!
//! What the project's own file says ([`Own`]) wins. When several others name one tool, the first of this list does:
//!
//! 1. `mise.toml`, `.mise.toml`, `.config/mise.toml`
//! 2. `.tool-versions`
//! 3. the tool's own: `rust-toolchain` (over `rust-toolchain.toml`, as rustup has it), `.nvmrc`, `.node-version`,
//!    `.python-version`, `.ruby-version`, `.java-version`
//! 4. `package.json` (volta over engines), `pyproject.toml`
//! 5. `go.mod` (its toolchain over its go)
//! 6. `.devcontainer/devcontainer.json`, or else `.devcontainer.json`

mod choose;
mod findings;
mod folder;
mod note;
mod plan;
mod range;
mod readers;
mod repository;
mod requested;
mod script;
mod setup;
mod word;

pub use note::{Note, NoteKind, Place};
pub use plan::{Command, Own, Plan, Port, Run, Tool, Variable};
pub use repository::plan;
pub use script::{SCRIPT, arguments};
pub use setup::{SETUP, setup_arguments, setup_variables};
pub use word::{InvalidWord, ToolName, VariableName, Version, Word};
