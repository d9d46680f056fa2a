//! The JSON output of each command: schemas and examples.

use std::{collections::BTreeSet, fmt::Write as _};

use banger_api::{
    AvailableKernel, CatalogEntry, DaemonStatus, Event, Flow, Image, Kernel, Operation, Pruned, Vm, VmStats,
    config::ConfigEntry,
};
use banger_workspace::Change;
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::GENERATED;
use crate::{
    commands::{
        Cli,
        image::bundle::BundleResult,
        ssh_config::SshConfigInfo,
        vm::{
            network::SuggestedEgress,
            open::Opened,
            ping::Pong,
            ports::Port,
            publish::Published,
            workspace::{pull::Ref, selection::Plan},
        },
    },
    config::built_in_keys,
    ui::{JsonCheck, JsonError},
};

/// The name of the schema of errors.
const ERROR: &str = "an error of any command";

/// Schemas of commands' output.
struct Outputs {
    generator: SchemaGenerator,
    /// Schemas with an example, by command.
    commands: Map<String, Value>,
}

impl Outputs {
    /// Adds a command that prints a `T`, for example `example`.
    fn add<T: JsonSchema>(&mut self, command: &str, example: Value) {
        let mut schema = self.generator.subschema_for::<T>().to_value();
        schema["examples"] = json!([example]);
        self.commands.insert(command.to_owned(), schema);
    }

    /// Returns the schemas as one document.
    fn document(&mut self) -> Value {
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Output of banger's commands with -o json",
            "properties": self.commands,
            "$defs": self.generator.take_definitions(true),
        })
    }
}

fn outputs() -> Outputs {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.meta_schema = None);
    let generator = settings.for_serialize().into_generator();
    let mut outputs = Outputs { generator, commands: Map::new() };
    let out = &mut outputs;
    add_vms(out);
    add_images_and_kernels(out);
    add_workspaces(out);
    add_host(out);
    add_error(out);
    outputs
}

fn add_vms(out: &mut Outputs) {
    let vm = json!({
        "id": "3f2a9c5d1b7e8046", "name": "box", "state": "running", "image": "debian-bookworm",
        "kernel": "debian-cloud", "vcpu": 2, "memory": 2_147_483_648_u64,
        "system_overlay_size": 8_589_934_592_u64, "disk_size": 8_589_934_592_u64, "network_kind": "user", "egress": "open", "rm": false,
        "allow_host": [5432],
        "created_at": "2026-11-29T18:04:11Z", "started_at": "2026-11-29T18:04:12Z",
        "last_used_at": "2026-11-29T18:09:40Z", "last_error": null, "vmm": "qemu", "accel": "kvm",
        "ran_with": { "vmm": "qemu", "accel": "kvm" }, "network": "user mode", "pid": 41_873,
        "published": [{
            "address": null, "host": 8080, "guest": 80, "protocol": "tcp", "automatic": false, "open": true,
            "error": null,
        }],
        "publish_all": false,
        "console": "/home/ada/.local/state/banger/vms/3f2a9c5d1b7e8046/console.log",
    });
    out.add::<Vec<Vm>>("banger ps", json!([vm]));
    out.add::<Vec<Vm>>("banger vm list", json!([vm]));
    out.add::<Vm>("banger vm show", vm);
    out.add::<Vec<VmStats>>(
        "banger vm stats",
        json!([{
            "id": "3f2a9c5d1b7e8046", "name": "box", "state": "running", "at": "2026-11-29T18:09:42Z",
            "cpu_percent": 12.5, "cpu_over_s": 10.0, "vcpu": 2, "resident": 325_058_560,
            "memory": 2_147_483_648_u64,
            "disks": [
                { "name": "system_overlay", "apparent": 8_589_934_592_u64, "real": 73_400_320 },
                { "name": "work", "apparent": 8_589_934_592_u64, "real": 71_303_168 },
            ],
            "guest": {
                "uptime_ms": 330_412, "load": 0.5, "memory_total": 2_083_512_320,
                "memory_available": 1_887_436_800, "received": 5_242_880, "sent": 102_400,
            },
        }]),
    );
    out.add::<Vec<Port>>(
        "banger vm ports",
        json!([{
            "vm": "box", "protocol": "tcp", "address": "0.0.0.0", "port": 3000, "pid": 412, "process": "node",
            "http": true, "endpoint": "127.0.0.1:3000", "url": "http://127.0.0.1:3000/",
        }]),
    );
    out.add::<Vec<Flow>>(
        "banger vm network",
        json!([{
            "verdict": "allowed", "protocol": "tcp", "name": "pypi.org", "address": "151.101.0.223", "port": 443,
            "process": "pip", "pid": 412, "count": 12, "first_at": "2026-11-29T18:04:12Z", "last_at": "2026-11-29T18:05:40Z",
        }]),
    );
    out.add::<SuggestedEgress>(
        "banger vm network --suggest",
        json!({ "egress": ["pypi.org:443", "files.pythonhosted.org:443"] }),
    );
    out.add::<Opened>(
        "banger vm open",
        json!({ "vm": "box", "port": 3000, "url": "http://3000.box.localhost:7788/" }),
    );
    out.add::<Vec<Published>>(
        "banger vm publish",
        json!([{
            "vm": "box", "address": null, "host": 8080, "guest": 80, "protocol": "tcp", "automatic": false,
            "open": true, "error": null, "endpoint": "127.0.0.1:8080",
        }]),
    );
    out.add::<Vec<Pong>>("banger vm ping", json!([{ "number": 1, "round_trip_ms": 0.412 }]));
    out.add::<Vec<JsonCheck<'_>>>(
        "banger vm health",
        json!([
            { "name": "state", "verdict": "PASS", "message": "running" },
            { "name": "agent", "verdict": "PASS", "message": "answered in 0.4 ms" },
        ]),
    );
    out.add::<Vec<Event>>(
        "banger events",
        json!([{
            "time": "2026-11-29T18:04:12Z", "kind": "vm_state", "id": "3f2a9c5d1b7e8046", "name": "box",
            "from": "starting", "to": "running",
        }]),
    );
}

