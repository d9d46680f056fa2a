//! Measures a VM's network against the same VM with nothing between its tap and the server.
//!
//! ```text
//! VM ours: guest ── tap ── rules, masquerade ── pasta ── machine ── internet
//! VM bare: guest ── tap ────────── routes ───────────────────────── internet
//! ```

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    life::{TINY, import_tiny},
    measure::{compare, compare_rates, median, print_comparison, print_figure, print_measurement, timed},
    namespaces::{Internet, KilledOnDrop, NAME, Namespace, RESOLVER, SERVER},
    stage::{Stage, memory_of},
};
use crate::{
    command::{check, is_root, output, say},
    project::Project,
};

/// Goals: maximum ratios of times, minimum ratios of rates, and MiB.
const START_GOAL: f64 = 1.05;
const OUT_GOAL: f64 = 0.8;
const DNS_GOAL: f64 = 1.5;
const PORT_GOAL: f64 = 0.5;
const MEMORY_GOAL: f64 = 8.0;

/// Bytes of a measurement, in all streams together.
const BYTES: u64 = 128 << 20;

/// Number of DNS requests to each resolver.
const REQUESTS: usize = 500;

/// Number of connections to a published port.
const CONNECTIONS: u32 = 1000;

/// Ports of servers: in the internet, in the guest, on the machine.
const SINK: u16 = 9000;
const GUEST: u16 = 7000;
const PUBLISHED: u16 = 7001;

/// Number of clients that connect to it at a time.
const CLIENTS: u32 = 8;

/// The guest's resolver.
const GATEWAY: &str = "192.0.0.1";

/// Timeout for the other side: a slow machine needs a fraction of it.
const TIMEOUT: Duration = Duration::from_secs(90);

const VMS: [&str; 2] = ["ours", "bare"];

/// Sends BYTES to HOST in STREAMS connections: `ADDRESS PORT STREAMS BYTES`.
const SEND: &str = r#"
    use Socket;
    my ($address, $port, $streams, $bytes) = @ARGV;
    my $part = "x" x (1 << 20);
    for (1 .. $streams) {
        next if fork;
        socket(my $socket, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
        connect($socket, sockaddr_in($port, inet_aton($address))) or die "connect: $!";
        my $rest = $bytes / $streams;
        while ($rest > 0) {
            my $size = $rest < length $part ? $rest : length $part;
            $rest -= syswrite($socket, $part, $size) // die "write: $!";
        }
        shutdown($socket, 1);
        sysread($socket, my $end, 1);
        exit;
    }
    while (wait > 0) { exit 1 if $? }
"#;

/// Sends requests about NAME to each resolver in turn, and prints nanoseconds: `NAME REQUESTS RESOLVER...`.
const RESOLVE: &str = r#"
    use Socket;
    my ($name, $requests, @resolvers) = @ARGV;
    sub now { my $time = "\0" x 16; syscall(228, 1, $time); my ($s, $ns) = unpack "qq", $time; $s * 1e9 + $ns }
    my @sockets = map {
        socket(my $socket, PF_INET, SOCK_DGRAM, 0) or die "socket: $!";
        connect($socket, sockaddr_in(53, inet_aton($_))) or die "connect: $!";
        $socket
    } @resolvers;
    my $question = join("", map { pack "C/a", $_ } split /\./, $name) . pack("C n n", 0, 1, 1);
    for my $id (1 .. $requests) {
        my @times;
        for my $socket (@sockets) {
            my $start = now();
            send($socket, pack("n6", $id, 0x100, 1, 0, 0, 0) . $question, 0) or die "send: $!";
            recv($socket, my $answer, 512, 0) // die "receive: $!";
            push @times, now() - $start;
            unpack("x6 n", $answer) == 1 or die "no answer";
        }
        printf "%s\n", join " ", map { sprintf "%d", $_ } @times;
    }
"#;

/// Reads a length and as many bytes from each client, then answers with a byte, on a TCP port of loopback and on the
/// vsock port of the same number: `PORT`.
const RECEIVE: &str = r#"
    use Socket;
    my ($port) = @ARGV;
    my $vsock = fork;
    my ($family, $address) = $vsock
        ? (PF_INET, pack_sockaddr_in($port, INADDR_LOOPBACK))
        : (40, pack("S S L L x4", 40, 0, $port, 0xffffffff));
    socket(my $listener, $family, SOCK_STREAM, 0) or die "socket: $!";
    setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1) if $vsock;
    bind($listener, $address) or die "bind: $!";
    listen($listener, 128) or die "listen: $!";
    $| = 1;
    print "listening\n";
    while (accept(my $caller, $listener)) {
        my $length = "";
        while (length $length < 8) { sysread($caller, $length, 8 - length $length, length $length) or last }
        my $rest = unpack "Q>", $length;
        while ($rest > 0) { $rest -= sysread($caller, my $part, 1 << 18) || last }
        syswrite $caller, "!";
        close $caller;
    }
