//! ssh into VMs that have no sshd: sessions, files, forwards, and how an editor uses them.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixStream,
    },
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use banger_smoke::{
    Finished, Host, Running, Terminal, debian, scenario, static_busybox, tar_of, until, with_libraries,
};
use rustix::process::Signal;

/// Returns an OpenSSH program that uses banger's ssh configuration.
fn tool(host: &Host, program: &str, args: &[&str]) -> Result<Command> {
    let config = host.ok(&["ssh-config", "-q"])?;
    let mut command = host.tool(program);
    command.arg("-F").arg(config.trim()).args(args);
    Ok(command)
}

fn start(host: &Host, program: &str, args: &[&str]) -> Result<Running> {
    Running::start(tool(host, program, args)?, format!("{program} {}", args.join(" ")))
}

/// Runs an OpenSSH program until it exits.
fn run(host: &Host, program: &str, args: &[&str]) -> Result<Finished> {
    start(host, program, args)?.finish(b"")
}

fn ssh(host: &Host, args: &[&str]) -> Result<Finished> {
    run(host, "ssh", args)
}

fn host_with_tiny_vm() -> Result<Host> {
    let host = Host::tiny()?;
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "tiny"])?;
    Ok(host)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Returns pseudo-random bytes of all values.
pub(crate) fn noise(length: u32) -> Vec<u8> {
    (0..length / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[scenario(Here, LabMore)]
fn commands_over_ssh_behave_as_with_an_sshd() -> Result<()> {
    let host = debian()?;
    let out = ssh(&host, &["box.vm", "hostname; whoami; pwd; echo to stderr >&2; exit 42"])?;
    assert_eq!(out.stderr, "to stderr\n");
    assert_eq!(out.code(42)?, "box\nroot\n/root\n");
    assert_eq!(ssh(&host, &["dev@box.vm", "whoami; pwd; id -nG"])?.success()?, "dev\n/home/dev\ndev\n");
    ssh(&host, &["no-such-user@box.vm", "true"])?.fails(125, &["there is no user \"no-such-user\""])?;
    ssh(&host, &["box.vm", "kill -TERM $$"])?.code(143)?;
    ssh(&host, &["box.vm", "exit 255"])?.code(255)?;
    let config = host.ok(&["ssh-config", "-q"])?;
    let script = format!("ssh -F {} box.vm yes | head -n 1; echo ${{PIPESTATUS[0]}}", config.trim());
    let mut bash = host.tool("bash");
    bash.args(["-c", &script]);
    assert_eq!(Running::start(bash, script)?.finish(b"")?.success()?, "y\n141\n");
    check_environment(&host)?;
    check_streams(&host)?;
    check_vm_ssh(&host)
}

fn check_environment(host: &Host) -> Result<()> {
    let set = "SetEnv=LC_TEST='a b' LANG=C.UTF-8 LD_PRELOAD=no";
    let out = ssh(host, &["-o", set, "box.vm", "echo $LC_TEST $LANG $LD_PRELOAD.; echo $SSH_CONNECTION"])?;
    assert_eq!(out.success()?, "a b C.UTF-8 .\nUNKNOWN 65535 UNKNOWN 65535\n");
    Ok(())
}

fn check_streams(host: &Host) -> Result<()> {
    let (sent, received) = (host.path("there"), host.path("back"));
    fs::write(&sent, noise(8 << 20))?;
    // Keys are exchanged repeatedly during the transfer.
    let mut cat = tool(host, "ssh", &["-o", "RekeyLimit=1M", "box.vm", "cat"])?;
    let status = cat.stdin(File::open(&sent)?).stdout(File::create(&received)?).status()?;
    ensure!(status.success() && fs::read(&sent)? == fs::read(&received)?, "the copied data differs");
    let sum = ssh(host, &["box.vm", "head -c 30000000 /dev/zero | tee /dev/stderr | sha256sum"])?;
    assert_eq!(sum.stderr.len(), 30_000_000);
    sum.success().map(drop)
}

fn check_vm_ssh(host: &Host) -> Result<()> {
    let ssh = |args: &[&str]| host.banger(&[&["vm", "ssh"], args].concat());
    assert_eq!(ssh(&["bo", "--", "hostname"])?.success()?, "box\n");
    assert_eq!(ssh(&["dev@box", "--", "cd /tmp && pwd"])?.success()?, "/tmp\n");
    assert_eq!(ssh(&["box", "--", "echo", "a  b", "$HOME"])?.success()?, "a  b $HOME\n");
    assert_eq!(host.start(&["vm", "ssh", "box", "--", "cat"])?.finish(b"piped")?.success()?, "piped");
    ssh(&["box", "--", "sh", "-c", "exit 42"])?.code(42)?;
    ssh(&["box", "--", "kill -KILL $$"])?.code(137)?;
    ssh(&["box", "--", "exit 255"])?.code(255)?;
    assert_eq!(ssh(&["box", "-A", "-o", "LogLevel=ERROR", "--", "echo", "a  b"])?.success()?, "a  b\n");
    ssh(&["box", "-o", "NoSuchOption=1", "--", "true"])?.fails(125, &["nosuchoption"])?;
    ssh(&["other", "--", "true"])?.fails(125, &["there is no VM \"other\""])?;
    let mut none = host.command(&["vm", "ssh", "box", "--", "true"]);
    none.env("PATH", host.path("nothing"));
    Running::start(none, "banger vm ssh".to_owned())?
        .finish(b"")?
        .fails(125, &["there is no ssh on PATH", "openssh-client"])
        .map(drop)
}

#[scenario(Here)]
fn an_ssh_terminal_resizes_passes_ctrl_c_and_is_restored() -> Result<()> {
    let host = debian()?;
    let mut terminal = Terminal::start(&tool(&host, "ssh", &["dev@box.vm"])?, 30, 100)?;
    terminal.send_keys("stty size; tty; echo $TERM at $((40 + 2)); shopt login_shell\n")?;
    for text in ["30 100", "/dev/pts/", "xterm at 42", "login_shell", "on"] {
        terminal.wait_for(text)?;
    }
    terminal.resize(50, 120)?;
    terminal.send_keys("until [ \"$(stty size)\" = '50 120' ]; do sleep 0.1; done; echo at $((60 + 0))\n")?;
    terminal.wait_for("at 60")?;
    terminal.send_keys("sh -c 'echo at $((60 + 1)); exec sleep 1000'\n")?;
    terminal.wait_for("at 61")?;
    terminal.send_keys("\x03")?;
    terminal.send_keys("echo at $((60 + 2))\n")?;
    terminal.wait_for("at 62")?;
    terminal.send_keys("exit 7\n")?;
    assert_eq!(terminal.wait()?.code(), Some(7));
    assert!(terminal.is_cooked()?, "the terminal's modes were not restored");
    Ok(())
}

#[scenario(Here, LabMore, Slow)]
fn scp_and_sftp_copy_files_in_both_directions() -> Result<()> {
    let host = Host::with_debian()?;
    let tree = host.path("tree");
    fs::create_dir_all(tree.join("with space/empty"))?;
    fs::write(tree.join("big"), noise(6 << 20))?;
    fs::write(tree.join("script"), "#!/bin/sh\n")?;
    fs::set_permissions(tree.join("script"), fs::Permissions::from_mode(0o750))?;
    let old_time = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
    let old_time = rustix::fs::Timestamps { last_access: old_time, last_modification: old_time };
    rustix::fs::utimensat(rustix::fs::CWD, tree.join("script"), &old_time, rustix::fs::AtFlags::empty())?;
    check_scp(&host, &tree)?;
    check_sftp(&host)?;
    check_resumed_transfers(&host, &tree)?;
    check_permissions(&host)
}

fn check_scp(host: &Host, tree: &Path) -> Result<()> {
    run(host, "scp", &["-r", "-p", &text(tree), "box.vm:"])?.success()?;
    let stat = ssh(host, &["box.vm", "stat -c '%a %Y' tree/script; ls tree; sha256sum < tree/big"])?;
    let sum = Command::new("sha256sum").stdin(File::open(tree.join("big"))?).output()?.stdout;
    let expected = format!("750 1000000000\nbig\nscript\nwith space\n{}", String::from_utf8(sum)?);
    assert_eq!(stat.success()?, expected);
    run(host, "scp", &["-r", "-p", "box.vm:tree", &text(&host.path("back"))])?.success()?;
    let script = fs::metadata(host.path("back/script"))?;
    assert_eq!((script.mode() & 0o777, script.mtime()), (0o750, 1_000_000_000));
    ensure!(fs::read(host.path("back/big"))? == fs::read(tree.join("big"))?, "the copied data differs");
    run(host, "scp", &["box.vm:~dev/.bashrc", &text(&host.path("home"))])?.success()?;
    run(host, "scp", &["box.vm:/no-such-file", &text(tree)])?.fails(1, &["No such file"]).map(drop)
}

/// Number of files in one directory, more than sftp reads in one response.
const FILES: usize = 600;

fn check_sftp(host: &Host) -> Result<()> {
    fs::create_dir(host.path("many"))?;
    for number in 0..FILES {
        fs::write(host.path("many").join(format!("file {number}")), number.to_string())?;
    }
    let batch = format!(
        "put -r {many} /srv/many\nls -l /srv/many\nget -r /srv/many {back}\nmkdir /srv/dir\n\
         rename /srv/many /srv/dir/moved\nln -s moved /srv/dir/link\nln /srv/dir/moved/'file 1' /srv/hard\n\
         chmod 600 /srv/hard\nchown 1 /srv/hard\ndf /srv\n-rmdir /srv/dir\nrm /srv/dir/moved/'file 2'\ncd /srv/dir/link\npwd\n",
        many = text(&host.path("many")),
        back = text(&host.path("many-back")),
    );
    fs::write(host.path("batch"), batch)?;
    let out = run(host, "sftp", &["-b", &text(&host.path("batch")), "box.vm"])?.success()?;
    assert!(
        out.contains("root     root            3") && out.contains(&format!("file {}", FILES - 1)),
        "{out}"
    );
    assert!(out.contains("Remote working directory: /srv/dir/moved"), "{out}");
    assert_eq!(fs::read_dir(host.path("many-back"))?.count(), FILES);
    let last = (FILES - 1).to_string();
    assert_eq!(fs::read_to_string(host.path(&format!("many-back/file {last}")))?, last);
    let in_guest = ssh(
        host,
        &["box.vm", "ls /srv/dir/moved | wc -l; readlink /srv/dir/link; stat -c '%a %u %h' /srv/hard"],
    )?;
    assert_eq!(in_guest.success()?, format!("{last}\nmoved\n600 1 2\n"));
    Ok(())
}

fn check_resumed_transfers(host: &Host, tree: &Path) -> Result<()> {
    let (big, part) = (text(&tree.join("big")), host.path("part"));
    ssh(host, &["box.vm", "head -c 1000000 tree/big > part"])?.success()?;
    fs::write(&part, fs::read(&big)?.get(..1_000_000).context("big")?)?;
    fs::write(host.path("batch"), format!("reput {big} part\nreget part {}\n", text(&part)))?;
    run(host, "sftp", &["-b", &text(&host.path("batch")), "box.vm"])?.success()?;
    ssh(host, &["box.vm", "cmp tree/big part"])?.success()?;
    ensure!(fs::read(&part)? == fs::read(&big)?, "the copied data differs");
    Ok(())
}

fn check_permissions(host: &Host) -> Result<()> {
    let batch = text(&host.path("batch"));
    run(host, "scp", &[&batch, "dev@box.vm:/etc/passwd"])?.fails(1, &["Permission denied"])?;
    run(host, "scp", &[&batch, "dev@box.vm:theirs"])?.success()?;
    let owner = ssh(host, &["box.vm", "stat -c %U /home/dev/theirs; grep -c . /etc/passwd"])?.success()?;
    assert!(owner.starts_with("dev\n"), "{owner}");
    Ok(())
}

#[scenario(Here)]
fn rsync_works_in_a_guest_with_only_busybox_and_rsync() -> Result<()> {
    let host = Host::new()?;
    let busybox = static_busybox()?;
    let rsync = with_libraries("/usr/bin/rsync")?;
    let mut files = vec![("bin/busybox", busybox.as_slice())];
    files.extend(rsync.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())));
    let tar = host.path("rsync.tar");
    tar_of(&tar, &files, &[("bin/sh", "busybox")])?;
    host.ok(&["image", "import", "rsync", &text(&tar)])?;
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "rsync"])?;

    let tree = host.path("tree");
    fs::create_dir_all(tree.join("directory"))?;
    fs::write(tree.join("directory/big"), noise(4 << 20))?;
    symlink("directory/big", tree.join("link"))?;
    let shell = format!("ssh -F {}", host.ok(&["ssh-config", "-q"])?.trim());
    let rsync = |from: &str, to: &str| {
        let mut rsync = host.tool("rsync");
        rsync.args(["-a", "--itemize-changes", "-e", &shell, from, to]);
        Running::start(rsync, format!("rsync {from} {to}"))?.finish(b"")?.success()
    };
    let source = format!("{}/", text(&tree));
    assert!(rsync(&source, "box.vm:/root/tree/")?.contains("directory/big"));
    assert_eq!(rsync(&source, "box.vm:/root/tree/")?, "", "nothing has changed");
    rsync("box.vm:/root/tree/", &text(&host.path("back")))?;
    ensure!(fs::read(host.path("back/directory/big"))? == noise(4 << 20), "the copied data differs");
    assert_eq!(fs::read_link(host.path("back/link"))?, Path::new("directory/big"));
    Ok(())
}

