//! The fake Firecracker: its configuration file and the part of its API that banger uses.

use std::{ffi::OsString, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::{UnixListener, UnixStream},
};

use super::{Control, ControlSocket, Hardware, Switches, faults::Phase, run, value, vsock::Vsock};

/// The configuration. Like the real one, it rejects unknown fields.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    boot_source: BootSource,
    drives: Vec<Drive>,
    #[serde(rename = "machine-config")]
    _machine_config: MachineConfig,
    vsock: VsockDevice,
    #[serde(rename = "entropy")]
    _entropy: Value,
    #[serde(default)]
    network_interfaces: Vec<NetworkInterface>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BootSource {
    kernel_image_path: PathBuf,
    initrd_path: PathBuf,
    #[serde(rename = "boot_args")]
    _boot_args: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drive {
    #[serde(rename = "drive_id")]
    _drive_id: String,
    path_on_host: PathBuf,
    #[serde(rename = "is_root_device")]
    _is_root_device: bool,
    #[serde(rename = "is_read_only")]
    _is_read_only: bool,
    #[serde(rename = "cache_type")]
    _cache_type: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineConfig {
    #[serde(rename = "vcpu_count")]
    _vcpu_count: u32,
    #[serde(rename = "mem_size_mib")]
    _mem_size_mib: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VsockDevice {
    #[serde(rename = "guest_cid")]
    _guest_cid: u32,
    uds_path: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkInterface {
    #[serde(rename = "iface_id")]
    _iface_id: String,
    host_dev_name: String,
    #[serde(rename = "guest_mac")]
    _guest_mac: String,
}

/// Runs the process.
pub(crate) async fn main(args: &[OsString]) -> Result<()> {
    let config: Config = serde_json::from_slice(&fs::read(value(args, "--config-file")?)?)?;
    let BootSource { kernel_image_path, initrd_path, .. } = config.boot_source;
    let disks: Vec<_> = config.drives.into_iter().map(|drive| drive.path_on_host).collect();
    for path in disks.iter().chain([&kernel_image_path, &initrd_path]) {
        ensure!(path.is_file(), "{} does not exist", path.display());
    }
    ensure!(config.network_interfaces.iter().all(|interface| interface.host_dev_name == "tap0"));
    let control = std::path::absolute(value(args, "--api-sock")?)?;
    ensure!(
        value(args, "--id")?.as_os_str()
            == control.parent().and_then(|path| path.file_name()).context("--api-sock")?
    );
    let path = config.vsock.uds_path;
    let vsock = Vsock::Own { listener: UnixListener::bind(&path)?, path };
    run(Hardware { control: ControlSocket::New(control), vsock, disks }, Control::Firecracker).await
}

/// Answers the requests of a connection.
pub(super) async fn serve(stream: UnixStream, switches: &Switches) -> Result<()> {
    let mut stream = BufStream::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_ascii_lowercase()),
            }
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length:"));
        let mut body = vec![0; length.map_or(Ok(0), |length| length.trim().parse())?];
        stream.read_exact(&mut body).await?;
        let answer = if switches.faults.reach(Phase::Control).await {
            "SSH-2.0-OpenSSH\r\n\r\n".to_owned()
        } else {
            let request = head.first().context("no request")?.trim_end_matches(" http/1.1");
            let (status, content) = answer(request, &body, switches);
            let content = content.map(|content| content.to_string()).unwrap_or_default();
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{content}", content.len())
        };
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
        // After the response, because a real guest takes longer.
        if body.ends_with(b"\"SendCtrlAltDel\"}") {
            switches.ctrl_alt_del();
        }
    }
}

fn answer(request: &str, body: &[u8], switches: &Switches) -> (&'static str, Option<Value>) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    match (request, &body["state"], &body["action_type"]) {
        ("get /", ..) => {
            let state = if *switches.paused.borrow() { "Paused" } else { "Running" };
            ("200 OK", Some(json!({ "app_name": "Firecracker", "state": state })))
        }
        ("patch /vm", Value::String(state), _) if state == "Paused" || state == "Resumed" => {
            switches.paused.send_replace(state == "Paused");
            ("204 No Content", None)
        }
        ("put /actions", _, Value::String(action)) if action == "SendCtrlAltDel" => ("204 No Content", None),
        _ => ("400 Bad Request", Some(json!({ "fault_message": "no such request" }))),
    }
}