"#;

pub(super) fn network(project: &Project, runs: usize) -> Result<()> {
    ensure!(is_root(), "the benchmark of the network needs root, for namespaces");
    let internet = Internet::new(&project.target())?;
    let stage = Stage::inside(project, internet.machine.pid())?;
    start(&stage, runs)?;

    for vm in VMS {
        run(&stage, vm, "1")?;
    }
    let ours = Processes::of(&stage, "ours")?;
    // After the start of the network: before all work.
    let idle = ours.memory()?;
    remove_network(&Namespace::of(Processes::of(&stage, "bare")?.namespace), &internet.internet)?;

    let sink = internet.internet.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, SINK))?))?;
    for (streams, name) in [(1, "TCP out, 1 stream / bare tap"), (8, "TCP out, 8 streams / bare tap")] {
        let [ours, bare] = VMS.map(|vm| {
            let (stage, sink) = (&stage, &sink);
            move || send(stage, vm, sink, streams)
        });
        compare_rates(name, OUT_GOAL, runs, BYTES, ours, bare)?;
    }
    resolve(&stage)?;
    ports(&stage, &internet.machine, VMS[0], "1 processor", runs)?;
    for ((name, mib), (_, idle)) in ours.memory()?.into_iter().zip(idle) {
        match name {
            "pasta" => print_figure("pasta, MiB", mib),
            _ => print_measurement(&format!("{name}, MiB ({idle:.1} before)"), mib, MEMORY_GOAL),
        }
    }
    stage.ok(&["vm", "delete", "--force", VMS[0], VMS[1]])?;
    run(&stage, VMS[0], "2")?;
    ports(&stage, &internet.machine, VMS[0], "2 processors", runs)?;
    stage.ok(&["vm", "delete", "--force", VMS[0]])
}

fn run(stage: &Stage, vm: &str, processors: &str) -> Result<()> {
    stage.ok(&["vm", "run", "-d", "--name", vm, "--vcpu", processors, "--memory", "256M"])
}

/// Measures a start with a network against one without.
fn start(stage: &Stage, runs: usize) -> Result<()> {
    import_tiny(stage)?;
    for (name, network) in [("with", "user"), ("without", "none")] {
        let hardware = ["--image", TINY, "--vcpu", "1", "--memory", "128M", "--no-start"];
        stage.ok(&[&["vm", "create", "--name", name, "--network", network], hardware.as_slice()].concat())?;
    }
    let [with, without] = ["with", "without"].map(|name| {
        move || {
            let time = timed(&mut stage.banger(&["vm", "start", name]))?;
            stage.ok(&["vm", "stop", name])?;
            Ok(time)
        }
    });
    compare("vm start, with network / without", START_GOAL, runs, with, without)?;
    stage.ok(&["vm", "delete", "--force", "with", "without"])
}

