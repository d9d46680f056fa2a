//! Published ports: a client on the host, a server in the guest.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use banger_smoke::{Host, scenario, until};

const SMALL: &[&str] = &["--vcpu", "1", "--memory", "256M", "--disk-size", "256M"];

/// Answers each client of port 7000, once it stops sending, with the bytes that it has sent.
pub(crate) const ANSWERS: &str = r#"
    use IO::Socket;
    my $listener = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 7000, Listen => 200, ReuseAddr => 1) or die;
    $| = 1;
    print "listening\n";
    while (my $caller = $listener->accept) {
        my $all = "";
        while (sysread $caller, my $part, 65536) { $all .= $part }
        print $caller length($all), " bytes, $all";
        close $caller;
    }
"#;

/// Returns a free port that neither another scenario nor the kernel chooses: below those of outgoing connections.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Another run of scenarios begins elsewhere.
    let first = u16::try_from(std::process::id() % 200)? * 100 + 10_000;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
}

/// Sends bytes to a local port and returns the answer.
pub(crate) fn exchange(port: u16, sent: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(sent)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn is_open(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Starts the server in the guest, and waits until it listens.
fn start_server(host: &Host) -> Result<()> {
    host.ok(&["vm", "exec", "box", "--", "sh", "-c", "exec >/log 2>&1; perl -e \"$0\" &", ANSWERS])?;
    until("the server listens", || {
        Ok(host.ok(&["vm", "exec", "box", "--", "cat", "/log"])?.contains("listening"))
    })
}

#[scenario(Here, LabMore)]
fn a_published_port_is_open_while_its_vm_runs_and_after_a_restart_of_the_daemon() -> Result<()> {
    let host = Host::new()?;
    let (port, other) = (free_port()?, free_port()?);
    let publish = format!("{port}:7000");
    let created = host.banger(&[&["vm", "run", "-d", "--name", "box", "-p", &publish], SMALL].concat())?;
    created.fails(0, &[&format!("port 7000 of VM box is at 127.0.0.1:{port}")])?;
    // Nothing listens in the guest yet.
    let mut unanswered = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let result = unanswered.read(&mut [0]);
    ensure!(
        matches!(&result, Ok(0))
            || matches!(&result, Err(error) if error.kind() == ErrorKind::ConnectionReset),
        "{result:?}"
    );
    start_server(&host)?;
    // More than any buffer on the way, and many connections in parallel.
    let large = "x".repeat(3 << 20);
    let answer = exchange(port, large.as_bytes())?;
    ensure!(answer == format!("3145728 bytes, {large}"), "the received data differs");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|number| scope.spawn(move || exchange(port, format!("{number}!").as_bytes())))
            .collect();
        clients.into_iter().enumerate().try_for_each(|(number, client)| {
            let answer = client.join().unwrap()?;
            ensure!(answer.ends_with(&format!(" bytes, {number}!")), "{answer}");
            Ok(())
        })
    })?;
    let shown = host.json(&["vm", "publish", "box", &format!("[::1]:{other}:7000")])?;
    ensure!(shown[1]["endpoint"] == format!("[::1]:{other}") && shown[1]["open"] == true, "{shown}");
    host.ok(&["daemon", "restart"])?;
    assert_eq!(exchange(port, b"hello")?, "5 bytes, hello");
    host.ok(&["vm", "restart", "box"])?;
    start_server(&host)?;
    assert_eq!(exchange(port, b"hello")?, "5 bytes, hello");
    host.ok(&["vm", "stop", "box"])?;
    ensure!(!is_open(port), "the port of a stopped VM is open");
    let table = host.ok(&["vm", "show", "box"])?;
    ensure!(
        table.contains(&format!("port 7000/tcp at 127.0.0.1:{port}, opens when the VM starts")),
        "{table}"
    );
    host.ok(&["vm", "start", "box"])?;
    ensure!(is_open(port), "the port is not open after a start");
    assert_eq!(host.ok(&["vm", "unpublish", "box", &port.to_string()])?, "box\n");
    ensure!(!is_open(port), "an unpublished port is open");
    host.banger(&["vm", "unpublish", "box", &port.to_string()])?
        .fails(1, &[&format!("VM box does not publish port {port}"), "banger vm show box"])?;
    host.ok(&["vm", "delete", "--force", "box"])?;
    host.nothing_left()
}

