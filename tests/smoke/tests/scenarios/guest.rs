//! A running guest: files in both directions, listeners, health.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use banger_smoke::{Finished, Host, Running, scenario, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Runs `banger vm cp` until it exits.
fn cp(host: &Host, source: impl AsRef<OsStr>, target: impl AsRef<OsStr>) -> Result<Finished> {
    let mut command = host.command(&["vm", "cp"]);
    command.arg(source.as_ref()).arg(target.as_ref());
    Running::start(command, "banger vm cp".to_owned())?.finish(b"")
}

/// Collects the name, mode, time and content of `path`, and of everything below a directory.
fn collect_files(path: &Path, entries: &mut Vec<(String, u32, i64, Vec<u8>)>) -> Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let name = path.file_name().context("name")?.to_string_lossy().into_owned();
    let content = if meta.is_symlink() {
        fs::read_link(path)?.into_os_string().into_encoded_bytes()
    } else if meta.is_file() {
        fs::read(path)?
    } else {
        Vec::new()
    };
    entries.push((name, meta.mode(), meta.mtime(), content));
    if meta.is_dir() {
        let mut paths = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        paths.sort();
        paths.iter().try_for_each(|path| collect_files(path, entries))?;
    }
    Ok(())
}

#[scenario(Here, LabMore)]
fn vm_cp_copies_files_in_both_directions() -> Result<()> {
    let host = Host::new()?;
    host.ok(&["vm", "run", "-d", "--name", "box"])?;
    check_tree_round_trip(&host)?;
    check_pipes_and_links(&host)?;
    check_links_at_the_target(&host)?;
    check_owners(&host)?;
    check_copy_errors(&host)?;
    check_interrupted_copy(&host)
}