/// Processes of a VM's network, and their names.
struct Processes {
    named: Vec<(&'static str, u32)>,
    /// One in the VM's network namespace.
    namespace: u32,
}

impl Processes {
    /// Finds them by the marker in their environments.
    fn of(stage: &Stage, vm: &str) -> Result<Self> {
        let dir = stage.state().join("vms").join(stage.vm_id(vm)?);
        let marker = format!("BANGER_PROCESS={}#", dir.display());
        let mut named = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // The process may exit while it is read.
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let environment = read("environ");
            if !environment.split(|byte| *byte == 0).any(|value| value.starts_with(marker.as_bytes())) {
                continue;
            }
            let line = String::from_utf8_lossy(&read("cmdline")).into_owned();
            let words: Vec<_> = line.split('\0').collect();
            let program = Path::new(words.first().unwrap_or(&"")).file_name().and_then(|name| name.to_str());
            match (program, words.get(1)) {
                (Some("bangerd"), Some(&"namespace")) => named.push(("namespace process", pid)),
                (Some("bangerd"), Some(&"gateway")) => named.push(("gateway", pid)),
                (Some(program), _) if program.starts_with("pasta") => named.push(("pasta", pid)),
                _ => {}
            }
        }
        named.sort_unstable();
        let [(_, _), (_, namespace), (_, _)] = named.as_slice() else {
            bail!("VM {vm} has these processes of a network: {named:?}")
        };
        Ok(Self { namespace: *namespace, named })
    }

    /// Returns the resident memory of each in MiB.
    fn memory(&self) -> Result<Vec<(&'static str, f64)>> {
        let resident = |pid: u32| memory_of(pid, "VmRSS:");
        self.named.iter().map(|(name, pid)| Ok((*name, resident(*pid)?))).collect()
    }
}

/// Takes rules and pasta away from a VM's namespace, and routes its tap to the internet.
fn remove_network(namespace: &Namespace, internet: &Namespace) -> Result<()> {
    check(namespace.command("nft").args(["delete", "table", "inet", "banger"]))?;
    namespace.connect("bare0", "198.51.101", internet)?;
    namespace.ip("route replace default via 198.51.101.1")?;
    internet.ip("route add 192.0.0.0/30 via 198.51.101.2")
}

/// Returns the time from the first connection until all bytes have arrived.
fn send(stage: &Stage, vm: &str, sink: &TcpListener, streams: usize) -> Result<Duration> {
    let (port, number, bytes) = (SINK.to_string(), streams.to_string(), BYTES.to_string());
    let words = ["vm", "exec", vm, "--", "perl", "-e", SEND, SERVER, &port, &number, &bytes];
    let mut sender = stage.banger(&words).stdin(Stdio::null()).spawn()?;
    let received: Result<(Instant, u64)> = thread::scope(|scope| {
        let mut start = None;
        let mut receivers = Vec::new();
        for _ in 0..streams {
            let mut stream = accept(sink)?;
            start.get_or_insert_with(Instant::now);
            receivers.push(scope.spawn(move || read_all(&mut stream)));
        }
        let counts = receivers.into_iter().map(|receiver| receiver.join().unwrap_or_else(|_| bail!("panic")));
        let total = counts.sum::<Result<u64>>()?;
        Ok((start.context("no stream")?, total))
    });
    let (start, total) = received?;
    let elapsed = start.elapsed();
    ensure!(sender.wait()?.success() && total == BYTES, "{total} bytes arrived of {BYTES}");
    Ok(elapsed)
}

/// Accepts a connection, which a guest that fails never opens.
fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let limit = Timespec::try_from(TIMEOUT)?;
    let ready = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&limit))?;
    ensure!(ready > 0, "the guest opened no connection");
    Ok(listener.accept()?.0)
}

/// Reads to the end and returns the number of bytes.
fn read_all(stream: &mut TcpStream) -> Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    stream.set_read_timeout(Some(TIMEOUT))?;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

