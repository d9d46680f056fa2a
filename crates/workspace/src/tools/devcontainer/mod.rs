//! `devcontainer.json`: tools, environment, and what to run in a guest once it is there.

mod commands;
mod environment;
mod features;

use serde::Serialize;
use serde_json::Value;

pub use commands::{Command, Run, When};

use super::{
    findings::Findings,
    json,
    note::{NoteKind, Place, shown},
};

/// Most ports that are taken of a file.
const MAX_PORTS: usize = 64;

/// Longest name of an image, in bytes.
const MAX_IMAGE: usize = 256;

/// What a dev container's file says beside tools and environment. All of it is the repository's: for a guest only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Devcontainer {
    /// The file.
    pub source: Place,
    /// The OCI image that it is made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Ports of the guest to reach from the host.
    pub forward_ports: Vec<u16>,
    /// What to run, in this order.
    pub commands: Vec<Command>,
}

/// What a file may have that is not carried out, and why.
const NOT_FOLLOWED: &[(&str, &str)] = &[
    ("build", "no Dockerfile is built"),
    ("dockerFile", "no Dockerfile is built"),
    ("dockerComposeFile", "Docker Compose is not used"),
    ("initializeCommand", "it is for the host, where nothing of a repository is run"),
    ("mounts", "nothing of the host is mounted"),
    ("runArgs", "there is no container to run with them"),
    ("postAttachCommand", "nothing attaches"),
];

pub(super) fn read(file: &'static str, bytes: &[u8], found: &mut Findings) {
    let source = Place::file(file);
    if let Some(first) = &found.devcontainer {
        let message = format!("{} is there, and wins", first.source);
        found.note(NoteKind::Overruled, source, message);
        return;
    }
    let Some(object) = json::object(file, &json::without_comments(bytes), found) else { return };
    for (key, why) in NOT_FOLLOWED.iter().filter(|(key, _)| object.contains_key(*key)) {
        found.note(NoteKind::NotFollowed, source, format_args!("{key}: {why}"));
    }
    features::read(source, &object, found);
    environment::read(source, &object, found);
    let image = object.get("image").and_then(|image| checked_image(source, image, found));
    let forward_ports = ports(source, &object, found);
    let commands = commands::read(source, &object, found);
    found.devcontainer = Some(Devcontainer { source, image, forward_ports, commands });
}

fn checked_image(source: Place, image: &Value, found: &mut Findings) -> Option<String> {
    let name = image.as_str().unwrap_or_default();
    let is_harmless = name.len() <= MAX_IMAGE
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c));
    if !is_harmless {
        let message = format_args!("image {} is not an image's name", shown(name));
        found.note(NoteKind::Refused, source, message);
    }
    is_harmless.then(|| name.to_owned())
}

fn ports(source: Place, object: &serde_json::Map<String, Value>, found: &mut Findings) -> Vec<u16> {
    let mut ports = Vec::new();
    for value in object.get("forwardPorts").and_then(Value::as_array).into_iter().flatten() {
        match port(value) {
            Some(port) if ports.contains(&port) => {}
            Some(_) if ports.len() == MAX_PORTS => {
                let message = format_args!("there are more than {MAX_PORTS} forwardPorts");
                found.note(NoteKind::Refused, source, message);
                break;
            }
            Some(port) => ports.push(port),
            None => {
                let message = format_args!("forwardPorts: {} is not a port of the guest", brief(value));
                found.note(NoteKind::NotFollowed, source, message);
            }
        }
    }
    ports
}

/// A number, or one behind the guest's own name. Other names are those of other containers.
fn port(value: &Value) -> Option<u16> {
    let number = match value {
        Value::Number(number) => number.as_u64()?.try_into().ok()?,
        Value::String(text) => {
            let digits = text.strip_prefix("localhost:").or(text.strip_prefix("127.0.0.1:")).unwrap_or(text);
            digits.parse().ok()?
        }
        _ => return None,
    };
    (number != 0).then_some(number)
}

/// A value as a message shows it.
fn brief(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = ".devcontainer.json";

    fn read_text(text: &str) -> Findings {
        let mut found = Findings::default();
        read(FILE, text.as_bytes(), &mut found);
        found
    }

    #[test]
    fn images_and_ports_are_checked() {
        let found = read_text(
            r#"{"image": "mcr.microsoft.com/devcontainers/base:bookworm", // ours
                "forwardPorts": [3000, "localhost:5173", "8080", 3000, "db:5432", 0, 70000, {}, -1],}"#,
        );
        assert_eq!(
            found.devcontainer,
            Some(Devcontainer {
                source: Place::file(FILE),
                image: Some("mcr.microsoft.com/devcontainers/base:bookworm".to_owned()),
                forward_ports: vec![3000, 5173, 8080],
                commands: vec![],
            })
        );
        let refused = ["\"db:5432\"", "0", "70000", "an object", "-1"];
        let refused = refused.map(|port| format!("forwardPorts: {port} is not a port of the guest"));
        assert_eq!(found.messages(), refused);
    }

    #[test]
    fn names_that_are_no_images_are_refused() {
        for name in ["-x", "a b", "${localEnv:IMAGE}", "", "a\nb", &"a".repeat(MAX_IMAGE + 1)] {
            let found = read_text(&serde_json::json!({"image": name}).to_string());
            assert_eq!(found.devcontainer.as_ref().unwrap().image, None);
            assert_eq!(found.notes()[0].kind, NoteKind::Refused, "{name}");
        }
    }

    #[test]
    fn what_is_not_followed_is_noted() {
        let found = read_text(
            r#"{"build": {"dockerfile": "D"}, "dockerComposeFile": "c", "initializeCommand": "id"}"#,
        );
        assert_eq!(
            found.messages(),
            [
                "build: no Dockerfile is built",
                "dockerComposeFile: Docker Compose is not used",
                "initializeCommand: it is for the host, where nothing of a repository is run",
            ]
        );
        assert_eq!(found.devcontainer.unwrap().commands, []);
    }

    #[test]
    fn the_first_file_wins() {
        let mut found = read_text(r#"{"image": "a"}"#);
        read("other", br#"{"image": "b"}"#, &mut found);
        assert_eq!(found.messages(), [".devcontainer.json is there, and wins"]);
        assert_eq!(found.devcontainer.unwrap().image.unwrap(), "a");
    }
}