fn check_tree_round_trip(host: &Host) -> Result<()> {
    let tree = host.path("tree");
    fs::create_dir_all(tree.join("with space/empty"))?;
    fs::write(tree.join(OsStr::from_bytes(b"odd\xff\n")), "odd")?;
    fs::write(tree.join("script"), "#!/bin/sh\n")?;
    fs::set_permissions(tree.join("script"), fs::Permissions::from_mode(0o750))?;
    fs::set_permissions(tree.join("with space"), fs::Permissions::from_mode(0o555))?;
    symlink("../nowhere", tree.join("link"))?;
    fs::write(tree.join("20 MB"), (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>())?;
    cp(host, &tree, "box:")?.success()?;
    let sum = Command::new("sha256sum").stdin(File::open(tree.join("20 MB"))?).output()?.stdout;
    let guest_sum = host.ok(&["vm", "exec", "box", "--", "sh", "-c", "sha256sum < 'tree/20 MB'"])?;
    assert_eq!(guest_sum, String::from_utf8(sum)?);
    let owner = host.ok(&["vm", "exec", "box", "--", "stat", "-c", "%U %a", "/root/tree/script"])?;
    assert_eq!(owner, "root 750\n");
    cp(host, "box:/root/tree", host.path("back"))?.success()?;
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    collect_files(&tree, &mut sent)?;
    collect_files(&host.path("back"), &mut received)?;
    assert!(sent[1..] == received[1..] && sent.len() == 7, "the copied data differs");
    Ok(())
}

fn check_pipes_and_links(host: &Host) -> Result<()> {
    host.start(&["vm", "cp", "-", "box:/tmp/piped"])?.finish(b"by a pipe")?.success()?;
    assert_eq!(host.ok(&["vm", "cp", "box:/tmp/piped", "-"])?, "by a pipe");
    assert!(host.ok(&["vm", "cp", "box:/etc/os-release", "-"])?.contains("ID="));
    assert!(host.ok(&["vm", "cp", "box:/proc/cpuinfo", "-"])?.contains("processor"));
    cp(host, "box:/etc/os-release", host.path("link"))?.success()?;
    assert!(host.path("link").is_symlink());
    host.ok(&["vm", "cp", "-L", "box:/etc/os-release", &host.path("file").display().to_string()])?;
    assert!(host.path("file").is_file());
    Ok(())
}

/// A link that a copy has brought is not followed by the next copy.
fn check_links_at_the_target(host: &Host) -> Result<()> {
    let guest = |script: &str| host.ok(&["vm", "exec", "box", "--", "sh", "-c", script]);
    let (victim, copies) = (host.path("victim"), host.path("copies"));
    fs::write(&victim, "mine")?;
    fs::create_dir_all(&copies)?;
    guest(&format!("ln -s {} /srv/notes", victim.display()))?;
    cp(host, "box:/srv/notes", &copies)?.success()?;
    guest("rm /srv/notes && echo theirs > /srv/notes")?;
    for target in [copies.clone(), copies.join("notes")] {
        cp(host, "box:/srv/notes", target)?.success()?;
        assert_eq!(fs::read_to_string(copies.join("notes"))?, "theirs\n");
        assert_eq!(fs::read_to_string(&victim)?, "mine");
        fs::remove_file(copies.join("notes"))?;
        symlink(&victim, copies.join("notes"))?;
    }
    symlink(&copies, host.path("to copies"))?;
    cp(host, "box:/srv/notes", host.path("to copies"))?
        .fails(1, &["is a symbolic link to a directory", "end the path with a slash"])?;
    cp(host, "box:/srv/notes", host.path("to copies/"))?.success()?;
    assert_eq!(fs::read_to_string(copies.join("notes"))?, "theirs\n");
    Ok(())
}

fn check_owners(host: &Host) -> Result<()> {
    host.start(&["vm", "cp", "--user", "nobody", "-", "box:/tmp/theirs"])?.finish(b"x")?.success()?;
    assert_eq!(host.ok(&["vm", "exec", "box", "--", "stat", "-c", "%U", "/tmp/theirs"])?, "nobody\n");
    let secret = host.banger(&["vm", "cp", "--user", "nobody", "box:/etc/shadow", "-"])?;
    secret.fails(1, &["cannot read /etc/shadow"]).map(drop)
}

fn check_copy_errors(host: &Host) -> Result<()> {
    let local_file = host.path("here");
    fs::write(&local_file, "here")?;
    cp(host, &local_file, "box:/no/such/place")?
        .fails(1, &["in VM box: the guest reports: there is no directory /no/such"])?;
    cp(host, "box:/no-such-file", &local_file)?
        .fails(1, &["in VM box: the guest reports: cannot read /no-such-file"])?;
    cp(host, "box:/etc", "-")?.fails(1, &["the source is a directory, not a file"])?;
    cp(host, "box:/etc/passwd", host.path("no/place"))?
        .fails(1, &["there is no directory", "create it first"])?;
    cp(host, "box:/etc", &local_file)?.fails(1, &["here is not a directory"])?;
    cp(host, "here", "there")?.fails(2, &["neither path is in a VM"])?;
    let script = "cd /srv && mkdir part && echo fine > part/file && mkfifo part/pipe";
    host.ok(&["vm", "exec", "box", "--", "sh", "-c", script])?;
    let part = cp(host, "box:/srv/part", host.path("part"))?;
    assert!(part.stderr.contains("part/pipe is a named pipe, and is not copied"), "{}", part.stderr);
    part.success()?;
    assert_eq!(fs::read_to_string(host.path("part/file"))?, "fine\n");
    Ok(())
}

fn check_interrupted_copy(host: &Host) -> Result<()> {
    let names = || host.ok(&["vm", "exec", "box", "--", "ls", "-A", "/srv/cut"]);
    host.ok(&["vm", "exec", "box", "--", "mkdir", "/srv/cut"])?;
    let mut endless = host.command(&["vm", "cp", "-", "box:/srv/cut/file"]);
    let mut interrupted = endless.stdin(File::open("/dev/zero")?).spawn()?;
    until("the guest has started to write", || Ok(names()?.starts_with(".banger")))?;
    kill_process(Pid::from_child(&interrupted), Signal::INT)?;
    assert_eq!(interrupted.wait()?.code(), Some(130));
    until("the guest has removed the partial file", || Ok(names()?.is_empty()))
}

/// A minimal web server, and two other listeners.
const HTTPD: &str = r#"
use IO::Socket::INET;
my $web = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 8080, Listen => 5) or die;
my $other = IO::Socket::INET->new(LocalPort => 9, Listen => 5) or die;
my $datagrams = IO::Socket::INET->new(LocalPort => 53, Proto => "udp") or die;
$| = 1; print "listening\n";
while (my $caller = $web->accept) { <$caller>; print $caller "HTTP/1.0 200 OK\r\n\r\n"; close $caller; }
"#;