/// Measures requests through the gateway against requests to the resolver itself, from one guest.
fn resolve(stage: &Stage) -> Result<()> {
    let name = "DNS, gateway / resolver itself";
    say(format!("measuring {name}"));
    let requests = REQUESTS.to_string();
    let words = ["vm", "exec", "ours", "--", "perl", "-e", RESOLVE, NAME, &requests, GATEWAY, RESOLVER];
    let printed = String::from_utf8(output(stage.banger(&words).stdin(Stdio::null()))?)?;
    let mut times = (Vec::new(), Vec::new());
    for line in printed.lines() {
        let (gateway, direct) = line.split_once(' ').with_context(|| format!("not two times: {line}"))?;
        times.0.push(Duration::from_nanos(gateway.parse()?));
        times.1.push(Duration::from_nanos(direct.parse()?));
    }
    print_comparison(name, median(&mut times.0), median(&mut times.1), DNS_GOAL);
    Ok(())
}

/// Measures a published port against a vsock port of the same guest.
fn ports(stage: &Stage, machine: &Namespace, vm: &str, processors: &str, runs: usize) -> Result<()> {
    let _receiver = receiver(stage, vm)?;
    stage.ok(&["vm", "publish", vm, &format!("{PUBLISHED}:{GUEST}")])?;
    let vsock = stage.vm_runtime(vm)?.join("vsock.sock");
    let published = || machine.run(|| exchange(&mut connect()?, BYTES));
    let bare = || exchange(&mut connect_vsock(&vsock)?, BYTES);
    compare_rates(&format!("published port / vsock, {processors}"), PORT_GOAL, runs, BYTES, published, bare)?;
    let each = || (0..CONNECTIONS / CLIENTS).try_for_each(|_| exchange(&mut connect()?, 1).map(drop));
    let elapsed = machine.run(|| {
        let start = Instant::now();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(each)).collect();
            clients.into_iter().try_for_each(|client| client.join().unwrap_or_else(|_| bail!("panic")))
        })?;
        Ok(start.elapsed())
    })?;
    let rate = f64::from(CONNECTIONS) / elapsed.as_secs_f64();
    print_figure(&format!("port connections/s, {processors}"), rate);
    Ok(())
}

/// Starts the guest's servers, and waits until both listen.
fn receiver(stage: &Stage, vm: &str) -> Result<KilledOnDrop> {
    let port = GUEST.to_string();
    let mut receiver = stage.banger(&["vm", "exec", vm, "--", "perl", "-e", RECEIVE, &port]);
    let mut receiver = KilledOnDrop(receiver.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    let stdout = receiver.0.stdout.take().context("no output")?;
    let listening = BufReader::new(stdout).lines().map_while(Result::ok).take(2).count();
    ensure!(listening == 2, "the guest's servers do not listen");
    Ok(receiver)
}

fn connect() -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PUBLISHED))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn connect_vsock(path: &Path) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(path).with_context(|| path.display().to_string())?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("CONNECT {GUEST}\n").as_bytes())?;
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.extend(byte);
    }
    ensure!(answer.starts_with(b"OK "), "the vsock device answered {}", String::from_utf8_lossy(&answer));
    Ok(stream)
}

/// Sends bytes to the guest's server, and returns the time until it has received them.
fn exchange(stream: &mut (impl Read + Write), bytes: u64) -> Result<Duration> {
    let part = vec![0; 1 << 20];
    let start = Instant::now();
    stream.write_all(&bytes.to_be_bytes())?;
    let mut rest = usize::try_from(bytes)?;
    while rest > 0 {
        let size = rest.min(part.len());
        stream.write_all(part.get(..size).unwrap_or_default())?;
        rest -= size;
    }
    stream.read_exact(&mut [0]).context("the guest's server did not answer")?;
    Ok(start.elapsed())
}
