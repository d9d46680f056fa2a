//! The user's permission for what a project requests of the host, valid for exactly that request.

use std::{
    fs,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use banger_api::{
    Config, PortSelector, ProjectPolicy, Publish,
    config::{FileSync, PROJECT_FILE, Project},
};
use banger_tools::Port;
use ring::digest::{SHA256, digest};
use serde::Serialize;

use crate::{
    error::CommandError,
    file_sync,
    steps::Step,
    ui::{Table, Ui},
    workspace::tools::{port_table, publish},
};

/// Returns the files that the project of `config` requests and the user permits; stores the permission in `state`.
pub(crate) fn permitted_files(config: &Config, state: &Path, ui: &Ui) -> Result<Vec<FileSync>, CommandError> {
    let Some(project) = config.project().filter(|project| !project.file_sync.is_empty()) else {
        return Ok(Vec::new());
    };
    let root = project.file.parent().unwrap_or(&project.file).display();
    let hosts: Vec<_> = project.file_sync.iter().map(|entry| format!("{:?}", entry.host)).collect();
    let request = Request {
        consent: Consent::for_files(project, state)?,
        introduction: format!("{PROJECT_FILE} of {root} requests your files in its VM:"),
        table: file_sync::table(&project.file_sync),
        question: "Send them?",
        refused: "the files were not sent",
        not_asked: format!(
            "{PROJECT_FILE} of {root} requests your files, which were not sent: {}; \
             BANGER_PROJECT_FILE_SYNC=always sends them, and =never hides this warning",
            hosts.join(", ")
        ),
    };
    let permitted = request.is_permitted(config.project_file_sync(), ui)?;
    Ok(if permitted { project.file_sync.clone() } else { Vec::new() })
}

/// Returns those of the `ports` which the repository at `root` requests that the user permits; stores the permission in
/// `state`. The ports `chosen` by the user need none.
pub(crate) fn permitted_ports(
    config: &Config,
    root: &Path,
    ports: &[Port],
    chosen: &[Publish],
    state: &Path,
    ui: &Ui,
) -> Result<Vec<Port>, CommandError> {
    let (mut permitted, others): (Vec<Port>, Vec<Port>) =
        ports.iter().partition(|port| chosen.iter().any(|chosen| is_same(*chosen, publish(port))));
    if others.is_empty() {
        return Ok(permitted);
    }
    let list: Vec<_> = others.iter().map(|port| shown(publish(port))).collect();
    let request = Request {
        // For all ports: the answer is also valid without the options of this command.
        consent: Consent::for_ports(root, ports, state)?,
        introduction: format!("the repository {} requests ports of this host:", root.display()),
        table: port_table(ports),
        question: "Open them?",
        refused: "the ports were not opened",
        not_asked: format!(
            "the repository {} requests ports of this host, which were not opened: {}; -p opens one, \
             BANGER_PROJECT_PORTS=always opens them, and =never hides this warning",
            root.display(),
            list.join(", ")
        ),
    };
    if request.is_permitted(config.project_ports(), ui)? {
        permitted.extend(others);
    }
    Ok(permitted)
}

/// Returns what -p takes for the port.
fn shown(port: Publish) -> String {
    let Publish { address, host, guest, protocol } = port;
    PortSelector { address, host, guest: (guest != host).then_some(guest), protocol }.to_string()
}

/// Returns whether the user has chosen the port, at whatever address.
fn is_same(chosen: Publish, port: Publish) -> bool {
    Publish { address: port.address, ..chosen } == port
}

/// A request of a project, and how to ask the user about it.
struct Request {
    consent: Consent,
    introduction: String,
    /// All that is requested.
    table: Table,
    question: &'static str,
    /// Message after a no.
    refused: &'static str,
    /// Warning without a terminal.
    not_asked: String,
}

impl Request {
    fn is_permitted(&self, policy: ProjectPolicy, ui: &Ui) -> Result<bool, CommandError> {
        match policy {
            ProjectPolicy::Always => Ok(true),
            ProjectPolicy::Never => Ok(false),
            ProjectPolicy::Ask => Ok(self.consent.is_granted() || self.ask_user(ui)?),
        }
    }

    fn ask_user(&self, ui: &Ui) -> Result<bool, CommandError> {
        if !ui.can_ask() {
            ui.warning(&self.not_asked);
            return Ok(false);
        }
        ui.note(&self.introduction);
        ui.notes(&self.table);
        if !ui.ask(self.question)? {
            ui.note(self.refused);
            return Ok(false);
        }
        if let Err(error) = self.consent.grant() {
            let path = self.consent.path.display();
            ui.warning(format_args!("banger will ask again: cannot write {path}: {error}"));
        }
        Ok(true)
    }
}

/// The user's permission for a request; its file exists once the user has agreed.
#[derive(Debug)]
struct Consent {
    path: PathBuf,
    content: Vec<u8>,
}

impl Consent {
    /// Returns the permission for exactly the files that `project` requests, at the project's path.
    fn for_files(project: &Project, state: &Path) -> io::Result<Self> {
        Self::new(state, "project-files", &project.file, &project.file_sync)
    }

    /// Returns the permission for exactly these ports of the repository at `root`, whichever file requests them.
    fn for_ports(root: &Path, ports: &[Port], state: &Path) -> io::Result<Self> {
        let ports: Vec<_> = ports.iter().map(publish).collect();
        Self::new(state, "project-ports", root, &ports)
    }

    fn new(state: &Path, kind: &str, project: &Path, request: &impl Serialize) -> io::Result<Self> {
        let content = serde_json::to_vec(&(project.as_os_str().as_bytes(), request))?;
        let name: String =
            digest(&SHA256, &content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: state.join(kind).join(name), content })
    }

    fn is_granted(&self) -> bool {
        fs::read(&self.path).is_ok_and(|content| content == self.content)
    }

    fn grant(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), banger_durable::create_dir)?;
        Step::Consent.around(|| banger_durable::write(&self.path, 0o600, |out| out.write_all(&self.content)))
    }
}