/// Servers in the guest, on a port and on a Unix socket, that answer with their input in capitals when it ends.
pub(crate) const SERVER: &str = r#"
use IO::Socket::INET; use IO::Socket::UNIX;
unlink "/tmp/server";
my $tcp = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 8080, Listen => 9, ReuseAddr => 1) or die;
my $unix = IO::Socket::UNIX->new(Local => "/tmp/server", Listen => 9) or die;
$| = 1; print "listening\n";
$SIG{CHLD} = "IGNORE"; my $first = fork; my $socket = $first ? $tcp : $unix;
while (my $caller = $socket->accept) { local $/; print $caller uc <$caller>; close $caller; }
"#;

/// Sends text to a port or Unix socket in the guest, and prints the answer.
const CALL: &str = r#"use IO::Socket::INET; use IO::Socket::UNIX; local $/;
my $s = $ARGV[0] =~ /^\d/ ? IO::Socket::INET->new(PeerAddr => $ARGV[0]) : IO::Socket::UNIX->new(Peer => $ARGV[0]);
$s or die "cannot call: $!\n"; print $s "from the guest"; $s->flush; shutdown $s, 1; print <$s>;"#;

/// Sends text, ends the stream with `end`, and returns the answer.
fn exchange(mut stream: impl Read + Write, end: impl FnOnce() -> std::io::Result<()>) -> Result<String> {
    stream.write_all(b"from the host")?;
    end()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn exchange_at(path: &Path) -> Result<String> {
    let stream = UnixStream::connect(path)?;
    exchange(&stream, || stream.shutdown(std::net::Shutdown::Write))
}

/// Starts a server on the host that answers like those in the guest, and returns its port.
fn start_host_server() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut received = String::new();
            // The scenario is the only client, and notices errors.
            let _ = (&client)
                .read_to_string(&mut received)
                .and_then(|_| (&client).write_all(received.to_uppercase().as_bytes()));
        }
    });
    Ok(port)
}

