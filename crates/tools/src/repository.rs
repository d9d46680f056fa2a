//! Creates a plan from a repository's files.

use std::path::Path;

use crate::{
    choose,
    findings::Findings,
    note::{Location, NoteKind},
    plan::{Plan, ProjectSettings},
    readers::{FILES, Reader},
    repository_dir::RepositoryDir,
};

/// Reads the requests of the repository at `root`, with the settings `project` of its own file. Whatever cannot be read
/// or used is in the plan's notes.
pub fn plan(root: &Path, project: ProjectSettings) -> Plan {
    let mut findings = Findings::new(basename(root));
    project.env.iter().for_each(|(source, name, value)| findings.variable(*source, name, value));
    (findings.ports, findings.setup) = (project.ports, project.setup);
    match RepositoryDir::open(root) {
        Ok(dir) => FILES.iter().for_each(|(file, reader)| read_file(&dir, file, *reader, &mut findings)),
        Err(error) => {
            findings.note(NoteKind::Unread, Location::file("."), format_args!("it cannot be read: {error}"))
        }
    }
    build_plan(findings)
}

fn read_file(dir: &RepositoryDir, file: &'static str, reader: Reader, findings: &mut Findings) {
    match dir.read(file) {
        Ok(Some(bytes)) => reader(file, &bytes, findings),
        Ok(None) => {}
        Err(error) => findings.note(NoteKind::Unread, Location::file(file), error),
    }
}

/// Returns the name of the repository's directory, also if `root` is `.`.
fn basename(root: &Path) -> Option<String> {
    let root = root.canonicalize().ok()?;
    Some(root.file_name()?.to_str()?.to_owned())
}

