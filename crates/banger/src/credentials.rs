//! The user's credentials for registries, as `docker login` and `podman login` store them: in their files, or in the
//! credential helpers that the files name. The daemon reads neither: the CLI sends it only the credentials of the
//! registries that a request needs.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use banger_api::{Credentials, ImageName, Reference, resolve_image};
use banger_client::Client;
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::{signals, ui::Ui};

/// Docker Hub's name in login files.
const DOCKER_HUB: &str = "index.docker.io";

/// Timeout of a credential helper; it may ask the user for input.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// User name that a credential helper returns when the secret is an identity token.
const TOKEN_USERNAME: &str = "<token>";

/// A registry's credentials in a login file (docker-login(1), "Configuration").
#[derive(Debug, Default, Deserialize)]
struct Entry {
    /// base64 of NAME:SECRET.
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LoginFile {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

/// Output of a credential helper.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperOutput {
    username: String,
    secret: String,
}

/// Location of a registry's credentials.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CredentialSource {
    Inline { username: String, secret: String },
    Helper { program: String, server: String },
}

/// Returns the user's credentials for the image `name` if it must be pulled; none if it exists locally.
pub(crate) async fn for_missing_image(client: &Client, name: Option<&str>, ui: &Ui) -> Vec<Credentials> {
    let Some(Ok(name)) = name.map(str::parse::<ImageName>) else { return Vec::new() };
    if client.images().await.is_ok_and(|images| resolve_image(&images, name.as_str()).is_ok()) {
        return Vec::new();
    }
    for_image(client, &name, ui).await
}

/// Returns the user's credentials for the image `name`; warns about those that cannot be read.
pub(crate) async fn for_image(client: &Client, name: &ImageName, ui: &Ui) -> Vec<Credentials> {
    // The daemon reports errors in a catalog.
    let catalog = client.catalog_images().await.unwrap_or_default();
    let names = match catalog.into_iter().find(|entry| entry.name == *name) {
        Some(entry) => entry.references,
        None => vec![name.clone()],
    };
    let mut credentials = Vec::new();
    for (reference, source) in names.iter().filter_map(|name| locate(name, ui)) {
        credentials.extend(source.load(&reference, ui).await);
    }
    credentials
}

fn locate(name: &ImageName, ui: &Ui) -> Option<(Reference, CredentialSource)> {
    let reference = name.reference().ok()?;
    let warn = |error: &String| ui.warning(format_args!("no registry login is used: {error}"));
    let source = find_source(&reference).inspect_err(warn).ok()??;
    Some((reference, source))
}

impl CredentialSource {
    async fn load(self, reference: &Reference, ui: &Ui) -> Vec<Credentials> {
        let registry = reference.registry().to_owned();
        let result = match self {
            Self::Inline { username, secret } => Ok(Some((username, secret))),
            Self::Helper { program, server } => {
                let phase = signals::cancellable();
                tokio::select! {
                    answer = ask_helper(&program, &server) => answer,
                    // Ends the helper.
                    _ = phase.cancelled() => Err(format!("{program} was interrupted")),
                }
            }
        };
        let warn = |error: &String| ui.warning(format_args!("no login is used for {registry}: {error}"));
        let result = result.inspect_err(warn).ok().flatten();
        result
            .into_iter()
            .map(|(username, secret)| Credentials { registry: registry.clone(), username, secret })
            .collect()
    }
}

fn find_source(reference: &Reference) -> Result<Option<CredentialSource>, String> {
    for path in login_files(|name| env::var_os(name).map(PathBuf::from)) {
        if let Some(file) = read(&path)?
            && let Some(source) =
                file.source(reference).map_err(|error| format!("{}: {error}", path.display()))?
        {
            return Ok(Some(source));
        }
    }
    Ok(None)
}