#[scenario(Here, LabMore)]
fn connections_are_forwarded_in_both_directions() -> Result<()> {
    let host = Host::with_debian()?;
    let mut server = host.start(&["vm", "exec", "box", "--", "perl", "-e", SERVER])?;
    server.wait_for_stdout("listening")?;
    check_local_forwards(&host)?;
    check_dynamic_forward(&host)?;
    check_remote_forwards(&host)
}

fn check_local_forwards(host: &Host) -> Result<()> {
    let forward = |name: &str, to: &str| format!("{}:{to}", text(&host.path(name)));
    let [tcp, unix, none] = [("tcp", "localhost:8080"), ("unix", "/tmp/server"), ("none", "localhost:9")]
        .map(|(name, to)| forward(name, to));
    let args = ["-L", &tcp, "-L", &unix, "-L", &none, "box.vm", "echo ready; exec cat"];
    let mut forwards = start(host, "ssh", &args)?;
    forwards.wait_for_stdout("ready")?;
    for name in ["tcp", "unix", "tcp"] {
        assert_eq!(exchange_at(&host.path(name))?, "FROM THE HOST");
    }
    assert_eq!(exchange_at(&host.path("none")).unwrap_or_default(), "");
    forwards.wait_for_stderr("cannot connect to 127.0.0.1:9: Connection refused")?;
    let (tcp, both) = (host.path("tcp"), noise(3 << 20));
    thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| -> Result<usize> {
                    let stream = UnixStream::connect(&tcp)?;
                    (&stream).write_all(&both)?;
                    stream.shutdown(std::net::Shutdown::Write)?;
                    let mut answer = Vec::new();
                    (&stream).read_to_end(&mut answer)?;
                    Ok(answer.len())
                })
            })
            .collect();
        for call in calls {
            assert_eq!(call.join().map_err(|_| anyhow!("a call panicked"))??, both.len());
        }
        anyhow::Ok(())
    })?;
    forwards.finish(b"")?.success().map(drop)
}

