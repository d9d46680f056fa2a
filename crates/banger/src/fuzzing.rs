//! Parsers of hostile bytes, for fuzz targets.

use std::process::{ExitStatus, Output};

use crate::credentials::{CredentialSource, LoginFile, parse_output};

/// Reads a login file, and finds the credentials for `image` in it. Returns the program of a credential helper.
pub fn find_credentials(file: &[u8], image: &str) -> Option<String> {
    let file: LoginFile = serde_json::from_slice(file).ok()?;
    match file.source(&image.parse().ok()?) {
        Ok(Some(CredentialSource::Helper { program, .. })) => Some(program),
        _ => None,
    }
}

/// Reads what a credential helper has written to standard output.
pub fn read_helper_output(stdout: &[u8]) {
    let output = Output { status: ExitStatus::default(), stdout: stdout.to_vec(), stderr: Vec::new() };
    let _ = parse_output("docker-credential-test", &output);
}
