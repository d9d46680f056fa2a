//! Interfaces for programs: a client in Python that is built from the OpenAPI document, and the commands' JSON output.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use banger_smoke::{Host, Internet, Running, run, scenario, until};
use serde_json::{Map, Value, json};

#[scenario(Here)]
fn an_openapi_client_creates_uses_and_deletes_a_vm() -> Result<()> {
    let host = Host::tiny()?;
    host.ok(&["ps"])?;
    let mut client = host.python()?;
    client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/client.py"));
    client.arg(host.path("state/banger/run/bangerd.sock")).arg("tiny");
    let output = Running::start(client, "the Python client".to_owned())?.finish(b"")?.success()?;
    assert!(
        output.contains("OpenAPI 3.1.0") && output.ends_with("created, used and deleted a VM\n"),
        "{output}"
    );
    host.nothing_left()
}

/// Returns a value that a command prints with `-o json`: the error, if it fails.
fn output(host: &Host, args: &[&str]) -> Result<Value> {
    let finished = host.banger(&[args, &["-o", "json"]].concat())?;
    let failed = !finished.status.success();
    let text = if failed { finished.stderr.lines().last().unwrap_or_default() } else { &finished.stdout };
    serde_json::from_str(text).with_context(|| format!("not JSON: {finished:?}"))
}

#[scenario(Here)]
fn json_output_matches_the_published_schemas() -> Result<()> {
    let internet = Internet::new()?;
    let host = internet.host(Host::tiny()?);
    // Other daemons of this machine have the default one.
    fs::write(host.path("system.toml"), format!("[daemon]\nproxy = {}\n", crate::ports::free_port()?))?;
    let repository = host.path("repository");
    fs::create_dir(&repository)?;
    let git = |args: &[&str]| run(host.tool("git").current_dir(&repository).args(args));
    fs::write(repository.join(".nvmrc"), "22\n")?;
    git(&["init", "-q", "-b", "main"])?;
    git(&["add", "-A"])?;
    git(&["-c", "user.name=A", "-c", "user.email=a@example.com", "commit", "-qm", "first"])?;
    let path = repository.display().to_string();
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "tiny", &path])?;
    let script = "busybox nc -w 9 203.0.113.1 80 </dev/null; echo work > repo/work; busybox nc -ll -p 8000 -e true </dev/null >/dev/null 2>&1 &";
    host.ok(&["vm", "exec", "box", "--", "sh", "-c", script])?;
    until("a port listens", || Ok(host.json(&["vm", "ports", "box"])? != json!([])))?;
    let bundle = host.path("tiny.tar.zst").display().to_string();
    let mut outputs = Map::new();
    for (name, args) in [
        ("banger ps", &["ps"][..]),
        ("banger vm list", &["vm", "list"]),
        ("banger vm show", &["vm", "show", "box"]),
        ("banger vm stats", &["vm", "stats", "box"]),
        ("banger vm ports", &["vm", "ports", "box"]),
        ("banger vm network", &["vm", "network", "box"]),
        ("banger vm network --suggest", &["vm", "network", "--suggest", "box"]),
        ("banger vm publish", &["vm", "publish", "box", "127.0.0.77:18000:8000"]),
        ("banger vm open", &["vm", "open", "box", "8000"]),
        ("banger vm ping", &["vm", "ping", "box"]),
        ("banger vm health", &["vm", "health", "box"]),
        ("banger vm run --dry-run", &["vm", "run", "--dry-run", &path]),
        ("banger vm workspace prepare --dry-run", &["vm", "workspace", "prepare", "box", &path, "--dry-run"]),
        ("banger vm workspace export", &["vm", "workspace", "export", "box"]),
        ("banger vm workspace pull", &["vm", "workspace", "pull", "box"]),
        ("banger image list", &["image", "list"]),
        ("banger image list --available", &["image", "list", "--available"]),
        ("banger image show", &["image", "show", "tiny"]),
        ("banger image bundle", &["image", "bundle", "tiny", &bundle]),
        ("banger image cache prune", &["image", "cache", "prune", "--dry-run"]),
        ("banger kernel list", &["kernel", "list"]),
        ("banger kernel list --available", &["kernel", "list", "--available"]),
        ("banger kernel show", &["kernel", "show", "debian-cloud"]),
        ("banger operations", &["operations", "--all"]),
        ("banger daemon status", &["daemon", "status"]),
        ("banger config show", &["config", "show"]),
        ("banger ssh-config", &["ssh-config"]),
        ("an error of any command", &["vm", "show", "other"]),
    ] {
        outputs.insert(name.to_owned(), output(&host, args)?);
    }
    outputs.insert("banger doctor".to_owned(), host.checks()?);
    let events = host.ok(&["events", "--since", "1h"])?;
    let events = events.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    outputs.insert("banger events".to_owned(), Value::Array(events));
    let mut validator = host.python()?;
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    validator
        .arg(project.join("tests/python/outputs.py"))
        .arg(project.join("docs/src/reference/output.json"));
    let outputs = serde_json::to_vec(&outputs)?;
    let validated = Running::start(validator, "the validator".to_owned())?.finish(&outputs)?.success()?;
    assert!(validated.ends_with("outputs are valid\n"), "{validated}");
    host.ok(&["vm", "delete", "--force", "--discard", "box"])?;
    host.nothing_left()
}