fn check_dynamic_forward(host: &Host) -> Result<()> {
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let mut socks = start(host, "ssh", &["-D", &port.to_string(), "box.vm", "echo ready; exec cat"])?;
    socks.wait_for_stdout("ready")?;
    // RFC 1928: no authentication; connect to a name.
    let connect = |name: &str, to: u16| -> Result<(TcpStream, u8)> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(&[5, 1, 0])?;
        stream.read_exact(&mut [0; 2])?;
        let length = u8::try_from(name.len())?;
        stream.write_all(&[&[5, 1, 0, 3, length], name.as_bytes(), &to.to_be_bytes()].concat())?;
        let mut answer = [0; 10];
        // ssh closes the connection if it cannot connect.
        let _ = stream.read_exact(&mut answer);
        Ok((stream, answer[0]))
    };
    for name in ["localhost", "127.0.0.1"] {
        let (stream, version) = connect(name, 8080)?;
        assert_eq!(version, 5);
        assert_eq!(exchange(&stream, || stream.shutdown(std::net::Shutdown::Write))?, "FROM THE HOST");
    }
    connect("no-such-host.invalid", 80)?;
    socks.wait_for_stderr("the guest cannot resolve host \"no-such-host.invalid\"")?;
    socks.finish(b"")?.success().map(drop)
}

