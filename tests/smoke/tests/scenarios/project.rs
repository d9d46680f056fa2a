//! Projects: a repository declares what its VM has.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use banger_smoke::{Host, Running, Terminal, scenario, until};
use serde_json::{Value, json};

use crate::ports::{ANSWERS, exchange, free_port};

const SMALL: &[&str] = &["vm", "run", "--vcpu", "1", "--memory", "256M", "--disk-size", "256M"];

/// Creates a repository with these files.
fn repository(host: &Host, files: &[(&str, &str)]) -> Result<PathBuf> {
    let root = host.path("app");
    fs::create_dir(&root)?;
    for (name, text) in files {
        fs::write(root.join(name), text)?;
    }
    for args in [&["init", "-q"][..], &["add", "-A"]] {
        ensure!(Command::new("git").current_dir(&root).args(args).status()?.success(), "git {args:?}");
    }
    Ok(root)
}

/// Returns `banger` with these arguments and environment variables, not yet started.
fn command_with_env(host: &Host, variables: &[(&str, &str)], args: &[&str]) -> Command {
    let mut command = host.command(args);
    command.envs(variables.iter().copied());
    command
}

fn start(command: Command, args: &[&str]) -> Result<Running> {
    Running::start(command, format!("banger {}", args.join(" ")))
}

const PROJECT: &str = r#"
[vm]
memory = "200M"
disk_size = "256M"
vcpu = 1
[workspace]
ports = [7000, "7001:80"]
setup = ["sleep 1000 &", 'echo "$GREETING $MORE $(pwd)" >../setup; cat; exit 3', "touch ../never"]
[workspace.env]
GREETING = "it's $(me)"
MORE = "less"
[[file_sync]]
host = "~/.thing"
guest = "~/.of/thing"
"#;

#[scenario(Here, LabMore)]
fn a_project_sets_its_vms_hardware_environment_ports_and_setup() -> Result<()> {
    let host = Host::tiny()?;
    let container = r#"{"containerEnv": {"GREETING": "hello", "OTHER": "other"}, "forwardPorts": [7002],
        "postCreateCommand": "touch ../never", "image": "debian:12"}"#;
    let root = repository(&host, &[("banger.toml", PROJECT), (".devcontainer.json", container)])?;
    fs::write(host.path(".thing"), "a thing\n")?;
    let path = root.to_str().context("path")?;

    // From another directory: the repository's own file is used.
    let plan = host.json(&["vm", "run", path, "--dry-run"])?;
    let planned = |kind: &str, key: &str| -> Vec<Value> {
        let all = plan["tools"][kind].as_array().cloned().unwrap_or_default();
        all.iter().map(|one| json!([one[key], one["source"]["file"]])).collect()
    };
    let own = "banger.toml";
    assert_eq!(
        planned("env", "name"),
        [json!(["GREETING", own]), json!(["MORE", own]), json!(["OTHER", ".devcontainer.json"])]
    );
    assert_eq!(planned("ports", "host"), [json!([7000, own]), json!([7001, own])]);
    assert_eq!(planned("setup", "key"), vec![json!(["setup", own]); 3]);
    assert_eq!(plan["project_ports"], "ask");
    assert_eq!(plan["file_sync"], json!([{ "host": "~/.thing", "guest": ".of/thing", "mode": null }]));
    let shown = host.banger(&["vm", "run", path, "--dry-run"])?;
    for text in ["GREETING", "7001", "touch ../never", "banger.toml:8", "~/.thing"] {
        ensure!(shown.stdout.contains(text), "no {text}: {}", shown.stdout);
    }
    shown.fails(0, &["image: \"debian:12\" is not used", "forwardPorts: the project's banger.toml takes"])?;

    // Piped input is for the command, not for the setup before it.
    let script = "cat ../setup ../.of/thing; stat -c %a ../.of/thing; echo \"$GREETING $MORE $OTHER\"; ls .. | grep -v lost; cat; \
                  grep MemTotal /proc/meminfo";
    let args = [
        "vm",
        "run",
        "--rm",
        "--wait-tools",
        "--image",
        "tiny",
        "--env",
        "MORE=more",
        path,
        "--",
        "sh",
        "-c",
        script,
    ];
    let permitted = [("BANGER_PROJECT_FILE_SYNC", "always"), ("BANGER_PROJECT_PORTS", "always")];
    let ran = start(command_with_env(&host, &permitted, &args), &args)?.finish(b"piped\n")?;
    for text in
        ["setup: running echo", "failed with status 3", "the repository's setup failed", "port 80 of VM"]
    {
        ensure!(ran.stderr.contains(text), "no {text:?}: {}", ran.stderr);
    }
    let printed = ran.success()?;
    let (files, memory) = printed.split_once("MemTotal:").context("MemTotal")?;
    assert_eq!(
        files,
        "it's $(me) more /root/repo\na thing\n600\nit's $(me) more other\nrepo\nsetup\npiped\n"
    );
    let memory: u64 = memory.split_whitespace().next().context("memory")?.parse()?;
    ensure!(memory < 204_800, "{memory} KiB is more than the project requests");
    host.nothing_left()
}

