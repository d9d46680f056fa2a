//! Reads the tools, environment, ports and commands that a repository requests, and installs them in its guest.
//!
//! ```text
//! plan(root) ─▶ repository_dir: a file's bytes ─▶ readers: one per family of files ─▶ findings ─▶ choose ─▶ Plan
//!                                             Plan ─▶ arguments ─▶ SCRIPT, and then SETUP, in the guest
//! ```
//!
//! Only `repository_dir` does I/O; the readers are functions of bytes. No file can make a plan fail: a part that cannot
//! be used becomes a [`Note`] with its place.
//!
//! The project's own file ([`ProjectSettings`]) takes precedence. If several others name one tool, the first in
//! this list does:
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
mod note;
mod plan;
mod range;
mod readers;
mod repository;
mod repository_dir;
mod requested;
mod script;
mod setup;
mod word;

pub use note::{Location, Note, NoteKind};
pub use plan::{Command, Plan, Port, ProjectSettings, Run, Tool, Variable};
pub use repository::plan;
pub use script::{SCRIPT, arguments};
pub use setup::{SETUP, setup_arguments, setup_variables};
pub use word::{InvalidWord, ToolName, VariableName, Version, Word};
