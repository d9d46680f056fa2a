//! The fake QEMU: the options and the part of QMP that banger uses.

use std::{
    ffi::{OsStr, OsString},
    os::fd::OwnedFd,
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::UnixStream,
};

use super::{
    Control, ControlSocket, Hardware, Switches, faults::Phase, inherited, reset, run, value, vsock::Vsock,
};

/// Runs the process.
pub(crate) async fn main(args: &[OsString]) -> Result<()> {
    ensure!(args.iter().any(|arg| arg == "-no-reboot"), "a reset would not end QEMU");
    let disks = values(args, "-blockdev").map(|node| {
        let node: Value = serde_json::from_str(node)?;
        Ok(PathBuf::from(node["file"]["filename"].as_str().context("a disk without a file")?))
    });
    let disks = disks.collect::<Result<Vec<_>>>()?;
    for path in disks.iter().map(PathBuf::as_path).chain([value(args, "-kernel")?, value(args, "-initrd")?]) {
        ensure!(path.is_file(), "{} does not exist", path.display());
    }
    let control = chardev_socket(args, "id=qmp,server=on,wait=off").context("no QMP socket")?;
    ensure!(values(args, "-mon").any(|monitor| monitor == "chardev=qmp,mode=control"), "no QMP monitor");
    let vsock = Vsock::device(chardev_socket(args, "id=vsock").context("no vsock device")?.into())?;
    ensure!(
        values(args, "-device").any(|device| device.starts_with("vhost-user-vsock-pci,chardev=vsock")),
        "the vsock socket belongs to no device"
    );
    let control = ControlSocket::Inherited(control.into());
    run(Hardware { control, vsock, disks }, Control::Qmp).await
}

fn values<'a>(args: &'a [OsString], option: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = args.iter().zip(args.iter().skip(1));
    pairs.filter(move |(name, _)| *name == option).filter_map(|(_, value)| OsStr::to_str(value))
}

/// Returns the inherited socket of the character device with these options.
fn chardev_socket(args: &[OsString], options: &str) -> Result<OwnedFd> {
    let prefix = format!("socket,{options},fd=");
    let number = values(args, "-chardev").find_map(|value| value.strip_prefix(&prefix));
    inherited(number.with_context(|| format!("no {prefix}"))?)
}

/// Serves a QMP client.
pub(super) async fn serve(stream: UnixStream, switches: &Switches) -> Result<()> {
    let mut stream = BufStream::new(stream);
    let version = json!({ "qemu": { "micro": 22, "minor": 2, "major": 7 }, "package": "" });
    send(&mut stream, &json!({ "QMP": { "version": version, "capabilities": ["oob"] } })).await?;
    let mut negotiated = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if switches.faults.reach(Phase::Control).await {
            stream.write_all(b"hello\r\n").await?;
            return Ok(stream.flush().await?);
        }
        let command: Value = serde_json::from_str(&line)?;
        let name = command["execute"].as_str().unwrap_or_default();
        let event = |name: &str| json!({ "event": name, "timestamp": { "seconds": 1, "microseconds": 2 } });
        let answer = match name {
            "qmp_capabilities" => {
                negotiated = true;
                json!({ "return": {} })
            }
            _ if !negotiated => error("Expecting capabilities negotiation with 'qmp_capabilities'"),
            "query-status" => {
                let running = !*switches.paused.borrow();
                let status = if running { "running" } else { "paused" };
                json!({ "return": { "status": status, "running": running, "singlestep": false } })
            }
            "stop" | "cont" => {
                switches.paused.send_replace(name == "stop");
                send(&mut stream, &event(if name == "stop" { "STOP" } else { "RESUME" })).await?;
                json!({ "return": {} })
            }
            "send-key" | "system_reset" => json!({ "return": {} }),
            _ => error(&format!("The command {name} has not been found")),
        };
        send(&mut stream, &answer).await?;
        // After the response, because a real guest takes longer.
        let keys = ["ctrl", "alt", "delete"].map(|key| json!({ "type": "qcode", "data": key }));
        match name {
            "send-key" if command["arguments"]["keys"] == json!(keys) => switches.ctrl_alt_del(),
            "system_reset" => reset(),
            _ => {}
        }
    }
}

fn error(description: &str) -> Value {
    json!({ "error": { "class": "CommandNotFound", "desc": description } })
}

async fn send(stream: &mut BufStream<UnixStream>, message: &Value) -> Result<()> {
    stream.write_all(format!("{message}\r\n").as_bytes()).await?;
    Ok(stream.flush().await?)
}