#[scenario(Here)]
fn waiting_for_setup_can_be_interrupted_or_skipped() -> Result<()> {
    let host = Host::tiny()?;
    let root = repository(&host, &[("banger.toml", "[workspace]\nsetup = ['sleep 1000', 'echo after']\n")])?;
    let path = root.to_str().context("path")?;
    let command = ["--", "busybox", "echo", "here"];
    let args = [SMALL, &["--image", "tiny", "--rm", path], &command].concat();
    let mut waiting = host.start(&[&args[..2], &["--wait-tools"], &args[2..]].concat())?;
    waiting.wait_for_stderr("setup: running sleep 1000")?;
    waiting.signal(rustix::process::Signal::INT)?;
    let finished = waiting.finish(b"")?;
    ensure!(!finished.stderr.contains("after"), "{}", finished.stderr);
    assert_eq!(finished.code(130)?, "", "the command ran");
    host.nothing_left()?;
    let without_tools = host.banger(&[&args[..2], &["--no-tools"], &args[2..]].concat())?;
    ensure!(!without_tools.stderr.contains("setup"), "{}", without_tools.stderr);
    assert_eq!(without_tools.success()?, "here\n");
    host.nothing_left()
}

#[scenario(Here, Slow)]
fn project_file_sync_needs_the_users_permission() -> Result<()> {
    let host = Host::tiny()?;
    let root = repository(&host, &[("banger.toml", "[[file_sync]]\nhost = '~/.thing'\n")])?;
    fs::write(host.path(".thing"), "a thing\n")?;
    let path = root.to_str().context("path")?;
    let script = ["busybox", "sh", "-c", "cat ../.thing || echo none"];
    let args = [SMALL, &["--image", "tiny", "--rm", path, "--"], &script].concat();
    let refused = start(command_with_env(&host, &[], &args), &args)?.finish(b"")?;
    ensure!(refused.stdout == "none\n", "it was sent: {refused:?}");
    refused
        .fails(0, &["requests your files, which were not sent: \"~/.thing\"", "PROJECT_FILE_SYNC=always"])?;
    let never = start(command_with_env(&host, &[("BANGER_PROJECT_FILE_SYNC", "never")], &args), &args)?
        .finish(b"")?;
    ensure!(!never.stderr.contains("your files"), "{}", never.stderr);
    assert_eq!(never.success()?, "none\n");

    // A project cannot give itself permission.
    fs::write(root.join("banger.toml"), "[vm]\nproject_file_sync = 'always'\n")?;
    start(command_with_env(&host, &[], &args), &args)?
        .finish(b"")?
        .fails(125, &["vm.project_file_sync on line 2 cannot be set in banger.toml"])?;

    // After a yes, banger only asks again about other files.
    let mut text = "[[file_sync]]\nhost = '~/.thing'\n".to_owned();
    for (answer, seen) in [(Some("n"), "none"), (Some("y"), "a thing"), (None, "a thing")] {
        fs::write(root.join("banger.toml"), &text)?;
        let mut terminal = Terminal::start(&command_with_env(&host, &[], &args), 30, 120)?;
        if let Some(answer) = answer {
            terminal.wait_for("\"~/.thing\"")?;
            terminal.wait_for("Send them? [y/N]")?;
            terminal.send_keys(&format!("{answer}\n"))?;
        }
        let shown = terminal.wait_for(seen)?;
        ensure!(answer.is_some() || !shown.contains("Send them?"), "asked again: {shown}");
        ensure!(terminal.wait()?.success(), "{answer:?}");
    }
    text.push_str("[[file_sync]]\nhost = '~/other'\n");
    fs::write(root.join("banger.toml"), &text)?;
    let mut terminal = Terminal::start(&command_with_env(&host, &[], &args), 30, 120)?;
    terminal.wait_for("Send them? [y/N]")?;
    terminal.send_keys("\n")?;
    terminal.wait_for("none")?;
    ensure!(terminal.wait()?.success(), "the second refusal");
    host.nothing_left()
}