fn build_plan(mut findings: Findings) -> Plan {
    let tools = choose::tools(&mut findings);
    let env = std::mem::take(&mut findings.variables);
    let (ports, setup, dir_name) = (findings.ports.take(), findings.setup.take(), findings.basename.take());
    let (ports, setup) = (ports.unwrap_or_default(), setup.unwrap_or_default());
    Plan { tools, env, ports, setup, dir_name, notes: findings.into_notes() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::Port, repository_dir::MAX_FILE};
    use proptest::prelude::*;
    use std::{fs, os::unix::fs::symlink};

    fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn read(root: &Path) -> Plan {
        plan(root, ProjectSettings::default())
    }

    #[test]
    fn an_empty_repository_requests_nothing() {
        let dir = repository(&[]);
        let dir_name = basename(dir.path());
        assert_eq!(read(dir.path()), Plan { dir_name, ..Plan::default() });
    }

    #[test]
    fn the_projects_own_settings_take_precedence() {
        let dir = repository(&[
            ("mise.toml", "[env]\nA = 'mise'\nB = 'mise'\n"),
            (
                ".devcontainer.json",
                r#"{"containerEnv": {"A": "container", "C": "container"}, "forwardPorts": [3000],
                    "postCreateCommand": "npm ci"}"#,
            ),
        ]);
        let source = Location { file: "banger.toml", line: Some(2) };
        let project = ProjectSettings {
            env: [("A", "own"), ("PATH", "/x")]
                .map(|(name, value)| (source, name.into(), value.into()))
                .into(),
            ports: Some(vec![Port { host: 8080, guest: 80, udp: false, source }]),
            setup: Some(vec![]),
        };
        let plan = plan(dir.path(), project.clone());
        let env: Vec<_> = plan.env.iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
        assert_eq!(env, [("A", "own"), ("B", "mise"), ("C", "container")]);
        assert_eq!((Some(&plan.ports), Some(&plan.setup)), (project.ports.as_ref(), project.setup.as_ref()));
        let notes: Vec<_> = plan.notes.iter().map(ToString::to_string).collect();
        assert_eq!(
            notes,
            [
                "banger.toml:2: the variable \"PATH\": it is reserved for the guest",
                "mise.toml:2: the variable A: banger.toml:2 sets another value and takes precedence",
                ".devcontainer.json: the variable A: banger.toml:2 sets another value and takes precedence",
                ".devcontainer.json: forwardPorts: the project's banger.toml takes precedence",
                ".devcontainer.json: postCreateCommand: the project's banger.toml takes precedence",
            ]
        );
    }

    #[test]
    fn a_missing_directory_is_noted() {
        let plan = read(Path::new("/nowhere/at/all"));
        assert_eq!(plan.notes.len(), 1);
        assert!(plan.notes[0].message.starts_with("it cannot be read: "), "{plan:?}");
    }

    #[test]
    fn the_plan_combines_requests_of_every_kind() {
        let dir = repository(&[
            ("mise.toml", "[tools]\nnode = '20'\n[env]\nNODE_ENV = 'test'\n"),
            (".tool-versions", "nodejs 18.0.0\npython 3.12.1\n"),
            ("rust-toolchain.toml", "[toolchain]\nchannel = '1.80'\ncomponents = ['clippy']\n"),
            (".nvmrc", "v20.11.1\n"),
            ("package.json", r#"{"engines": {"node": ">=18"}, "packageManager": "pnpm@9.1.0+sha512.ab"}"#),
            ("pyproject.toml", "[project]\nrequires-python = '>=3.13'\n"),
            ("go.mod", "module m\n\ngo 1.22\n"),
            (
                ".devcontainer/devcontainer.json",
                r#"{ // ours
                    "image": "debian:12",
                    "features": {"ghcr.io/devcontainers/features/java:1": {"version": "21"}},
                    "containerEnv": {"NODE_ENV": "production", "A": "${localEnv:A}"},
                    "forwardPorts": [3000],
                    "postCreateCommand": "npm ci",
                }"#,
            ),
        ]);
        insta::assert_snapshot!(serde_json::to_string_pretty(&read(dir.path())).unwrap());
    }

    #[test]
    fn files_behind_symbolic_links_are_not_read() {
        let outside = repository(&[("mise.toml", "[tools]\nnode = '20'"), (".nvmrc", "20")]);
        let dir = repository(&[]);
        symlink(outside.path(), dir.path().join(".config")).unwrap();
        symlink(outside.path().join(".nvmrc"), dir.path().join(".nvmrc")).unwrap();
        let plan = read(dir.path());
        assert_eq!(plan.tools, []);
        let locations: Vec<_> = plan.notes.iter().map(|note| (note.kind, note.location.file)).collect();
        assert_eq!(locations, [(NoteKind::Unread, ".config/mise.toml"), (NoteKind::Unread, ".nvmrc")]);
    }

    #[test]
    fn deep_nesting_does_not_crash_a_reader() {
        let half = MAX_FILE as usize / 2;
        let inputs = [
            "[".repeat(half),
            "{\"a\":".repeat(half / 5),
            format!("a = {}", "[".repeat(half)),
            format!("a = {}", "{a=".repeat(half / 3)),
            format!("{}a = 1", "a.".repeat(half)),
            format!("[{}a]", "a.".repeat(half)),
            format!("[tools]\n{}a = '1'", "node.".repeat(half / 5)),
        ];
        for (file, reader) in FILES {
            for input in &inputs {
                let mut findings = Findings::default();
                reader(file, input.as_bytes(), &mut findings);
                assert_eq!(build_plan(findings).tools, [], "{file}");
            }
        }
    }

    #[test]
    fn the_basename_is_taken_from_the_canonical_path() {
        let dir = repository(&[("my app/x", "")]);
        assert_eq!(basename(&dir.path().join("my app/../my app")).unwrap(), "my app");
        assert_eq!(basename(Path::new("/")), None);
    }

    /// Fragments of the files, to combine in valid and invalid ways.
    const PIECES: &str = "(\\[(tools|env|toolchain|project|tool\\.poetry\\.dependencies)\\]\n|node|nodejs|python|go |rust|\
        toolchain |channel|components|targets|requires-python|'|\"|=|\\{|\\}|\\[|\\]|,|:|\n| |#|//|/\\*|\\*/|[0-9]|\\.|\
        >=|<|\\^|~|\\*|\\||-|\\$\\(id\\)|`id`|;|\"features\"|\"image\"|\"version\"|\"engines\"|\"postCreateCommand\"|\
        \"containerEnv\"|\"forwardPorts\"|lts/|\\$\\{localEnv:A\\}|\\PC){0,40}";

    fn is_harmless(text: &str) -> bool {
        (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c))
    }

    proptest! {
        #[test]
        fn any_content_produces_a_plan_of_harmless_words(text in PIECES, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for input in [text.as_bytes(), &bytes] {
                let mut findings = Findings::new(Some("repo".to_owned()));
                FILES.iter().for_each(|(file, reader)| reader(file, input, &mut findings));
                let plan = build_plan(findings);
                for tool in &plan.tools {
                    prop_assert!(is_harmless(tool.name.as_str()) && is_harmless(tool.version.as_str()), "{tool:?}");
                    prop_assert!(tool.components.iter().chain(&tool.targets).all(|word| is_harmless(word.as_str())));
                }
                prop_assert!(plan.notes.iter().all(|note| !note.message.contains(char::is_control)));
                prop_assert!(serde_json::to_string(&plan).is_ok());
            }
        }

        #[test]
        fn tools_with_invalid_names_or_versions_are_left_out(name in "[ -~]{1,12}", version in "[ -~]{0,12}") {
            let quoted = |text: &str| serde_json::to_string(text).unwrap();
            let toml = format!("[tools]\n{} = {}", quoted(&name), quoted(&version));
            let json = format!(r#"{{"packageManager": {0}, "engines": {{"node": {0}}}}}"#, quoted(&version));
            let mut findings = Findings::default();
            for (name, text) in [("mise.toml", &toml), ("package.json", &json)] {
                let (file, reader) = FILES.iter().find(|(file, _)| *file == name).unwrap();
                reader(file, text.as_bytes(), &mut findings);
            }
            for tool in build_plan(findings).tools {
                prop_assert!(is_harmless(tool.name.as_str()) && is_harmless(tool.version.as_str()), "{tool:?}");
            }
        }
    }
}