fn check_remote_forwards(host: &Host) -> Result<()> {
    let address = format!("127.0.0.1:{}", start_host_server()?);
    let [any, path] = [format!("0:{address}"), format!("/home/dev/socket:{address}")];
    let args =
        ["-o", "ExitOnForwardFailure=yes", "-R", &any, "-R", &path, "dev@box.vm", "echo ready; exec cat"];
    let mut forwards = start(host, "ssh", &args)?;
    forwards.wait_for_stdout("ready")?;
    let listening = host.json(&["vm", "ports", "box"])?;
    let rows = listening.as_array().into_iter().flatten();
    let chosen = rows.filter(|row| row["address"] == "127.0.0.1" && row["port"] != 8080);
    let ports: Vec<_> = chosen.map(|row| row["port"].to_string()).collect();
    let [port] = ports.as_slice() else { bail!("listening on ports {ports:?}: {listening}") };
    for at in [format!("127.0.0.1:{port}"), "/home/dev/socket".to_owned()] {
        let call = host.ok(&["vm", "exec", "box", "--user", "dev", "--", "perl", "-e", CALL, &at])?;
        assert_eq!(call, "FROM THE GUEST");
    }
    let mode = host.ok(&["vm", "exec", "box", "--", "stat", "-c", "%U %a", "/home/dev/socket"])?;
    assert_eq!(mode, "dev 600\n");
    let occupied = ["-o", "ExitOnForwardFailure=yes", "-R", &path, "box.vm", "true"];
    // The refusal comes before the command's end.
    ssh(host, &occupied)?.fails(255, &["remote port forwarding failed"])?;
    // A listener that could not be created removes neither another one's socket nor a file of the user's.
    host.ok(&["vm", "exec", "box", "--", "sh", "-c", "test -S /home/dev/socket && echo kept > /root/kept"])?;
    let file = format!("/root/kept:{address}");
    ssh(host, &["-o", "ExitOnForwardFailure=yes", "-R", &file, "box.vm", "true"])?
        .fails(255, &["remote port forwarding failed"])?;
    assert_eq!(host.ok(&["vm", "exec", "box", "--", "sh", "-c", "cat /root/kept; rm /root/kept"])?, "kept\n");
    forwards.finish(b"")?.success()?;
    until("the guest has closed its listeners", || {
        Ok(host.banger(&["vm", "exec", "box", "--", "test", "!", "-e", "/home/dev/socket"])?.status.success())
    })
}

/// Asks an ssh agent for its keys, and prints their number and the first one.
const KEYS: &str = r#"use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ENV{SSH_AUTH_SOCK}) or die "no agent: $!\n";
print $s pack("NC", 1, 11); $s->flush; read $s, my $n, 4; read $s, my $b, unpack("N", $n);
my ($kind, $keys, $key) = unpack("CNN/a", $b); print "$kind $keys ", unpack("H*", $key), "\n";"#;