#[scenario(Here, LabMore)]
fn vm_ports_ping_and_health_report_on_the_guest() -> Result<()> {
    let host = Host::new()?;
    host.ok(&["vm", "run", "-d", "--name", "box"])?;
    let mut server = host.start(&["vm", "exec", "box", "--", "perl", "-e", HTTPD])?;
    server.wait_for_stdout("listening")?;
    let ports = host.json(&["vm", "ports", "box"])?;
    let row = |port: u16| {
        let rows = ports.as_array().into_iter().flatten();
        rows.filter(|row| row["port"] == port)
            .map(|row| {
                let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
                (text("vm"), text("protocol"), text("address"), text("process"), row["http"] == true)
            })
            .collect::<Vec<_>>()
    };
    let perl = |protocol: &str, address: &str, http| {
        vec![("box".to_owned(), protocol.to_owned(), address.to_owned(), "perl".to_owned(), http)]
    };
    assert_eq!(row(8080), perl("tcp", "127.0.0.1", true), "{ports}");
    assert_eq!(row(9), perl("tcp", "0.0.0.0", false), "{ports}");
    assert_eq!(row(53), perl("udp", "0.0.0.0", false), "{ports}");
    host.banger(&["vm", "ports", "box", "no-such-vm"])?.fails(1, &["no-such-vm"])?;

    let pongs = host.json(&["vm", "ping", "box", "-c", "3"])?;
    let times: Vec<_> =
        pongs.as_array().into_iter().flatten().map(|pong| pong["round_trip_ms"].as_f64()).collect();
    assert!(times.len() == 3 && times.iter().all(|time| *time > Some(0.0)), "{pongs}");

    let verdict = |health: &Value, name: &str| -> Vec<String> {
        let checks = health.as_array().into_iter().flatten().filter(|check| check["name"] == name);
        checks.map(|check| check["verdict"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let health = host.json(&["vm", "health", "box"])?;
    for name in ["state", "agent version", "clock", "disk /", "disk /root", "memory"] {
        assert_eq!(verdict(&health, name), ["PASS"], "{name} in {health}");
    }
    host.ok(&["vm", "stop", "box"])?;
    let stopped = host.banger(&["vm", "health", "box"])?.code(1)?;
    assert!(
        stopped.contains("FAIL   state   stopped") && stopped.contains("banger vm start box"),
        "{stopped}"
    );
    host.banger(&["vm", "ping", "box"])?.fails(1, &["stopped", "banger vm start box"])?;
    host.banger(&["vm", "cp", "box:/etc/passwd", "-"])?.fails(1, &["stopped", "banger vm start box"])?;
    Ok(())
}

#[scenario(Here, Lab)]
fn a_killed_agent_starts_again_and_still_stops_the_guest_in_order() -> Result<()> {
    let host = Host::tiny()?;
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "tiny", "--disk-size", "64M"])?;
    let script = |script: &str| host.banger(&["vm", "exec", "box", "--", "busybox", "sh", "-c", script]);
    // The program of this session is not protected from the OOM killer, and the agent is.
    let scores = "for server in $(busybox grep -l '^@banger-agent.serve' /proc/[0-9]*/cmdline); do
        busybox cat ${server%cmdline}oom_score_adj; done; busybox cat /proc/self/oom_score_adj";
    assert_eq!(script(scores)?.success()?, "-1000\n0\n");
    let kill = "for server in $(busybox grep -l '^@banger-agent.serve' /proc/[0-9]*/cmdline); do
        server=${server%/cmdline}; kill -9 ${server#/proc/}; done";
    for _ in 0..2 {
        script(kill)?.fails(125, &["connection"])?;
        host.until("the agent serves again", || Ok(script("echo fine")?.success().is_ok()))?;
    }
    host.ok(&["vm", "stop", "box"])?;
    host.disks_are_clean("box")
}
