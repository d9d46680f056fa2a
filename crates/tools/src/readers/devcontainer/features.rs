//! Reads the dev container features that are tools.

use serde_json::{Map, Value};

use crate::{
    findings::Findings,
    note::{Location, NoteKind, quoted},
    readers::text::before,
};

/// Prefix of the supported features.
const OFFICIAL: &str = "ghcr.io/devcontainers/features/";

/// The official features that install a tool of the same name.
const TOOLS: &[&str] =
    &["node", "python", "go", "rust", "java", "ruby", "php", "dotnet", "terraform", "kubectl", "helm"];

pub(super) fn read(source: Location, object: &Map<String, Value>, findings: &mut Findings) {
    let features = object.get("features").and_then(Value::as_object);
    for (feature, options) in features.into_iter().flatten() {
        match tool(feature) {
            Some(tool) => request(source, tool, options, findings),
            None => {
                let message = format_args!("the feature {} is not supported", quoted(feature));
                findings.note(NoteKind::NotFollowed, source, message);
            }
        }
    }
}

fn tool(feature: &str) -> Option<&str> {
    let name = before(feature.strip_prefix(OFFICIAL)?, ":");
    TOOLS.contains(&name).then_some(name)
}

fn request(source: Location, tool: &str, options: &Value, findings: &mut Findings) {
    // A string instead of options is the version.
    let version = match options {
        Value::String(version) => Some(version.as_str()),
        options => options.get("version").map_or(Some("latest"), Value::as_str),
    };
    match version {
        Some("none") => {}
        Some("os-provided") => {
            findings.request(source, tool, "latest");
        }
        Some(version) => {
            findings.request(source, tool, version);
        }
        None => {
            let message = format_args!("the version of the feature {tool} is not a string");
            findings.note(NoteKind::Unread, source, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn official_features_request_tools() {
        let mut findings = Findings::default();
        let object = serde_json::json!({"features": {
            "ghcr.io/devcontainers/features/go": "1.22",
            "ghcr.io/devcontainers/features/java:1": {"version": "none"},
            "ghcr.io/devcontainers/features/node:1": {"version": "lts", "nodeGypDependencies": true},
            "ghcr.io/devcontainers/features/php:1": {"version": 8},
            "ghcr.io/devcontainers/features/python:1": {"version": "os-provided"},
            "ghcr.io/devcontainers/features/ruby:1": {"version": "$(id)"},
            "ghcr.io/devcontainers/features/rust:1": {},
            "ghcr.io/evil/features/node:1": {"version": "20"},
        }});
        read(Location::file("f"), object.as_object().unwrap(), &mut findings);
        assert_eq!(findings.requested(), ["go 1.22", "node lts", "python latest", "rust stable"]);
        let notes = findings.messages();
        assert_eq!(notes[0], "the version of the feature php is not a string");
        assert!(notes[1].starts_with("ruby: \"$(id)\" is not a version"), "{notes:?}");
        assert_eq!(notes[2], "the feature \"ghcr.io/evil/features/node:1\" is not supported");
    }

    #[test]
    fn objects_without_features_request_nothing() {
        for value in [serde_json::json!({}), serde_json::json!({"features": []})] {
            let mut findings = Findings::default();
            read(Location::file("f"), value.as_object().unwrap(), &mut findings);
            assert_eq!((findings.requested(), findings.messages()), (vec![], vec![]));
        }
    }
}