#[scenario(Here)]
fn a_taken_port_is_an_error_that_names_its_owner() -> Result<()> {
    let host = Host::tiny()?;
    let port = free_port()?.to_string();
    host.ok(&[&["vm", "create", "--name", "web", "-p", &port], SMALL].concat())?;
    let hint = format!("banger vm unpublish web {port}");
    host.banger(&["vm", "run", "--name", "other", "-p", &port, "--", "true"])?
        .fails(125, &[&format!("port {port} of this host is published by VM web"), &hint])?;
    let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let taken = service.local_addr()?.port();
    let owner = format!("port {taken} of this host is used by process {} (", std::process::id());
    for publish in [format!("{taken}:80"), format!("0.0.0.0:{taken}:80")] {
        host.banger(&["vm", "create", "--name", "other", "-p", &publish])?
            .fails(1, &[&owner, "choose another port of this host"])?;
        host.banger(&["vm", "publish", "web", &publish])?.fails(1, &[&owner])?;
    }
    let vms = host.json(&["vm", "list", "-a"])?;
    ensure!(vms.as_array().context("VMs")?.len() == 1, "a VM was created: {vms}");
    for (publish, message) in [
        ("0", "\"0\" is not a port: 1 to 65535"),
        ("65536:80", "\"65536\" in \"65536:80\" is not a port"),
        ("::1:8080:80", "IPv6 needs brackets"),
        ("host:8080:80", "is not an IP address"),
        ("8080:80/sctp", "\"sctp\" in \"8080:80/sctp\" is not a protocol"),
    ] {
        host.banger(&["vm", "run", "-p", publish, "--", "true"])?.fails(2, &[message])?;
        host.banger(&["vm", "publish", "web", publish])?.fails(2, &[message])?;
    }
    // It does not prevent the start of a VM that exists.
    host.ok(&["vm", "stop", "web"])?;
    host.ok(&["vm", "publish", "web", &format!("{taken}:80")])?;
    host.banger(&["vm", "start", "web"])?.fails(0, &[&format!("VM web runs, but {owner}")])?;
    let shown = host.json(&["vm", "show", "web"])?;
    ensure!(shown["published"][0]["open"] == true && shown["published"][1]["open"] == false, "{shown}");
    drop(service);
    host.ok(&["vm", "publish", "web", &format!("{taken}:80")])?;
    ensure!(is_open(taken), "the port is not open after another request");
    // Other hosts may reach it: a warning says so.
    let public = free_port()?;
    host.banger(&["vm", "publish", "web", &format!("0.0.0.0:{public}:80")])?
        .fails(0, &[&format!("other hosts may reach port 80 of the VM at 0.0.0.0:{public}")])?;
    host.ok(&["vm", "delete", "--force", "web"])?;
    ensure!(!is_open(taken) && !is_open(public), "a port of a deleted VM is open");
    host.nothing_left()
}

/// A web server on port 7100 that answers with the request's path and headers, and echoes after an upgrade.
const WEB: &str = r#"
    use IO::Socket;
    $SIG{CHLD} = "IGNORE";
    my $listener = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 7100, Listen => 200, ReuseAddr => 1) or die;
    $| = 1;
    print "listening\n";
    while (my $caller = $listener->accept) {
        if (fork) { close $caller; next }
        my ($head, $upgrade) = ("", 0);
        while (my $line = <$caller>) { last if $line eq "\r\n"; $head .= $line; $upgrade = 1 if $line =~ /^upgrade:/i }
        if ($upgrade) {
            syswrite $caller, "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
            while (sysread $caller, my $part, 4096) { syswrite $caller, "echo $part" }
        } elsif ($head =~ /^GET \/slow/) {
            syswrite $caller, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfirst\n";
            sleep 30;
        } else {
            syswrite $caller, "HTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-Length: " . length($head) . "\r\n\r\n$head";
        }
        exit;
    }
"#;

/// Sends the head of a request to the proxy, and returns the connection.
fn request(proxy: u16, host: &str, head: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(format!("{head} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    Ok(stream)
}

/// Reads until `text` has arrived.
fn read_until(stream: &mut TcpStream, text: &str) -> Result<String> {
    let mut received = Vec::new();
    loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part)?;
        received.extend_from_slice(&part[..count]);
        let so_far = String::from_utf8_lossy(&received).into_owned();
        if so_far.contains(text) {
            return Ok(so_far);
        }
        ensure!(count > 0, "the connection ended before {text:?}: {so_far}");
    }
}