/// Returns the possible login files; the first with credentials for a registry is used.
fn login_files(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let home = variable("HOME");
    let in_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
    let config = variable("XDG_CONFIG_HOME").or_else(|| in_home(".config"));
    let dir = variable("DOCKER_CONFIG").or_else(|| in_home(".docker"));
    let podman = |dir: PathBuf| dir.join("containers/auth.json");
    [
        variable("REGISTRY_AUTH_FILE"),
        dir.map(|dir| dir.join("config.json")),
        variable("XDG_RUNTIME_DIR").map(podman),
        config.map(podman),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn read(path: &Path) -> Result<Option<LoginFile>, String> {
    let describe = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| describe(&error)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(describe(&error)),
    }
}

impl LoginFile {
    /// Returns where the credentials for `reference` are: those of the longest matching path prefix, like Podman.
    pub(crate) fn source(&self, reference: &Reference) -> Result<Option<CredentialSource>, &'static str> {
        let full = format!("{}/{}", reference.registry(), reference.repository());
        let mut path = full.as_str();
        loop {
            let is_match = |key: &&String| normalize_key(key) == path;
            if let Some(program) =
                self.cred_helpers.keys().find(is_match).and_then(|key| self.cred_helpers.get(key))
            {
                return helper(program, reference).map(Some);
            }
            if let Some(entry) = self.auths.keys().find(is_match).and_then(|key| self.auths.get(key)) {
                if let Some(source) = entry.source()? {
                    return Ok(Some(source));
                }
                // With `credsStore`, the file only says that credentials exist.
                if let Some(program) = &self.creds_store {
                    return helper(program, reference).map(Some);
                }
            }
            match path.rsplit_once('/') {
                Some((shorter, _)) => path = shorter,
                None => break,
            }
        }
        self.creds_store.as_deref().map(|program| helper(program, reference)).transpose()
    }
}

impl Entry {
    fn source(&self) -> Result<Option<CredentialSource>, &'static str> {
        if !self.identity_token.is_empty() {
            return Ok(Some(CredentialSource::Inline {
                username: String::new(),
                secret: self.identity_token.clone(),
            }));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        const BROKEN: &str = "a login in it is not base64 of NAME:SECRET";
        let text = BASE64_STANDARD.decode(&self.auth).map_err(|_| BROKEN)?;
        let text = String::from_utf8(text).map_err(|_| BROKEN)?;
        let (username, secret) = text.split_once(':').ok_or(BROKEN)?;
        // Docker before 1.10 padded it with NULs.
        let secret = secret.trim_end_matches('\0').to_owned();
        Ok(Some(CredentialSource::Inline { username: username.to_owned(), secret }))
    }
}

/// Returns a login file's key as registry and path: `https://index.docker.io/v1/` becomes `docker.io`.
fn normalize_key(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (host, rest) = key.split_at(key.find('/').unwrap_or(key.len()));
    let host = if matches!(host, DOCKER_HUB | "registry-1.docker.io") { "docker.io" } else { host };
    host.to_owned() + rest
}

fn helper(name: &str, reference: &Reference) -> Result<CredentialSource, &'static str> {
    if name.is_empty() || name.contains(['/', '\0']) {
        return Err("a credential helper in it is not a program name");
    }
    let server = match reference.registry() {
        "docker.io" => format!("https://{DOCKER_HUB}/v1/"),
        registry => registry.to_owned(),
    };
    Ok(CredentialSource::Helper { program: format!("docker-credential-{name}"), server })
}

