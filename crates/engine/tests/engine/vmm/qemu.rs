//! The fake QEMU: the options and the part of QMP that banger uses.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::UnixStream,
};

use super::{Control, Hardware, Switches, faults::Phase, reset, run, value, vsock::Vsock};

/// Runs the process.
pub(crate) async fn main(args: &[OsString]) -> Result<()> {
    if args.iter().any(|arg| arg == "--version") {
        return Ok(writeln!(io::stdout(), "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)")?);
    }
    ensure!(args.iter().any(|arg| arg == "-no-reboot"), "a reset would not end QEMU");
    let disks = values(args, "-blockdev").map(|node| {
        let node: Value = serde_json::from_str(node)?;
        Ok(PathBuf::from(node["file"]["filename"].as_str().context("a disk without a file")?))
    });
    let disks = disks.collect::<Result<Vec<_>>>()?;
    for path in disks.iter().map(PathBuf::as_path).chain([value(args, "-kernel")?, value(args, "-initrd")?]) {
        ensure!(path.is_file(), "{} does not exist", path.display());
    }
    let control = option_path(args, "-qmp", "unix:").context("no QMP socket")?;
    let vsock = option_path(args, "-chardev", "socket,id=vsock,path=").context("no vsock device")?;
    ensure!(
        values(args, "-device").any(|device| device.starts_with("vhost-user-vsock-pci,chardev=vsock")),
        "the vsock socket belongs to no device"
    );
    run(Hardware { control, vsock: Vsock::Device(vsock), disks }, Control::Qmp).await
}

fn values<'a>(args: &'a [OsString], option: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = args.iter().zip(args.iter().skip(1));
    pairs.filter(move |(name, _)| *name == option).filter_map(|(_, value)| OsStr::to_str(value))
}

/// Returns the path that follows `prefix` in a value of `option`, where commas are doubled.
fn option_path(args: &[OsString], option: &str, prefix: &str) -> Option<PathBuf> {
    let value = values(args, option).find_map(|value| value.strip_prefix(prefix))?.replace(",,", "\0");
    Some(value.split(',').next()?.replace('\0', ",").into())
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