#[scenario(Here, LabMore)]
fn what_listens_in_the_guest_is_published_and_shown_by_the_proxy() -> Result<()> {
    let host = Host::new()?;
    let proxy = free_port()?;
    let config = host.path("config/banger/config.toml");
    std::fs::create_dir_all(config.parent().context("config")?)?;
    std::fs::write(&config, format!("[daemon]\nproxy = {proxy}\n"))?;
    host.ok(&[&["vm", "create", "--name", "box", "-P"], SMALL].concat())?;
    let published = |guest: u64| -> Result<Option<u16>> {
        let vm = host.json(&["vm", "show", "box"])?;
        let ports = vm["published"].as_array().context("ports")?;
        let port = ports.iter().find(|port| port["guest"] == guest && port["open"] == true);
        Ok(port.and_then(|port| port["host"].as_u64()?.try_into().ok()))
    };
    start_server(&host)?;
    until("the port is published", || Ok(published(7000)?.is_some()))?;
    let port = published(7000)?.context("port")?;
    assert_eq!(exchange(port, b"hello")?, "5 bytes, hello");
    host.ok(&["vm", "exec", "box", "--", "pkill", "perl"])?;
    until("the port is closed with its listener", || Ok(published(7000)?.is_none()))?;
    ensure!(!is_open(port), "the port is open without a listener");

    host.banger(&["vm", "open", "box"])?
        .fails(1, &["nothing in VM box speaks HTTP", "banger vm ports box"])?;
    host.ok(&["vm", "exec", "box", "--", "sh", "-c", "exec >/web 2>&1; perl -e \"$0\" &", WEB])?;
    let url = format!("http://7100.box.localhost:{proxy}/");
    until("the web server answers", || {
        let opened = host.banger(&["vm", "open", "box", "--print"])?;
        Ok(opened.status.success() && opened.stdout == format!("{url}\n"))
    })?;
    let name = format!("7100.box.localhost:{proxy}");
    let answer = read_until(&mut request(proxy, &name, "GET /path?q=1")?, "x-forwarded-proto: http")?;
    for part in ["HTTP/1.1 200 OK", "GET /path?q=1 HTTP/1.1", &name, "x-forwarded-for: 127.0.0.1"] {
        ensure!(answer.to_ascii_lowercase().contains(&part.to_ascii_lowercase()), "no {part:?}: {answer}");
    }
    // A response is passed on as it comes.
    read_until(&mut request(proxy, &name, "GET /slow")?, "first")?;
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy))?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(socket, "GET / HTTP/1.1\r\nHost: {name}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")?;
    read_until(&mut socket, "\r\n\r\n")?;
    socket.write_all(b"hello")?;
    read_until(&mut socket, "echo hello")?;
    for (host_name, status) in [
        ("7101.box.localhost", "502 Bad Gateway"),
        ("7100.other.localhost", "404 Not Found"),
        ("localhost", "404 Not Found"),
        ("7100.box.example.com", "404 Not Found"),
        ("99999.box.localhost", "404 Not Found"),
    ] {
        let answer = read_until(&mut request(proxy, host_name, "GET /")?, "</h1>")?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host_name}: {answer}");
    }
    host.ok(&["vm", "stop", "box"])?;
    let answer = read_until(&mut request(proxy, &name, "GET /")?, "banger vm start box")?;
    ensure!(answer.contains("VM box is stopped"), "{answer}");
    host.banger(&["vm", "open", "box"])?.fails(1, &["VM box is stopped", "banger vm start box"])?;
    let _service = {
        host.ok(&["daemon", "stop"])?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, proxy))?
    };
    host.ok(&["vm", "start", "box"])?;
    host.banger(&["vm", "open", "box", "80"])?
        .fails(1, &["the reverse proxy is not available", "is used by process", "daemon.proxy"])?;
    host.ok(&["vm", "unpublish", "box", "--all"])?;
    ensure!(host.json(&["vm", "show", "box"])?["publish_all"] == false);
    host.ok(&["vm", "delete", "--force", "box"])?;
    host.nothing_left()
}

/// Answers each datagram to port 7200 in capitals.
const CAPITALS: &str = r#"
    use IO::Socket;
    my $socket = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 7200, Proto => "udp") or die;
    while (my $from = $socket->recv(my $text, 65536)) { $socket->send(uc $text) }
"#;

#[scenario(Here)]
fn datagrams_pass_a_published_udp_port() -> Result<()> {
    let host = Host::new()?;
    let port = free_port()?;
    let publish = format!("{port}:7200/udp");
    host.ok(&[&["vm", "create", "--name", "box", "-p", &publish], SMALL].concat())?;
    host.ok(&["vm", "exec", "box", "--", "sh", "-c", "exec >/udp 2>&1; perl -e \"$0\" &", CAPITALS])?;
    let ask = |text: &[u8], limit: Duration| -> Result<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(limit))?;
        socket.send_to(text, (Ipv4Addr::LOCALHOST, port))?;
        let mut answer = vec![0; 65536];
        let count = socket.recv(&mut answer)?;
        answer.truncate(count);
        Ok(answer)
    };
    // What is sent before the server listens has no answer.
    let hello = || ask(b"hello", Duration::from_millis(500)).is_ok_and(|answer| answer == b"HELLO");
    until("the server answers", || Ok(hello()))?;
    // Each client is a new one for the guest. The first datagram of none is lost.
    for _ in 0..20 {
        ensure!(ask(b"again", Duration::from_secs(60))? == b"AGAIN", "a datagram was changed");
    }
    let large = vec![b'a'; 30_000];
    ensure!(
        ask(&large, Duration::from_secs(60))? == large.to_ascii_uppercase(),
        "a large datagram was changed"
    );
    let listed = host.json(&["vm", "ports", "box"])?;
    let row = listed.as_array().context("ports")?.iter().find(|row| row["port"] == 7200);
    ensure!(row.context("port")?["endpoint"] == format!("127.0.0.1:{port}"), "{listed}");
    host.ok(&["vm", "unpublish", "box", &format!("{port}/udp")])?;
    ensure!(UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok(), "an unpublished port is open");
    host.ok(&["vm", "delete", "--force", "box"])?;
    host.nothing_left()
}