#[scenario(Here, Slow)]
fn ports_of_a_repository_need_the_users_permission() -> Result<()> {
    let host = Host::tiny()?;
    // Free just now, and unlikely to be taken during the scenario.
    let (port, other) = (free_port()?, free_port()?);
    let container = json!({ "forwardPorts": [port, other] }).to_string();
    let root = repository(&host, &[(".devcontainer.json", &container)])?;
    let path = root.to_str().context("path")?;
    let command = ["--", "busybox", "echo", "it-ran"];
    let args = |flags: &[&'static str]| [SMALL, flags, &["--image", "tiny", "--rm", path], &command].concat();
    let run = |variables: &[(&str, &str)], args: &[&str]| {
        start(command_with_env(&host, variables, args), args)?.finish(b"")
    };
    let opened = |port: u16| format!("port {port} of VM");

    // Without a terminal, nothing is opened, except what the user asks for.
    let stderr = run(&[], &args(&[]))?.fails(0, &["which were not opened", "BANGER_PROJECT_PORTS=always"])?;
    ensure!(!stderr.contains(&opened(port)) && stderr.contains(&format!("{port}, {other};")), "{stderr}");
    let chosen = port.to_string();
    let stderr = run(&[], &[&["vm", "run", "-p", &chosen], &args(&[])[2..]].concat())?
        .fails(0, &["which were not opened", &opened(port)])?;
    ensure!(!stderr.contains(&opened(other)), "{stderr}");
    let stderr = run(&[("BANGER_PROJECT_PORTS", "never")], &args(&[]))?.fails(0, &[])?;
    ensure!(!stderr.contains("opened") && !stderr.contains(&opened(port)), "{stderr}");
    run(&[("BANGER_PROJECT_PORTS", "always")], &args(&[]))?.fails(0, &[&opened(port), &opened(other)])?;

    // After a yes, banger only asks again about other ports.
    let asked = args(&[]);
    for (answer, is_open) in [(Some("n"), false), (Some("y"), true), (None, true)] {
        let mut terminal = Terminal::start(&command_with_env(&host, &[], &asked), 30, 120)?;
        if let Some(answer) = answer {
            terminal.wait_for(".devcontainer.json")?;
            terminal.wait_for("Open them? [y/N]")?;
            terminal.send_keys(&format!("{answer}\n"))?;
        }
        let shown = terminal.wait_for("it-ran")?;
        ensure!(shown.contains(&opened(port)) == is_open, "{answer:?}: {shown}");
        ensure!(answer.is_some() || !shown.contains("Open them?"), "asked again: {shown}");
        ensure!(terminal.wait()?.success(), "{answer:?}");
    }

    // The project's own file also has ports of UDP.
    fs::write(root.join("banger.toml"), format!("[workspace]\nports = ['{other}:53/udp']\n"))?;
    run(&[], &asked)?.fails(0, &[&format!("which were not opened: {other}:53/udp;")])?;
    run(&[("BANGER_PROJECT_PORTS", "always")], &asked)?.fails(0, &["port 53 of VM"])?;

    // A project cannot give itself permission.
    fs::write(root.join("banger.toml"), "[vm]\nproject_ports = 'always'\n")?;
    run(&[], &asked)?.fails(125, &["vm.project_ports on line 2 cannot be set in banger.toml"])?;
    host.nothing_left()
}

#[scenario(Here)]
fn invalid_project_settings_are_reported_before_a_vm_is_created() -> Result<()> {
    let host = Host::new()?;
    let root = repository(&host, &[("banger.toml", "[workspace]\nprots = [80]\n")])?;
    let path = root.to_str().context("path")?;
    host.banger(&["vm", "run", "--rm", path, "--", "true"])?
        .fails(125, &["banger.toml: unknown key workspace.prots on line 2: did you mean ports?"])?;
    host.banger(&["vm", "workspace", "prepare", "box", path, "--dry-run"])?.fails(1, &["on line 2"])?;
    host.banger(&["vm", "run", "-p", "0", "--", "true"])?.fails(2, &["\"0\" is not a port"])?;
    fs::create_dir_all(host.path("config/banger"))?;
    fs::write(host.path("config/banger/config.toml"), "[workspace]\nsetup = []\n")?;
    host.banger(&["vm", "run", "--rm", "--", "true"])?
        .fails(125, &["[workspace] on line 1 can only be in a repository's banger.toml"])?;
    fs::remove_file(host.path("config/banger/config.toml"))?;
    host.nothing_left()
}

#[scenario(Here)]
fn dev_container_commands_run_once_in_the_background() -> Result<()> {
    let host = Host::new()?;
    let container = r#"{
        "initializeCommand": "touch /tmp/never",
        "postStartCommand": "echo \"start ${containerWorkspaceFolder}\" >>../log; perl serve.pl &",
        "postCreateCommand": {"b": ["sh", "-c", "echo \"b $1\" >>../log", "x", "$(id)"], "a": "echo a >>../log"},
        "onCreateCommand": "echo create >>../log", // first
    }"#;
    let root = repository(&host, &[(".devcontainer.json", container), ("serve.pl", ANSWERS)])?;
    let path = root.to_str().context("path")?;
    let planned = host.banger(&["vm", "run", path, "--dry-run"])?;
    planned.fails(0, &["initializeCommand: a repository's commands never run on the host"])?;
    let port = free_port()?;
    let created =
        host.banger(&[SMALL, &["-d", "--name", "box", "-p", &format!("{port}:7000"), path]].concat())?;
    let expected = [
        "4 setup commands in box (log: /var/log/banger-tools.log)",
        &format!("port 7000 of VM box is at 127.0.0.1:{port}"),
    ];
    created.fails(0, &expected)?;
    let in_guest = |script: &str| host.ok(&["vm", "exec", "box", "--", "sh", "-c", script]);
    until("all commands have been run", || {
        Ok(in_guest("cat /var/log/banger-tools.log")?.contains("setup: all commands succeeded"))
    })?;
    let log = "create\na\nb $(id)\nstart /root/repo\n";
    assert_eq!(in_guest("cat log")?, log);
    // A server that a setup command has left running.
    until(
        "the port answers",
        || Ok(exchange(port, b"hello").is_ok_and(|answer| answer == "5 bytes, hello")),
    )?;
    host.ok(&["vm", "restart", "box"])?;
    assert_eq!(in_guest("cat log")?, log);
    host.ok(&["vm", "delete", "--force", "--discard", "box"])?;
    host.nothing_left()
}