#[cfg(test)]
mod tests {
    use banger_api::{
        HostResources,
        config::{Layer, Owner},
    };
    use banger_tools::Location;

    use super::*;

    fn project(file: &str, hosts: &[&str]) -> Project {
        let entry = |host: &&str| FileSync { host: (*host).into(), guest: "x".into(), mode: None };
        Project { file: file.into(), file_sync: hosts.iter().map(entry).collect(), ..Project::default() }
    }

    #[test]
    fn consent_applies_only_to_the_same_project_and_files() {
        let state = tempfile::tempdir().unwrap();
        let consent = |project: &Project| Consent::for_files(project, state.path()).unwrap();
        let requested = project("/a/banger.toml", &["~/x"]);
        assert!(!consent(&requested).is_granted());
        consent(&requested).grant().unwrap();
        assert!(consent(&requested).is_granted());
        // What a crash may leave of the file is no permission.
        let path = consent(&requested).path;
        fs::write(&path, "").unwrap();
        assert!(!consent(&requested).is_granted());
        consent(&requested).grant().unwrap();
        assert!(consent(&requested).is_granted());
        let mut other_mode = requested.clone();
        other_mode.file_sync[0].mode = Some(0o644);
        for other in [
            project("/b/banger.toml", &["~/x"]),
            project("/a/banger.toml", &["~/y"]),
            project("/a/banger.toml", &["~/x", "~/y"]),
            project("/a/banger.toml", &[]),
            other_mode,
        ] {
            assert!(!consent(&other).is_granted(), "{other:?}");
        }
    }

    fn ports(numbers: &[(u16, u16)]) -> Vec<Port> {
        let source = Location { file: PROJECT_FILE, line: None };
        numbers.iter().map(|(host, guest)| Port { host: *host, guest: *guest, udp: false, source }).collect()
    }

    #[test]
    fn consent_applies_only_to_the_same_repository_and_ports() {
        let state = tempfile::tempdir().unwrap();
        let consent = |root: &str, numbers: &[(u16, u16)]| {
            Consent::for_ports(Path::new(root), &ports(numbers), state.path()).unwrap()
        };
        consent("/a", &[(3000, 3000), (80, 8080)]).grant().unwrap();
        assert!(consent("/a", &[(3000, 3000), (80, 8080)]).is_granted());
        for (root, numbers) in [
            ("/b", &[(3000, 3000), (80, 8080)][..]),
            ("/a", &[(3000, 3000)]),
            ("/a", &[(3000, 3000), (8080, 80)]),
            ("/a", &[(3000, 3000), (80, 8080), (22, 22)]),
        ] {
            assert!(!consent(root, numbers).is_granted(), "{root} {numbers:?}");
        }
    }

    #[test]
    fn requested_ports_need_permission_and_chosen_ones_do_not() {
        let state = tempfile::tempdir().unwrap();
        let root = Path::new("/a");
        let requested = ports(&[(3000, 3000), (80, 8080)]);
        let chosen = ["3000".parse::<Publish>().unwrap()];
        // The tests have no terminal.
        let ui = Ui::new(0, false);
        let permitted = |policy: &str, chosen: &[Publish]| {
            let text = format!("[vm]\nproject_ports = '{policy}'\n");
            let layer = Layer::from_text(Owner::User, Path::new("config.toml"), &text).unwrap();
            let config = Config::new([layer], HostResources::default());
            permitted_ports(&config, root, &requested, chosen, state.path(), &ui).unwrap()
        };
        assert_eq!(permitted("always", &[]), requested);
        assert_eq!(permitted("never", &[]), []);
        assert_eq!(permitted("never", &chosen), requested[..1]);
        assert_eq!(permitted("ask", &[]), []);
        assert_eq!(permitted("ask", &chosen), requested[..1]);
        Consent::for_ports(root, &requested, state.path()).unwrap().grant().unwrap();
        assert_eq!(permitted("ask", &[]), requested);
        assert_eq!(permitted("ask", &chosen), requested);
        assert_eq!(permitted("never", &[]), []);
    }
}
