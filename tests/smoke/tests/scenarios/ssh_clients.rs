//! ssh clients other than OpenSSH's.

use std::path::Path;

use anyhow::Result;
use banger_smoke::{Host, Running, scenario};
use serde_json::{Value, json};

use crate::ssh::{SERVER, noise};

#[scenario(Here)]
fn dropbear_and_paramiko_use_sessions_files_and_ports() -> Result<()> {
    let host = Host::with_debian()?;
    let mut server = host.start(&["vm", "exec", "box", "--", "perl", "-e", SERVER])?;
    server.wait_for_stdout("listening")?;
    check_dropbear(&host)?;
    for key_exchange in ["mlkem768x25519-sha256", "curve25519-sha256@libssh.org"] {
        check_paramiko(&host, key_exchange)?;
    }
    Ok(())
}

/// dropbear's client has no AES-GCM.
fn check_dropbear(host: &Host) -> Result<()> {
    let proxy = format!("{} ssh-proxy box", host.program("banger").display());
    let dbclient = |args: &[&str]| {
        let mut dbclient = host.tool("dbclient");
        dbclient.args(["-y", "-y", "-J", &proxy]).args(args);
        Running::start(dbclient, format!("dbclient {}", args.join(" ")))
    };
    let input = noise(3 << 20);
    let out = dbclient(&["root@box.vm", "wc -c; whoami; echo to stderr >&2; exit 42"])?.finish(&input)?;
    assert!(out.stderr.ends_with("to stderr\n"), "{}", out.stderr);
    assert_eq!(out.code(42)?, format!("{}\nroot\n", input.len()));
    assert_eq!(dbclient(&["dev@box.vm", "id -nG"])?.finish(b"")?.success()?, "dev\n");
    // Standard streams as a connection to a port.
    let answer = dbclient(&["-B", "127.0.0.1:8080", "root@box.vm"])?.finish(b"from dropbear")?.success()?;
    assert_eq!(answer, "FROM DROPBEAR");
    Ok(())
}

fn check_paramiko(host: &Host, key_exchange: &str) -> Result<()> {
    let mut python = host.python()?;
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/ssh_client.py"));
    python.args([key_exchange, "8080"]).arg(host.program("banger")).args(["ssh-proxy", "box"]);
    let seen = Running::start(python, format!("paramiko with {key_exchange}"))?.finish(b"")?.success()?;
    assert_eq!(
        serde_json::from_str::<Value>(&seen)?,
        json!({
            "cipher": "aes256-gcm@openssh.com",
            "host_key": "ssh-ed25519",
            "status": 42,
            "stderr": "to stderr\n",
            "echoed": true,
            "sftp": true,
            "forwarded": "OVER A PORT\n",
        })
    );
    Ok(())
}