#[scenario(Here)]
fn the_ssh_agent_is_forwarded_only_to_its_session_and_user() -> Result<()> {
    let host = debian()?;
    let (socket, key) = (host.path("agent"), host.path("key"));
    let mut agent =
        Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn()?;
    let result = (|| {
        until("the agent is listening", || Ok(UnixStream::connect(&socket).is_ok()))?;
        let quiet = ["-q", "-t", "ed25519", "-N", "", "-f", &text(&key)];
        ensure!(Command::new("ssh-keygen").args(quiet).status()?.success(), "ssh-keygen");
        let added = Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket).status()?;
        ensure!(added.success(), "ssh-add");
        let with_agent = |args: &[&str]| {
            let mut ssh = tool(&host, "ssh", args)?;
            ssh.env("SSH_AUTH_SOCK", &socket);
            Running::start(ssh, "ssh".to_owned())?.finish(b"")
        };
        let script = format!("perl -e '{KEYS}'; stat -c '%U %a' $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK)");
        let out = with_agent(&["-A", "dev@box.vm", &script])?.success()?;
        let mut lines = out.lines();
        assert!(
            lines.next().is_some_and(|line| line.starts_with("12 1 0000000b7373682d65643235353139")),
            "{out}"
        );
        assert_eq!(lines.collect::<Vec<_>>(), ["dev 600", "dev 700"]);
        assert_eq!(with_agent(&["box.vm", "echo .$SSH_AUTH_SOCK."])?.success()?, "..\n");
        until("the socket is removed", || {
            Ok(host.ok(&["vm", "exec", "box", "--", "ls", "/run/banger"])?.is_empty())
        })
    })();
    agent.kill()?;
    agent.wait()?;
    result
}