fn add_images_and_kernels(out: &mut Outputs) {
    let image = json!({
        "id": "9b1d4e7f20a3c658", "name": "alpine:3.20", "size": 1_073_741_824, "disk_usage": 9_437_184,
        "entries": 528, "os": "Alpine Linux v3.20", "init": null, "kernel": null, "source": "registry",
        "outside": null, "problem": null, "shared": false, "build_key": null,
        "reference": "docker.io/library/alpine:3.20",
        "digest": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "config": { "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "cmd": ["/bin/sh"] },
        "created_at": "2026-11-29T17:58:03Z", "used_by": ["box"],
    });
    out.add::<Vec<Image>>("banger image list", json!([image]));
    out.add::<Image>("banger image show", image);
    out.add::<Vec<CatalogEntry>>(
        "banger image list --available",
        json!([{
            "name": "debian-bookworm", "description": "Debian 12 with git, curl and build tools",
            "distro": "debian", "arch": "amd64", "kernel": "debian-cloud", "size": 1_610_612_736,
            "sources": ["mmdebstrap"], "references": [], "here": true,
        }]),
    );
    out.add::<BundleResult>(
        "banger image bundle",
        json!({
            "path": "tools.tar.zst", "name": "tools",
            "sha256": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "size": 73_400_320,
        }),
    );
    out.add::<Pruned>(
        "banger image cache prune",
        json!({
            "kinds": [{ "kind": "layers", "files": 3, "size": 31_457_280 }], "size": 31_457_280,
            "dry_run": true,
        }),
    );
    let mut kernel = json!({
        "id": "7c60f1e2d3b4a596", "name": "debian-cloud", "release": "6.1.0-57-cloud-amd64", "modules": true,
        "pvh": true, "disk_usage": 52_428_800, "source": "catalog", "created_at": "2026-11-29T17:40:21Z",
        "used_by": ["box"],
    });
    out.add::<Vec<Kernel>>("banger kernel list", json!([kernel]));
    kernel["details"] = json!({
        "vmlinux": 41_943_040, "modules": 1093, "firecracker": true, "qemu": true,
        "drivers": [{ "name": "virtio_blk", "presence": "module", "boot": true }],
    });
    out.add::<Kernel>("banger kernel show", kernel);
    out.add::<Vec<AvailableKernel>>(
        "banger kernel list --available",
        json!([{
            "name": "firecracker-6.1", "description": "Linux 6.1 of the Firecracker project",
            "size": 41_943_040, "source": "URLs", "here": false,
        }]),
    );
}

fn add_workspaces(out: &mut Outputs) {
    let plan = json!({
        "root": "/home/ada/my-repo", "guest_path": "/root/repo", "mode": "shallow",
        "commit": "1f0c2b3a4d5e6f708192a3b4c5d6e7f8091a2b3c", "branch": "main",
        "files": [{ "path": "package.json", "size": 412 }], "bytes": 412, "left_out": 0,
        "origin": "https://example.com/my-repo.git", "origin_credentials": false,
        "tools": {
            "tools": [{
                "name": "node", "version": "22", "source": { "file": ".nvmrc", "line": 1 },
                "reason": "the version in .nvmrc",
            }],
            "env": [{ "name": "CI", "value": "1", "source": { "file": "banger.toml", "line": 2 } }],
            "ports": [{
                "host": 3000, "guest": 3000, "udp": false, "source": { "file": "banger.toml", "line": 3 },
            }],
            "setup": [{
                "source": { "file": "banger.toml", "line": 4 }, "key": "setup", "run": { "shell": "npm ci" },
            }],
            "notes": [],
        },
        "file_sync": [], "project_file_sync": "ask", "project_ports": "ask",
    });
    out.add::<Plan>("banger vm run --dry-run", plan.clone());
    out.add::<Plan>("banger vm workspace prepare --dry-run", plan);
    out.add::<Vec<Change>>(
        "banger vm workspace export",
        json!([{ "change": "renamed", "path": "src/new.c", "old_path": "src/old.c" }]),
    );
    out.add::<Vec<Ref>>(
        "banger vm workspace pull",
        json!([{ "name": "refs/banger/box/HEAD", "commit": "1f0c2b3a4d5e6f708192a3b4c5d6e7f8091a2b3c" }]),
    );
}

fn add_host(out: &mut Outputs) {
    out.add::<Vec<JsonCheck<'_>>>(
        "banger doctor",
        json!([
            { "name": "architecture", "verdict": "PASS", "message": "x86_64" },
            {
                "name": "firecracker", "verdict": "WARN", "message": "not installed",
                "hint": "VMs run with qemu instead; firecracker starts them faster where KVM works",
            },
        ]),
    );
    out.add::<DaemonStatus>(
        "banger daemon status",
        json!({
            "version": "0.1.0", "build": "fe01-2c4f81-a2e4c8-187ccb1c5d7e2f00", "pid": 41_502, "uptime_s": 812,
            "resident": 18_874_368, "running_vms": 1, "operations": 0,
            "socket": "/home/ada/.local/state/banger/run/bangerd.sock",
            "state_dir": "/home/ada/.local/state/banger",
            "log": "/home/ada/.local/state/banger/bangerd.log", "vmm": "qemu 7.2.22 with KVM",
            "kvm": "a guest ran", "proxy": { "port": 7788, "error": null },
        }),
    );
    out.add::<Vec<Operation>>(
        "banger operations",
        json!([{
            "id": "c0ffee1234567890", "kind": "image_pull", "target": "alpine:3.20", "stage": "downloading",
            "since": "2026-11-29T17:58:01Z", "state": "running", "done_bytes": 1_048_576,
            "total_bytes": 3_623_807, "owner": 1000, "detached": false, "ended_at": null,
        }]),
    );
    out.add::<Vec<ConfigEntry>>(
        "banger config show",
        json!([{
            "key": "vm.memory", "value": "4G", "layer": "user", "origin": "/home/ada/.config/banger/config.toml:5",
            "help": "Memory of a new VM", "variable": "BANGER_MEMORY",
        }]),
    );
    out.add::<SshConfigInfo>(
        "banger ssh-config",
        json!({
            "file": "/home/ada/.local/state/banger/ssh/config",
            "include": "Include /home/ada/.local/state/banger/ssh/config",
            "known_hosts": "/home/ada/.local/state/banger/ssh/known_hosts",
            "key": "/home/ada/.local/state/banger/ssh/id_ed25519",
            "ssh_config": "/home/ada/.ssh/config", "installed": true,
        }),
    );
}

