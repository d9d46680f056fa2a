//! The readers, one per family of files: functions that parse a file's bytes and add to [`Findings`].

mod asdf;
mod devcontainer;
mod go_mod;
mod json;
mod mise;
mod package_json;
mod pyproject;
mod rust_toolchain;
mod text;
mod version_file;

use crate::findings::Findings;

/// A function that reads one file.
pub(crate) type Reader = fn(&'static str, &[u8], &mut Findings);

/// The files to read, in order of precedence.
pub(crate) const FILES: &[(&str, Reader)] = &[
    ("mise.toml", mise::read),
    (".mise.toml", mise::read),
    (".config/mise.toml", mise::read),
    (".tool-versions", asdf::read),
    ("rust-toolchain", rust_toolchain::read),
    ("rust-toolchain.toml", rust_toolchain::read),
    (".nvmrc", |file, bytes, findings| version_file::read("node", file, bytes, findings)),
    (".node-version", |file, bytes, findings| version_file::read("node", file, bytes, findings)),
    (".python-version", |file, bytes, findings| version_file::read("python", file, bytes, findings)),
    (".ruby-version", |file, bytes, findings| version_file::read("ruby", file, bytes, findings)),
    (".java-version", |file, bytes, findings| version_file::read("java", file, bytes, findings)),
    ("package.json", package_json::read),
    ("pyproject.toml", pyproject::read),
    ("go.mod", go_mod::read),
    (".devcontainer/devcontainer.json", devcontainer::read),
    (".devcontainer.json", devcontainer::read),
];
