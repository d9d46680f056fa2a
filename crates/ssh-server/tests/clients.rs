//! Real clients against a server whose sessions run no program: they send back what they receive.
#![allow(clippy::unwrap_used)] // tests

use std::{
    collections::HashMap,
    fs,
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use banger_ssh_server::{
    Channel, Decision, Exit, GlobalRequest, Handler, HostKey, Link, Part, Refusal, Request, Stream, Target,
    TooManyRequests, serve,
};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Exit status of each session.
const STATUS: u32 = 7;

/// Sends back each session's input, and its command line as standard error.
#[derive(Default)]
struct Echo(HashMap<u32, Channel>);

impl Handler for Echo {
    fn authenticated(&mut self, _: String) {}

    fn open(&mut self, target: Target, channel: Channel) -> Decision {
        if target != Target::Session {
            return Decision::Refuse(Refusal::UnknownTarget);
        }
        self.0.insert(channel.number(), channel);
        Decision::Accept
    }

    fn request(&mut self, channel: u32, request: Request) -> bool {
        let Request::Exec(line) = request else { return false };
        let Some(Channel { mut reader, writer, .. }) = self.0.remove(&channel) else { return false };
        tokio::spawn(async move {
            writer.write(line.into(), Stream::Error).await.unwrap();
            while let Some(Part::Data(bytes)) = reader.next().await {
                let count = bytes.len();
                writer.write(bytes, Stream::Output).await.unwrap();
                reader.consumed(count).await.unwrap();
            }
            writer.end().await.unwrap();
            writer.exit(Exit::Status(STATUS)).await.unwrap();
            writer.close().await;
        });
        true
    }

    fn global(&mut self, _: GlobalRequest, _: bool) -> Result<(), TooManyRequests> {
        Ok(())
    }

    fn closed(&mut self, channel: u32) {
        self.0.remove(&channel);
    }
}

/// Starts a server on loopback for one connection; it ends with the test.
fn server() -> (SocketAddr, String) {
    let bytes = HostKey::generate().unwrap();
    let public = HostKey::read(&bytes).unwrap().public();
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let (reader, writer) = stream.split();
            // The client's exit status says whether it was served.
            let _ = serve(reader, writer, HostKey::read(&bytes).unwrap(), |_: Link| Echo::default()).await;
        });
    });
    (receiver.recv().unwrap(), public)
}

/// Runs `client` with more input than a channel's window, and checks its output.
fn check(mut client: Command) {
    let input: Vec<u8> = (0..600_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut child =
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = input.clone();
    let sending = thread::spawn(move || stdin.write_all(&sent));
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(STATUS as i32), "{stderr}");
    sending.join().unwrap().unwrap();
    assert!(stdout == input, "{} of {} bytes", stdout.len(), input.len());
    assert!(stderr.contains("a command"), "{stderr}");
}

fn openssh(home: &Path, options: &[&str]) -> Command {
    let (address, public) = server();
    let known_hosts = home.join("known_hosts");
    fs::write(&known_hosts, format!("[127.0.0.1]:{} {public}\n", address.port())).unwrap();
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "/dev/null", "-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no"]);
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
    ssh.args(options).args(["-p", &address.port().to_string(), "root@127.0.0.1", "a command"]);
    ssh
}

#[test]
fn openssh_exchanges_data_with_every_cipher_and_many_keys() {
    let home = TempDir::new().unwrap();
    for cipher in ["aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"] {
        // A new key exchange after each mebibyte.
        check(openssh(home.path(), &["-c", cipher, "-o", "RekeyLimit=1M"]));
    }
}

#[test]
fn dropbears_client_exchanges_data() {
    let home = TempDir::new().unwrap();
    let (address, _) = server();
    let mut dbclient = Command::new("dbclient");
    dbclient.env("HOME", home.path()).args(["-y", "-y", "-p", &address.port().to_string()]);
    dbclient.args(["root@127.0.0.1", "a command"]);
    check(dbclient);
}