/// Adds the error that a command with JSON output prints on standard error if it fails.
fn add_error(out: &mut Outputs) {
    out.add::<JsonError<'_>>(
        ERROR,
        json!({
            "kind": "not_found", "message": "there is no VM \"box\"", "subject": { "kind": "vm", "name": "box" },
            "hint": "see `banger ps -a`",
        }),
    );
}

/// Adds the paths of `command`'s subcommands that print JSON, and its own path if it does.
fn with_json(command: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
    let mut arguments = command.get_arguments().filter(|argument| argument.get_short() == Some('o'));
    if arguments.any(|argument| argument.get_possible_values().iter().any(|value| value.get_name() == "json"))
    {
        found.insert(path.to_owned());
    }
    for inner in command.get_subcommands() {
        with_json(inner, &format!("{path} {}", inner.get_name()), found);
    }
}

#[test]
fn every_command_with_json_output_has_a_schema_and_an_example() {
    // Its lines are JSON without an option.
    let mut expected = BTreeSet::from(["banger events".to_owned()]);
    with_json(&Cli::with_defaults(&built_in_keys()), "banger", &mut expected);
    let outputs = outputs();
    let commands = outputs
        .commands
        .keys()
        .filter(|name| *name != ERROR)
        .map(|name| name.split(" --").next().unwrap_or_default().to_owned());
    assert_eq!(commands.collect::<BTreeSet<_>>(), expected);
}

#[test]
fn the_schemas_are_as_checked_in() {
    let document = outputs().document();
    banger_contract::check("docs/src/reference/output.json", &format!("{document:#}\n"));
}

#[test]
fn the_page_with_an_example_of_each_output() {
    let mut page = format!(
        "# JSON output\n\n{GENERATED}\nOne example of the output of each command with `-o json`. [The JSON \
         schemas](output.json) list all fields.\nFields are added, never changed: ignore fields that you do not know. \
         Sizes are in bytes; times are in UTC (RFC 3339).\n`banger events` prints one element of its list per line.\n"
    );
    for (command, schema) in outputs().commands {
        let _ = write!(page, "\n## {command}\n\n```json\n{:#}\n```\n", schema["examples"][0]);
    }
    banger_contract::check("docs/src/reference/output.md", &page);
}