#[scenario(Here, LabMore)]
fn sessions_over_one_connection_do_not_block_each_other() -> Result<()> {
    let host = debian()?;
    let control = format!("ControlPath={}", text(&host.path("control")));
    let options = ["-o", "ControlMaster=auto", "-o", control.as_str()];
    let shared = |args: &[&'static str]| [&options, args].concat();
    let mut master = start(&host, "ssh", &shared(&["box.vm", "echo ready; exec cat"]))?;
    master.wait_for_stdout("ready")?;
    thread::scope(|scope| {
        let count = |n: i32| {
            let (host, options) = (&host, &options);
            let script = format!("head -c 2000000 /dev/zero | wc -c; exit {n}");
            scope.spawn(move || ssh(host, &[options.as_slice(), &["box.vm", &script]].concat())?.code(n))
        };
        let runs: Vec<_> = (0..8).map(count).collect();
        for run in runs {
            assert_eq!(run.join().unwrap()?, "2000000\n");
        }
        anyhow::Ok(())
    })?;
    // A session whose program does not read, and which has sent as much as it can.
    let mut stuck = tool(&host, "ssh", &shared(&["box.vm", "echo $$; exec sleep 1000"]))?;
    let mut stuck = stuck.stdin(File::open("/dev/zero")?).stdout(Stdio::piped()).spawn()?;
    let mut pid = String::new();
    BufReader::new(stuck.stdout.take().context("stdout")?).read_line(&mut pid)?;
    assert_eq!(ssh(&host, &shared(&["box.vm", "echo another"]))?.success()?, "another\n");
    stuck.kill()?;
    stuck.wait()?;
    until("its program has exited", || {
        Ok(!host.banger(&["vm", "exec", "box", "--", "kill", "-0", pid.trim()])?.status.success())
    })?;
    let forward = format!("0:127.0.0.1:{}", start_host_server()?);
    let forward_arguments = [options.as_slice(), &["-O", "forward", "-R", &forward, "box.vm"]].concat();
    let port = ssh(&host, &forward_arguments)?.success()?;
    let at = format!("127.0.0.1:{}", port.trim());
    assert_eq!(host.ok(&["vm", "exec", "box", "--", "perl", "-e", CALL, &at])?, "FROM THE GUEST");
    master.finish(b"")?.success().map(drop)
}

#[scenario(Here)]
fn a_background_connection_outlives_its_first_session() -> Result<()> {
    let host = host_with_tiny_vm()?;
    let control = format!("ControlPath={}", text(&host.path("control")));
    let options = ["-o", "ControlMaster=auto", "-o", "ControlPersist=yes", "-o", control.as_str()];
    let shared = |args: &[&'static str]| [&options, args].concat();
    let first = shared(&["box.vm", "echo at $((40 + 2)); exec sleep 1000"]);
    let mut terminal = Terminal::start(&tool(&host, "ssh", &first)?, 24, 80)?;
    terminal.wait_for("at 42")?;
    terminal.send_keys("\x03")?;
    terminal.wait()?;
    ssh(&host, &shared(&["-O", "check", "box.vm"]))?.success()?;
    assert_eq!(ssh(&host, &shared(&["box.vm", "hostname"]))?.success()?, "box\n");
    ssh(&host, &shared(&["-O", "exit", "box.vm"]))?.success()?;
    host.ok(&["vm", "delete", "--force", "box"])?;
    until("ssh and its proxy have exited", || Ok(host.nothing_left().is_ok()))
}

#[scenario(Here)]
fn an_editor_installs_its_server_and_reconnects() -> Result<()> {
    let host = Host::with_debian()?;
    // It probes the host with a script on the standard input of a shell without a terminal.
    let probe = start(&host, "ssh", &["-T", "-o", "ConnectTimeout=15", "box.vm", "bash -s"])?;
    let script = b"uname -sm; echo HOME=$HOME; command -v perl; mkdir -p ~/.editor && echo made; exit 0\n";
    assert_eq!(probe.finish(script)?.success()?, "Linux x86_64\nHOME=/root\n/usr/bin/perl\nmade\n");
    // It uploads its server, starts it in the background, and leaves it running.
    fs::write(host.path("server.pl"), SERVER)?;
    run(&host, "scp", &[&text(&host.path("server.pl")), "box.vm:.editor/server.pl"])?.success()?;
    let begin = b"cd ~/.editor; nohup perl server.pl > log 2>&1 < /dev/null & \nuntil grep -q listening ~/.editor/log; do sleep 0.1; done 2>/dev/null; echo begun\n";
    assert_eq!(start(&host, "ssh", &["-T", "box.vm", "sh"])?.finish(begin)?.success()?, "begun\n");
    for round in ["once", "and again"] {
        let name = format!("server {round}");
        let forward = format!("{}:127.0.0.1:8080", text(&host.path(&name)));
        let window = start(&host, "ssh", &["-T", "-L", &forward, "box.vm", "bash"])?;
        // bash waits for more of the script, which keeps the connection open.
        until("the port is forwarded", || {
            Ok(exchange_at(&host.path(&name)).is_ok_and(|answer| answer == "FROM THE HOST"))
        })?;
        // The connection breaks.
        window.signal(Signal::KILL)?;
        window.finish(b"")?;
    }
    Ok(())
}

#[scenario(Here, LabMore)]
fn a_killed_ssh_client_leaves_nothing_in_the_guest() -> Result<()> {
    let host = host_with_tiny_vm()?;
    let address = format!("127.0.0.1:{}", start_host_server()?);
    let [tcp, path] = [format!("9000:{address}"), format!("/tmp/left:{address}")];
    let args = ["-tt", "-R", &tcp, "-R", &path, "box.vm", "echo pid $$; exec sleep 1000"];
    let mut killed = start(&host, "ssh", &args)?;
    let shown = killed.wait_for_stdout("\n")?;
    let pid = shown.trim().strip_prefix("pid ").context(shown.clone())?.to_owned();
    let script = "kill -0 $0 2>/dev/null || test -e /tmp/left";
    let anything_left = || -> Result<bool> {
        Ok(host.banger(&["vm", "exec", "box", "--", "sh", "-c", script, &pid])?.status.success())
    };
    ensure!(anything_left()?, "the program and the socket do not exist");
    killed.signal(Signal::KILL)?;
    until("the program and the socket are gone", || Ok(!anything_left()?))?;
    until("the guest no longer listens", || {
        let ports = host.json(&["vm", "ports", "box"])?;
        Ok(ports.as_array().into_iter().flatten().all(|row| row["port"] != 9000))
    })?;
    host.ok(&["vm", "delete", "--force", "box"])?;
    host.nothing_left()
}

#[scenario(Here)]
fn unreachable_vms_are_reported_and_autostart_starts_stopped_ones() -> Result<()> {
    let host = host_with_tiny_vm()?;
    let fails_with = |texts: &[&str]| ssh(&host, &["box.vm", "true"])?.fails(255, texts);
    ssh(&host, &["bo.vm", "true"])?.fails(255, &["there is no VM \"bo\"", "banger ps -a"])?;
    host.ok(&["vm", "pause", "box"])?;
    fails_with(&["VM box is paused", "banger vm resume box"])?;
    host.ok(&["vm", "resume", "box"])?;
    host.ok(&["vm", "stop", "box"])?;
    fails_with(&["VM box is stopped", "banger vm start box", "ssh.autostart"])?;
    host.banger(&["vm", "ssh", "box", "--", "true"])?.fails(125, &["VM box is stopped"])?;
    fs::create_dir_all(host.path("config/banger"))?;
    fs::write(host.path("config/banger/config.toml"), "[ssh]\nautostart = true\n")?;
    assert_eq!(ssh(&host, &["box.vm", "hostname"])?.success()?, "box\n");
    host.ok(&["vm", "stop", "box"])?;
    assert_eq!(host.ok(&["vm", "ssh", "box", "--", "hostname"])?, "box\n");
    Ok(())
}

#[scenario(Here)]
fn the_images_own_sshd_accepts_root_only_with_bangers_key() -> Result<()> {
    let host = Host::new()?;
    host.ok(&["image", "import", "sshd", &text(&host.path("sshd.tar.zst"))])?;
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "sshd"])?;
    let exec = |line: &str| host.ok(&["vm", "exec", "box", "--", "sh", "-c", line]);
    assert_eq!(exec("echo $LANG; mkdir /usr/lib/locale/xx_XX.utf8")?, "C.UTF-8\n");
    exec("cd .ssh && echo ssh-ed25519 AAAA mine > mine && cat mine authorized_keys > both")?;
    exec("cd .ssh && mv both authorized_keys && chmod 666 authorized_keys && chmod 777 . && chmod 777 ..")?;
    for _ in 0..2 {
        let mut restart = host.command(&["vm", "restart", "box"]);
        restart.env("LC_ALL", "xx_XX.UTF-8");
        Running::start(restart, "restart".to_owned())?.finish(b"")?.success()?;
    }
    let stat = exec("stat -c '%a %U' ~ .ssh .ssh/authorized_keys; echo $LANG")?;
    assert_eq!(stat, "700 root\n700 root\n600 root\nxx_XX.UTF-8\n");
    let key = host.json(&["ssh-config"])?["key"].as_str().context("key")?.to_owned();
    let public = fs::read_to_string(format!("{key}.pub"))?;
    assert_eq!(exec("cat .ssh/authorized_keys")?, format!("ssh-ed25519 AAAA mine\n{public}"));

    exec("mkdir -p /run/sshd && /usr/sbin/sshd -p 2222")?;
    let proxy_command =
        format!("ProxyCommand=ssh -F '{}' -W localhost:2222 box.vm", host.ok(&["ssh-config", "-q"])?.trim());
    let log_in = |options: &[&str]| {
        let mut ssh = host.tool("ssh");
        ssh.args([
            "-F",
            "/dev/null",
            "-o",
            &proxy_command,
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
        ]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes"]).args(options);
        Running::start(ssh, "ssh to sshd".to_owned())?.finish(b"")
    };
    let known = log_in(&["-i", &key, "root@box", "echo $SSH_CONNECTION | cut -d ' ' -f 4; whoami"])?;
    assert_eq!(known.success()?, "2222\nroot\n");
    log_in(&["-o", "PubkeyAuthentication=no", "root@box"])?
        .fails(255, &["Permission denied (publickey)."])?;
    Ok(())
}

#[scenario(Here)]
fn ssh_config_install_and_uninstall_preserve_the_users_file() -> Result<()> {
    let host = Host::bare()?;
    let path = host.path(".ssh/config");
    let old = b"Host *\n\tServerAliveInterval 5 # \xff\r\n\nHost a\nUser b";
    fs::create_dir(host.path(".ssh"))?;
    fs::write(&path, old)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    host.ok(&["ssh-config", "--install"])?;
    let new = fs::read(&path)?;
    ensure!(new.ends_with(old) && new.starts_with(b"# banger: begin\nInclude \""), "{}", new.escape_ascii());
    assert_eq!(host.json(&["ssh-config"])?["installed"], true);
    host.ok(&["ssh-config", "--install"])?;
    assert_eq!(fs::read(&path)?, new);
    let shown = Command::new("ssh").arg("-F").arg(&path).args(["-G", "box.vm"]).output()?;
    let shown = String::from_utf8(shown.stdout)?;
    for line in ["user root", "stricthostkeychecking true", "serveraliveinterval 5", "ssh-proxy '%h'"] {
        ensure!(shown.contains(line), "no {line} in {shown}");
    }
    host.ok(&["ssh-config", "--uninstall"])?;
    assert_eq!((fs::read(&path)?, fs::metadata(&path)?.mode() & 0o777), (old.to_vec(), 0o644));
    fs::remove_file(&path)?;
    host.ok(&["ssh-config", "--install"])?;
    host.ok(&["ssh-config", "--uninstall"])?;
    ensure!(!path.exists(), "a file that did not exist was left");
    Ok(())
}
