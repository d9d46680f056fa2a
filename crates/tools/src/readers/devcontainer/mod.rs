//! Reads `devcontainer.json`: tools, environment, ports, and commands to run in a new guest.

mod commands;
mod environment;
mod features;

use serde_json::Value;

use commands::AT_EACH_START;

use super::json::{self, brief};
use crate::{
    findings::Findings,
    note::{Location, NoteKind},
    plan::Port,
};

/// Maximum number of ports read from a file.
const MAX_PORTS: usize = 64;

/// Keys that are not supported, and the reasons.
const UNSUPPORTED_KEYS: &[(&str, &str)] = &[
    ("build", "Dockerfiles are not built"),
    ("dockerFile", "Dockerfiles are not built"),
    ("dockerComposeFile", "Docker Compose is not supported"),
    ("initializeCommand", "a repository's commands never run on the host"),
    ("mounts", "host directories are not mounted"),
    ("workspaceMount", "host directories are not mounted"),
    ("workspaceFolder", "--guest-path sets the repository's path"),
    ("runArgs", "a VM is not a container"),
    ("capAdd", "a VM is not a container"),
    ("securityOpt", "a VM is not a container"),
    ("appPort", "only forwardPorts is supported"),
    ("portsAttributes", "port attributes are not supported"),
    ("otherPortsAttributes", "port attributes are not supported"),
    ("remoteUser", "all commands run as root"),
    ("containerUser", "all commands run as root"),
    ("hostRequirements", "flags or banger.toml set the size of a VM"),
    ("secrets", "secrets are not supported"),
    ("waitFor", "--wait-tools waits for all commands"),
    ("postAttachCommand", "there is no attach step"),
];

pub(super) fn read(file: &'static str, bytes: &[u8], findings: &mut Findings) {
    let source = Location::file(file);
    if let Some(first) = findings.devcontainer {
        let message = format_args!("{first} takes precedence");
        findings.note(NoteKind::Overruled, source, message);
        return;
    }
    let Some(object) = json::object(file, &json::without_comments(bytes), findings) else { return };
    findings.devcontainer = Some(source);
    for (key, reason) in UNSUPPORTED_KEYS.iter().filter(|(key, _)| object.contains_key(*key)) {
        findings.note(NoteKind::NotFollowed, source, format_args!("{key}: {reason}"));
    }
    features::read(source, &object, findings);
    environment::read(source, &object, findings);
    if let Some(image) = object.get("image") {
        let message =
            format_args!("image: {} is not used: dev container images are not pulled", brief(image));
        findings.note(NoteKind::NotFollowed, source, message);
    }
    let ports = ports(source, &object, findings);
    if findings.ports.is_none() {
        findings.ports = Some(ports);
    } else if !ports.is_empty() {
        note_overruled(source, "forwardPorts", findings);
    }
    let commands = commands::read(source, &object, findings);
    if findings.setup.is_none() {
        if commands.iter().any(|command| command.key == AT_EACH_START) {
            let message =
                format_args!("{AT_EACH_START} runs once, when the VM is created, not at each start");
            findings.note(NoteKind::NotFollowed, source, message);
        }
        findings.setup = Some(commands);
    } else {
        let mut keys: Vec<_> = commands.iter().map(|command| command.key).collect();
        keys.dedup();
        keys.into_iter().for_each(|key| note_overruled(source, key, findings));
    }
}

fn note_overruled(source: Location, key: &str, findings: &mut Findings) {
    let message = format_args!("{key}: the project's banger.toml takes precedence");
    findings.note(NoteKind::Overruled, source, message);
}

fn ports(source: Location, object: &serde_json::Map<String, Value>, findings: &mut Findings) -> Vec<Port> {
    let mut ports = Vec::<Port>::new();
    for value in object.get("forwardPorts").and_then(Value::as_array).into_iter().flatten() {
        match port(value) {
            Some(port) if ports.iter().any(|known| known.guest == port) => {}
            Some(_) if ports.len() == MAX_PORTS => {
                let message = format_args!("there are more than {MAX_PORTS} forwardPorts");
                findings.note(NoteKind::Refused, source, message);
                break;
            }
            Some(port) => ports.push(Port { host: port, guest: port, udp: false, source }),
            None => {
                let message = format_args!("forwardPorts: {} is not a port of the guest", brief(value));
                findings.note(NoteKind::NotFollowed, source, message);
            }
        }
    }
    ports
}

/// Parses a number, or one after the guest's own name. Other names refer to other containers.
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

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = ".devcontainer.json";

    fn read_text(text: &str) -> Findings {
        let mut findings = Findings::default();
        read(FILE, text.as_bytes(), &mut findings);
        findings
    }

    #[test]
    fn valid_ports_are_read_and_others_are_noted() {
        let findings = read_text(
            r#"{"name": "x", // ours
                "forwardPorts": [3000, "localhost:5173", "8080", 3000, "db:5432", 0, 70000, {}, -1],}"#,
        );
        let ports = findings.ports.as_deref().unwrap();
        assert!(ports.iter().all(|port| port.host == port.guest && port.source == Location::file(FILE)));
        assert_eq!(ports.iter().map(|port| port.guest).collect::<Vec<_>>(), [3000, 5173, 8080]);
        let refused = ["\"db:5432\"", "0", "70000", "an object", "-1"];
        let refused = refused.map(|port| format!("forwardPorts: {port} is not a port of the guest"));
        assert_eq!(findings.messages(), refused);
    }

    #[test]
    fn unsupported_keys_are_noted() {
        let findings = read_text(
            r#"{"build": {"dockerfile": "D"}, "dockerComposeFile": "c", "initializeCommand": "id",
                "image": "debian:12", "remoteUser": "me", "customizations": {}, "postStartCommand": "a"}"#,
        );
        assert_eq!(
            findings.messages(),
            [
                "build: Dockerfiles are not built",
                "dockerComposeFile: Docker Compose is not supported",
                "initializeCommand: a repository's commands never run on the host",
                "remoteUser: all commands run as root",
                "image: \"debian:12\" is not used: dev container images are not pulled",
                "postStartCommand runs once, when the VM is created, not at each start",
            ]
        );
        assert_eq!(findings.setup.map(|commands| commands.len()), Some(1));
    }

    #[test]
    fn the_first_file_wins() {
        let mut findings = read_text(r#"{"forwardPorts": [1]}"#);
        read("other", br#"{"forwardPorts": [2]}"#, &mut findings);
        assert_eq!(findings.messages(), [".devcontainer.json takes precedence"]);
        assert_eq!(findings.ports.unwrap().iter().map(|port| port.guest).collect::<Vec<_>>(), [1]);
    }
}