/// Asks a credential helper (github.com/docker/docker-credential-helpers, "Development"). Returns `None` if it has no
/// credentials for this server.
async fn ask_helper(program: &str, server: &str) -> Result<Option<(String, String)>, String> {
    let failed = |error: io::Error| format!("cannot run {program}: {error}");
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let request = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(server.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = timeout(HELPER_TIMEOUT, request).await;
    let output = output.map_err(|_| format!("{program} timed out after {} s", HELPER_TIMEOUT.as_secs()))?;
    parse_output(program, &output.map_err(failed)?)
}

pub(crate) fn parse_output(program: &str, output: &Output) -> Result<Option<(String, String)>, String> {
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // The message that all helpers print on standard output when they have none.
        let not_found = text.contains("credentials not found");
        let message = text.lines().next().unwrap_or_default();
        return if not_found { Ok(None) } else { Err(format!("{program} failed: {message}")) };
    }
    let parsed: HelperOutput =
        serde_json::from_slice(&output.stdout).map_err(|_| format!("{program} did not return valid JSON"))?;
    let username = if parsed.username == TOKEN_USERNAME { String::new() } else { parsed.username };
    Ok(Some((username, parsed.secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(file: &str, name: &str) -> Result<Option<CredentialSource>, &'static str> {
        serde_json::from_str::<LoginFile>(file).unwrap().source(&name.parse().unwrap())
    }

    fn inline(username: &str, secret: &str) -> Result<Option<CredentialSource>, &'static str> {
        Ok(Some(CredentialSource::Inline { username: username.to_owned(), secret: secret.to_owned() }))
    }

    fn helper(program: &str, server: &str) -> Result<Option<CredentialSource>, &'static str> {
        Ok(Some(CredentialSource::Helper { program: program.to_owned(), server: server.to_owned() }))
    }

    #[test]
    fn logins_are_found_by_registry_and_path() {
        // user:pa:ss and other:x
        let file = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpwYTpzcw=="},
            "quay.io": {"auth": "b3RoZXI6eA=="}, "quay.io/team": {"auth": "dXNlcjpwYTpzcw=="},
            "http://localhost:5000/v2/": {"identitytoken": "t"}, "empty.io": {}, "broken.io": {"auth": "%"}}}"#;
        assert_eq!(source(file, "alpine"), inline("user", "pa:ss"));
        assert_eq!(source(file, "quay.io/team/x"), inline("user", "pa:ss"));
        assert_eq!(source(file, "quay.io/teams/x"), inline("other", "x"));
        assert_eq!(source(file, "localhost:5000/x"), inline("", "t"));
        assert_eq!(source(file, "ghcr.io/x"), Ok(None));
        assert_eq!(source(file, "empty.io/x"), Ok(None));
        assert!(source(file, "broken.io/x").is_err());
    }

    #[test]
    fn the_same_login_is_used_each_time_if_a_registry_has_several_names() {
        let file = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpwYTpzcw=="},
            "docker.io": {"auth": "b3RoZXI6eA=="}, "registry-1.docker.io": {"auth": "bm9uZTp4"}}}"#;
        for _ in 0..32 {
            assert_eq!(source(file, "alpine"), inline("other", "x"));
        }
    }

    #[test]
    fn credential_helpers_are_selected_by_registry() {
        let file = r#"{"auths": {"a.io": {}, "b.io": {"auth": "b3RoZXI6eA=="}}, "credsStore": "pass",
            "credHelpers": {"gcr.io": "gcloud", "evil.io": "../x"}, "HttpHeaders": {}}"#;
        assert_eq!(source(file, "gcr.io/x"), helper("docker-credential-gcloud", "gcr.io"));
        assert_eq!(source(file, "a.io/x"), helper("docker-credential-pass", "a.io"));
        assert_eq!(source(file, "b.io/x"), inline("other", "x"));
        assert_eq!(source(file, "alpine"), helper("docker-credential-pass", "https://index.docker.io/v1/"));
        assert!(source(file, "evil.io/x").is_err());
    }

    #[tokio::test]
    async fn a_helper_returns_credentials_none_or_an_error() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("docker-credential-test");
        let script = r#"#!/bin/sh
            read server
            case "$1 $server" in
                "get good.io") echo '{"ServerURL":"good.io","Username":"<token>","Secret":"s"}';;
                "get none.io") echo 'credentials not found in native keychain'; exit 1;;
                *) echo 'the keychain is locked'; exit 1;;
            esac"#;
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let ask_helper = async |server| ask_helper(program.to_str().unwrap(), server).await;
        assert_eq!(ask_helper("good.io").await, Ok(Some((String::new(), "s".to_owned()))));
        assert_eq!(ask_helper("none.io").await, Ok(None));
        assert!(ask_helper("locked.io").await.unwrap_err().ends_with("failed: the keychain is locked"));
    }

    #[test]
    fn login_files_include_those_of_docker_and_podman() {
        let files_for = |set: &[(&str, &str)]| {
            login_files(|name| {
                set.iter().find(|(set, _)| *set == name).map(|(_, value)| PathBuf::from(value))
            })
        };
        let home = ["/h/.docker/config.json", "/h/.config/containers/auth.json"].map(PathBuf::from);
        assert_eq!(files_for(&[("HOME", "/h")]), home);
        let set = [
            ("HOME", "/h"),
            ("DOCKER_CONFIG", "/d"),
            ("XDG_RUNTIME_DIR", "/r"),
            ("REGISTRY_AUTH_FILE", "/f"),
        ];
        let all = ["/f", "/d/config.json", "/r/containers/auth.json", "/h/.config/containers/auth.json"];
        assert_eq!(files_for(&set), all.map(PathBuf::from));
    }
}
