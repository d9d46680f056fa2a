//! A VM's network: what it reaches, and what it never reaches.

use std::fs;

use anyhow::{Context, Result, ensure};
use banger_smoke::{Host, Internet, MANY, Running, scenario, until};
use serde_json::{Value, json};

/// Returns a host in `internet` with a running VM `box`.
fn host(internet: &Internet, options: &[&str]) -> Result<Host> {
    in_internet(Host::with_program("curl")?, internet, options)
}

/// Returns `host`, whose image `curl` has that program, in `internet` and with a running VM `box`.
fn in_internet(host: Host, internet: &Internet, options: &[&str]) -> Result<Host> {
    // The next daemon runs in the internet's namespace.
    host.ok(&["daemon", "stop"])?;
    let host = internet.host(host);
    run(&host, "box", options)?;
    Ok(host)
}

fn run(host: &Host, vm: &str, options: &[&str]) -> Result<()> {
    let run = ["vm", "run", "-d", "--name", vm, "--image", "curl", "--disk-size", "64M"];
    host.ok(&[&run, options].concat()).map(drop)
}

/// Returns what the guest reads from `http://PLACE/who`; nothing if it is refused. Fails if the guest only waits.
fn fetch(host: &Host, place: &str) -> Result<String> {
    fetch_from(host, "box", place)
}

fn fetch_from(host: &Host, vm: &str, place: &str) -> Result<String> {
    /// Exit code of curl after a timeout.
    const TIMED_OUT: i32 = 28;
    let url = format!("http://{place}/who");
    let finished = host.banger(&["vm", "exec", vm, "--", "curl", "-sS", "-g", "-m", "60", &url])?;
    ensure!(finished.status.code() != Some(TIMED_OUT), "{place}: {}", finished.stderr);
    Ok(finished.stdout.trim().to_owned())
}

/// Places that no policy reaches: the host itself by all its addresses, the namespace, metadata, and itself.
const NEVER: [&str; 14] = [
    "127.0.0.2",
    "198.51.100.2",
    "0.0.0.1",
    "169.254.169.254",
    "192.0.0.1",
    "192.0.0.5",
    "192.0.0.6",
    "224.0.0.1",
    "[2001:db8:1::2]",
    "[::ffff:198.51.100.2]",
    "[fd00:ec2::254]",
    "[fd62:616e:6765:7201::1]",
    "[fd62:616e:6765:7202::6]",
    "[64:ff9b::7f00:1]",
];

#[scenario(Here, Lab)]
fn a_guest_reaches_the_internet_and_not_the_host() -> Result<()> {
    let internet = Internet::new()?;
    let host = host(&internet, &[])?;
    for place in ["203.0.113.1", "[2001:db8:2::1]", "www.example", "alias.example", "www", "192.168.50.1"] {
        assert_eq!(fetch(&host, place)?, "internet", "{place}");
    }
    for place in NEVER {
        assert_eq!(fetch(&host, place)?, "", "{place}");
    }
    // An address that the host gets later is refused, too.
    internet.add_address("203.0.113.99/32")?;
    assert_eq!(internet.fetch("http://203.0.113.99/who")?.as_deref(), Some("host\n"));
    until("the new address is refused", || Ok(fetch(&host, "203.0.113.99")?.is_empty()))?;
    assert_eq!(fetch(&host, "203.0.113.1")?, "internet");
    host.ok(&["vm", "delete", "--force", "box"])?;
    host.nothing_left()
}

#[scenario(Here, LabMore)]
fn a_guest_reaches_the_services_of_the_host_that_were_allowed() -> Result<()> {
    let internet = Internet::new()?;
    let host = host(&internet, &["--egress", "none", "--allow-host", "80", "--allow-host", "8080,8082"])?;
    assert_eq!(host.json(&["vm", "show", "box"])?["allow_host"], serde_json::json!([80, 8080, 8082]));
    // By both families, under a policy that allows nothing else.
    let allowed =
        ["host.banger.internal", "192.0.0.1", "[fd62:616e:6765:7201::1]", "host.banger.internal:8082"];
    let reached = || -> Result<()> {
        for place in allowed {
            assert_eq!(fetch(&host, place)?, "host", "{place}");
        }
        // Nothing listens on the first port; a server that was not allowed listens on the second.
        for place in ["host.banger.internal:8080", "host.banger.internal:8081", "127.0.0.1", "198.51.100.2"] {
            assert_eq!(fetch(&host, place)?, "", "{place}");
        }
        Ok(())
    };
    reached()?;
    let daemon = rustix::process::Pid::from_raw(host.daemon_pid()?);
    rustix::process::kill_process(
        daemon.unwrap_or(rustix::process::Pid::INIT),
        rustix::process::Signal::KILL,
    )?;
    reached()?;
    // A new policy keeps the ports, and so does the next start.
    host.ok(&["vm", "set", "--egress", "203.0.113.1", "box"])?;
    reached()?;
    host.ok(&["vm", "restart", "box"])?;
    reached()?;
    host.ok(&["vm", "stop", "box"])?;
    host.ok(&["vm", "set", "--allow-host", "none", "box"])?;
    host.ok(&["vm", "start", "box"])?;
    for place in allowed {
        assert_eq!(fetch(&host, place)?, "", "{place}");
    }
    host.ok(&["vm", "delete", "--force", "box"])?;
    host.nothing_left()
}

#[scenario(Here)]
fn sessions_use_the_users_proxy_on_the_hosts_loopback() -> Result<()> {
    let mut internet = Internet::new()?;
    internet.start_proxy()?;
    let host = Host::with_program("curl")?;
    host.ok(&["daemon", "stop"])?;
    let host = internet.host(host);
    let with_proxy = |args: &[&str]| {
        let mut command = host.command(args);
        command.env("http_proxy", "http://me:s3cret@localhost:3128").env("NO_PROXY", "203.0.113.2");
        Running::start(command, format!("banger {}", args.join(" ")))?.finish(b"")
    };
    let run =
        ["vm", "run", "-d", "--name", "box", "--image", "curl", "--disk-size", "64M", "--egress", "none"];
    with_proxy(&[&run[..], &["--http-proxy", "host"]].concat())?.success()?;
    assert_eq!(fetch(&host, "203.0.113.1")?, "internet");
    // It needs no proxy, and is refused without.
    assert_eq!(fetch(&host, "203.0.113.2")?, "");
    let variable = |name: &str| host.ok(&["vm", "exec", "box", "--", "sh", "-c", &format!("echo ${name}")]);
    assert_eq!(variable("HTTP_PROXY")?, "http://me:s3cret@host.banger.internal:3128\n");
    assert_eq!(variable("no_proxy")?, "203.0.113.2,host.banger.internal,localhost,127.0.0.1,::1\n");
    let shown = host.json(&["vm", "show", "box"])?;
    assert_eq!(shown["allow_host"], serde_json::json!([3128]));
    ensure!(!shown.to_string().contains("s3cret"), "{shown}");
    // A later start follows the configuration; without the port, it says why there is no proxy.
    host.ok(&["vm", "restart", "box"])?;
    assert_eq!(fetch(&host, "203.0.113.1")?, "");
    fs::create_dir_all(host.path("config/banger"))?;
    fs::write(host.path("config/banger/config.toml"), "[network]\nhttp_proxy = \"host\"\n")?;
    with_proxy(&["vm", "restart", "box"])?.success()?;
    assert_eq!(fetch(&host, "203.0.113.1")?, "internet");
    host.ok(&["vm", "stop", "box"])?;
    host.ok(&["vm", "set", "--allow-host", "80", "box"])?;
    let started = with_proxy(&["vm", "start", "box"])?;
    ensure!(started.stderr.contains("banger vm set --allow-host 80,3128 box"), "{}", started.stderr);
    assert_eq!(variable("HTTP_PROXY")?, "\n");
    // The password of a flag would be in the list of processes.
    let refused = host.banger(&["vm", "run", "--http-proxy", "http://me:s3cret@p:1", "--rm"])?;
    ensure!(
        refused.stderr.contains("other users can read") && !refused.stderr.contains("s3cret"),
        "{refused:?}"
    );
    Ok(())
}

#[scenario(Here)]
fn a_vm_trusts_the_certificates_of_the_configuration() -> Result<()> {
    let mut internet = Internet::new()?;
    let ca = internet.start_https()?;
    let config = |host: &Host, files: &[&str]| -> Result<()> {
        fs::create_dir_all(host.path("config/banger"))?;
        Ok(fs::write(host.path("config/banger/config.toml"), format!("[network]\nca = {files:?}\n"))?)
    };
    let ca = ca.display().to_string();
    // One image has no store at all, the other Debian's with its program.
    for (host, image) in [(Host::with_program("curl")?, "curl"), (Host::new()?, "debian-bookworm")] {
        host.ok(&["daemon", "stop"])?;
        let host = internet.host(host);
        let fetch = || -> Result<String> {
            let url = "https://www.example:4433/who";
            let curl = ["vm", "exec", "box", "--", "curl", "-sS", "-m", "60", url];
            let finished = host.banger(&curl)?;
            ensure!(
                finished.stdout.contains("internet") || finished.stderr.contains("certificate"),
                "{finished:?}"
            );
            Ok(finished.stdout.trim().to_owned())
        };
        host.ok(&["vm", "run", "-d", "--name", "box", "--image", image])?;
        assert_eq!(fetch()?, "", "{image}");
        if image != "curl" {
            // With all of Debian's certificates, its program takes a minute without KVM.
            let fewer = "head -n 12 /etc/ca-certificates.conf > few && cp few /etc/ca-certificates.conf";
            host.ok(&["vm", "exec", "box", "--", "sh", "-c", fewer])?;
        }
        config(&host, &[&ca])?;
        for _ in 0..2 {
            host.ok(&["vm", "restart", "box"])?;
            assert_eq!(fetch()?, "internet", "{image}");
        }
        // OpenSSL finds it in the directory that the program of the distribution fills.
        if image != "curl" {
            let path = "/etc/ssl/certs/banger-0.pem";
            let verify = ["vm", "exec", "box", "--", "openssl", "verify", "-CApath", "/etc/ssl/certs", path];
            until("the program has run", || Ok(host.banger(&verify)?.status.success()))?;
        }
        config(&host, &[])?;
        host.ok(&["vm", "restart", "box"])?;
        assert_eq!(fetch()?, "", "{image}");
        // A file that is not there is an error before there is a VM.
        config(&host, &["/nowhere.pem"])?;
        let refused = host.banger(&["vm", "run", "-d", "--name", "other", "--image", image])?;
        ensure!(refused.stderr.contains("/nowhere.pem") && !refused.status.success(), "{refused:?}");
        assert_eq!(host.ok(&["vm", "list", "--all", "--quiet"])?.lines().count(), 1);
    }
    Ok(())
}

#[scenario(Here)]
fn policies_apply_at_once_also_to_a_running_vm() -> Result<()> {
    let internet = Internet::new()?;
    let host = host(&internet, &["--egress", "public"])?;
    assert_eq!(host.json(&["vm", "show", "box"])?["egress"], "public");
    let reached = |places: &[&str]| -> Result<Vec<String>> {
        let mut reached = Vec::new();
        for place in places {
            if fetch(&host, place)? == "internet" {
                reached.push((*place).to_owned());
            }
        }
        Ok(reached)
    };
    let all =
        ["203.0.113.1", "203.0.113.2", "192.168.50.1", "[2001:db8:2::1]", "[fd00:50::1]", "www.example"];
    assert_eq!(reached(&all)?, ["203.0.113.1", "203.0.113.2", "[2001:db8:2::1]", "www.example"]);
    host.ok(&["vm", "set", "--egress", "none", "box"])?;
    assert_eq!(reached(&all)?, [""; 0]);
    host.ok(&["vm", "set", "--egress", "192.168.50.0/24,[fd00:50::1]:80,203.0.113.2:81", "box"])?;
    assert_eq!(reached(&all)?, ["192.168.50.1", "[fd00:50::1]"]);
    host.ok(&["vm", "set", "--egress", "open", "box"])?;
    assert_eq!(reached(&all)?, all);
    for place in NEVER {
        assert_eq!(fetch(&host, place)?, "", "{place}");
    }
    Ok(())
}

#[scenario(Here, LabMore)]
fn a_list_allows_names_and_not_their_neighbours() -> Result<()> {
    let internet = Internet::new()?;
    let host = host(&internet, &["--egress", "www.example,*.www.example,private.example,host.example"])?;
    // Not before its name was resolved.
    assert_eq!(fetch(&host, "203.0.113.1")?, "");
    assert_eq!(fetch(&host, "www.example")?, "internet");
    assert_eq!(fetch(&host, "203.0.113.1")?, "internet");
    for place in ["other.example", "203.0.113.2", "alias.example", "private.example", "host.example"] {
        assert_eq!(fetch(&host, place)?, "", "{place}");
    }
    // Other resolvers are refused, and bangerd's does without it.
    let resolve = ["vm", "exec", "box", "--", "busybox", "nslookup", "other.example", "203.0.113.53"];
    ensure!(!host.banger(&resolve)?.stdout.contains("203.0.113.2"), "another resolver answers");
    // The policy applies after the daemon is killed, and is changed by the next one.
    let daemon = rustix::process::Pid::from_raw(host.daemon_pid()?);
    rustix::process::kill_process(
        daemon.unwrap_or(rustix::process::Pid::INIT),
        rustix::process::Signal::KILL,
    )?;
    assert_eq!(fetch(&host, "other.example")?, "");
    host.ok(&["vm", "set", "--egress", "*.example:80", "box"])?;
    for place in ["www.example", "other.example", "203.0.113.2"] {
        assert_eq!(fetch(&host, place)?, "internet", "{place}");
    }
    host.ok(&["vm", "set", "--egress", "*.example:81", "box"])?;
    assert_eq!(fetch(&host, "www.example")?, "");
    Ok(())
}

/// Sends datagrams, without a connection and with one. Its name in the kernel is that of the program.
const DATAGRAMS: &str = r#"
    my $ipv4 = pack "S n C4 x8", 2, 9, 203, 0, 113, 2;
    my $ipv6 = pack "S n N H32 N", 10, 9, 0, "20010db8000200000000000000000001", 0;
    my $refused = pack "S n C4 x8", 2, 9, 169, 254, 169, 254;
    my ($four, $six, $connected);
    socket($four, 2, 2, 0) && send($four, "x", 0, $ipv4) && send($four, "x", 0, $refused) or die "IPv4: $!";
    socket($six, 10, 2, 0) && send($six, "x", 0, $ipv6) or die "IPv6: $!";
    $ipv4 = pack "S n C4 x8", 2, 10, 203, 0, 113, 2;
    socket($connected, 2, 2, 0) && connect($connected, $ipv4) && send($connected, "x", 0) or die "connected: $!";
"#;

#[scenario(Here, LabMore)]
fn what_a_vm_asks_for_is_recorded_with_its_processes_and_suggested_as_a_list() -> Result<()> {
    let internet = Internet::new()?;
    let host = Host::with_programs("curl", &["curl", "perl"])?;
    let host = in_internet(host, &internet, &["--egress", "learn"])?;
    host.banger(&["vm", "network", "--suggest", "box"])?
        .fails(1, &["nothing to suggest", "--egress learn"])?;
    let mut follower = host.start(&["vm", "network", "-f", "box"])?;
    for place in ["www.example", "www.example", "[fd00:50::1]", "192.168.50.1"] {
        assert_eq!(fetch(&host, place)?, "internet", "{place}");
    }
    for place in ["169.254.169.254", "[fd00:ec2::254]", "203.0.113.53:853"] {
        assert_eq!(fetch(&host, place)?, "", "{place}");
    }
    let followed = follower.wait_for_stdout("refused      tcp    203.0.113.53:853  1  ")?;
    ensure!(followed.contains("  curl ("), "{followed}");
    let suggested = host.ok(&["vm", "network", "--suggest", "box"])?;
    let rules = ["192.168.50.1:80", "[fd00:50::1]:80"].map(|rule| format!("    \"{rule}\",\n")).concat();
    assert_eq!(suggested, format!("[network]\negress = [\n    \"www.example:80\",\n{rules}]\n"));
    // The processes have ended.
    host.ok(&["vm", "exec", "box", "--", "perl", "-e", DATAGRAMS])?;
    for (verdict, protocol, address, port, process) in [
        ("allowed", "tcp", "192.168.50.1", 80, "curl"),
        ("allowed", "tcp", "fd00:50::1", 80, "curl"),
        ("refused", "tcp", "169.254.169.254", 80, "curl"),
        ("refused", "tcp", "fd00:ec2::254", 80, "curl"),
        ("refused", "tcp", "203.0.113.53", 853, "curl"),
        ("allowed", "udp", "203.0.113.2", 9, "perl"),
        ("allowed", "udp", "203.0.113.2", 10, "perl"),
        ("allowed", "udp", "2001:db8:2::1", 9, "perl"),
        ("refused", "udp", "169.254.169.254", 9, "perl"),
    ] {
        until(&format!("{process} is named for {protocol} {address}"), || {
            let flows = host.json(&["vm", "network", "box"])?;
            let is_it = |flow: &&Value| {
                let found = ["verdict", "protocol", "address", "port", "process"].map(|field| &flow[field]);
                let expected = [json!(verdict), json!(protocol), json!(address), json!(port), json!(process)];
                found.into_iter().eq(&expected) && flow["pid"].is_u64()
            };
            Ok(flows.as_array().into_iter().flatten().any(|flow| is_it(&flow)))
        })?;
    }
    // The record stays, and the next one goes on with it.
    host.ok(&["vm", "stop", "box"])?;
    follower.finish(b"")?.success()?;
    let stopped = host.json(&["vm", "network", "box"])?;
    ensure!(stopped.as_array().into_iter().flatten().all(|flow| flow["process"].is_null()), "{stopped}");
    let list = host.json(&["vm", "network", "--suggest", "box"])?["egress"].clone();
    let list: Vec<_> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    host.ok(&["vm", "set", "--egress", &list.join(","), "box"])?;
    host.ok(&["vm", "start", "box"])?;
    for place in ["www.example", "[fd00:50::1]", "192.168.50.1"] {
        assert_eq!(fetch(&host, place)?, "internet", "{place}");
    }
    assert_eq!(fetch(&host, "other.example")?, "");
    // Also what came in the last moment.
    host.ok(&["vm", "kill", "box"])?;
    let flows = host.json(&["vm", "network", "box"])?;
    let count = |verdict: &str, protocol: &str, name: Value, port: Value| -> u64 {
        let is_it = |flow: &&Value| {
            let found = [&flow["verdict"], &flow["protocol"], &flow["name"], &flow["port"]];
            found == [&json!(verdict), &json!(protocol), &name, &port]
        };
        flows.as_array().into_iter().flatten().filter(is_it).filter_map(|flow| flow["count"].as_u64()).sum()
    };
    ensure!(count("allowed", "tcp", json!("www.example"), json!(80)) >= 3, "{flows}");
    ensure!(count("refused", "dns", json!("other.example"), Value::Null) >= 1, "{flows}");
    ensure!(count("refused", "tcp", Value::Null, json!(80)) == 2, "{flows}");
    host.ok(&["vm", "delete", "box"])?;
    host.nothing_left()
}

#[scenario(Here)]
fn processes_are_named_beside_an_init_whose_mounts_stay_as_they_are() -> Result<()> {
    let internet = Internet::new()?;
    let host = Host::new()?;
    host.ok(&["image", "import", "arch", &host.path("arch.tar.zst").display().to_string()])?;
    host.ok(&["daemon", "stop"])?;
    let host = internet.host(host);
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "arch"])?;
    let bash = |script: &str| host.ok(&["vm", "exec", "box", "--", "bash", "-c", script]);
    // The init may only just begin to mount.
    until("bash is named", || {
        bash("echo > /dev/udp/203.0.113.1/9")?;
        let flows = host.json(&["vm", "network", "box"])?;
        Ok(flows.as_array().into_iter().flatten().any(|flow| flow["process"] == "bash"))
    })?;
    let mount = bash("grep cgroup2 /proc/mounts")?;
    ensure!(mount.contains("/sys/fs/cgroup cgroup2") && mount.contains("nsdelegate"), "{mount}");
    Ok(())
}

#[scenario(Here)]
fn a_host_that_was_offline_needs_no_restart_of_its_vms() -> Result<()> {
    let internet = Internet::new()?;
    internet.disconnect()?;
    let host = host(&internet, &[])?;
    let network = || Ok::<_, anyhow::Error>(host.json(&["vm", "show", "box"])?["network"].clone());
    // Not after a timeout of the guest's.
    assert_eq!(fetch(&host, "203.0.113.1")?, "");
    assert_eq!(network()?, "user; the host is offline: it has no default route");
    internet.connect()?;
    until("the VM is connected", || Ok(fetch(&host, "203.0.113.1")? == "internet"))?;
    assert_eq!(fetch(&host, "www.example")?, "internet");
    assert_eq!(network()?, "user");
    internet.disconnect()?;
    until("the VM is disconnected", || Ok(fetch(&host, "[2001:db8:2::1]")?.is_empty()))?;
    internet.connect()?;
    until("the VM is connected again", || Ok(fetch(&host, "[2001:db8:2::1]")? == "internet"))?;
    // Only IPv6 is left, also to the resolver.
    internet.remove_ipv4()?;
    until("IPv4 is refused", || Ok(fetch(&host, "203.0.113.1")?.is_empty()))?;
    assert_eq!(fetch(&host, "www.example")?, "internet");
    assert_eq!(network()?, "user");
    Ok(())
}

#[scenario(Here)]
fn a_name_may_have_many_addresses_and_a_guest_its_own_resolver() -> Result<()> {
    let internet = Internet::new()?;
    let host = Host::with_programs("curl", &["curl", "perl"])?;
    let host = in_internet(host, &internet, &["--egress", "many.example"])?;
    // The guest's own servers of port 53, on all its addresses.
    let servers = ["vm", "exec", "box", "--", "sh", "-c", "exec >/log 2>&1; perl -e \"$0\" &", OWN_RESOLVER];
    host.ok(&servers)?;
    until("the guest's servers listen", || {
        Ok(host.ok(&["vm", "exec", "box", "--", "cat", "/log"])?.contains("listening"))
    })?;
    assert_eq!(fetch(&host, "many.example")?, "internet");
    for number in [1, MANY / 2, MANY] {
        assert_eq!(fetch(&host, &format!("[2001:db8:3::{number:x}]"))?, "internet", "{number}");
    }
    assert_eq!(fetch(&host, &format!("[2001:db8:3::{:x}]", MANY + 1))?, "");
    Ok(())
}

/// Listens on port 53.
const OWN_RESOLVER: &str = r#"
    my $any = pack "S n x12", 2, 53;
    my ($udp, $tcp);
    socket($udp, 2, 2, 0) && bind($udp, $any) or die "UDP: $!";
    socket($tcp, 2, 1, 0) && bind($tcp, $any) && listen($tcp, 8) or die "TCP: $!";
    $| = 1;
    print "listening\n";
    sleep;
"#;

/// Maximum number of connections that the rules let a guest have: 8192, as many to its gateway, and some that the rules
/// count by their rate.
const MAX_CONNECTIONS: usize = 2 * 8192 + 200;

/// Maximum number of neighbours of a namespace: the guest's and pasta's addresses, and what the kernel adds.
const MAX_NEIGHBOURS: usize = 16;

#[scenario(Here)]
fn a_flood_from_a_guest_is_bounded_and_one_vm_does_not_reach_another() -> Result<()> {
    let internet = Internet::new()?;
    let host = in_internet(Host::with_programs("curl", &["curl", "perl"])?, &internet, &[])?;
    run(&host, "other", &["-p", "0.0.0.0:8080:80", "-p", "[::]:8080:80"])?;
    let serve = "mkdir /srv && echo other >/srv/who && busybox httpd -p [::]:80 -h /srv";
    host.ok(&["vm", "exec", "other", "--", "sh", "-c", serve])?;
    for place in ["198.51.100.2:8080", "[2001:db8:1::2]:8080"] {
        assert_eq!(internet.fetch(&format!("http://{place}/who"))?.as_deref(), Some("other\n"), "{place}");
        assert_eq!(fetch(&host, place)?, "", "{place}");
    }
    // The other VM has the same addresses, which are this one's here.
    for place in ["192.0.0.2", "[fd62:616e:6765:7201::2]"] {
        assert_eq!(fetch_from(&host, "other", place)?, "other", "{place}");
        assert_eq!(fetch(&host, place)?, "", "{place}");
    }

    let lease =
        ["vm", "exec", "box", "--", "busybox", "udhcpc", "-n", "-q", "-t", "1", "-T", "1", "-i", "eth0"];
    ensure!(!host.banger(&lease)?.status.success(), "a DHCP server answers");
    let flood = host.ok(&["vm", "exec", "box", "--", "perl", "-e", FLOOD])?;
    ensure!(flood.contains("refused"), "{flood}");
    let in_network = |program: &str, arguments: &[&str]| -> Result<String> {
        let output = host.in_network_of("box", program)?.args(arguments).output()?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let connections = in_network("cat", &["/proc/sys/net/netfilter/nf_conntrack_count"])?;
    let connections: usize = connections.trim().parse()?;
    ensure!(connections <= MAX_CONNECTIONS, "the guest has {connections} connections");
    let neighbours = in_network("ip", &["neigh", "show", "nud", "all"])?;
    ensure!(neighbours.lines().count() <= MAX_NEIGHBOURS, "{neighbours}");
    // Others notice nothing, and what the guest cannot open any more is refused at once.
    assert_eq!(fetch_from(&host, "other", "www.example")?, "internet");
    assert_eq!(internet.fetch("http://203.0.113.1/who")?.as_deref(), Some("internet\n"));
    fetch(&host, "203.0.113.1")?;
    host.ok(&["vm", "delete", "--force", "box", "other"])?;
    host.nothing_left()
}

/// Sends ARP requests from many addresses, requests to the gateway from all ports, and packets to many ports until a
/// connection is refused.
const FLOOD: &str = r#"
    open(my $file, "<", "/sys/class/net/eth0/ifindex") or die "eth0: $!";
    chomp(my $interface = <$file>);
    socket(my $link, 17, 3, 0x0608) or die "link: $!";
    my $to_all = pack "S n i S C C a8", 17, 0x0806, $interface, 1, 0, 6, "\xff" x 6 . "\0\0";
    for my $number (1 .. 1000) {
        my $mac = pack "C2 N", 2, 0, $number;
        my $sender = $number % 2 ? pack("C2 n", 192, 0, $number) : pack("C4", 192, 0, 0, $number % 256);
        my $arp = pack "n2 C2 n a6 a4 x6 C4", 1, 0x0800, 6, 4, 1, $mac, $sender, 192, 0, 0, 1;
        send($link, "\xff" x 6 . $mac . pack("n", 0x0806) . $arp, 0, $to_all) or $! + 0 == 105 or die "ARP: $!";
    }
    sub address { my ($ip, $port) = @_; pack "S n C4 x8", 2, $port, split /\./, $ip }
    my $gateway = address("192.0.0.1", 53);
    for my $port (10000 .. 20000) {
        my $socket;
        socket($socket, 2, 2, 0) && bind($socket, address("0.0.0.0", $port)) or die "UDP: $!";
        send($socket, "x", 0, $gateway);
    }
    sub is_refused {
        socket(my $socket, 2, 1, 0) or die "TCP: $!";
        return !connect($socket, address("203.0.113.1", 80)) && $! + 0 == 111;
    }
    socket(my $udp, 2, 2, 0) or die "UDP: $!";
    for my $round (1 .. 60) {
        send($udp, "x", 0, address("203.0.113.2", $round * 1000 + $_)) for 1 .. 1000;
        next unless is_refused();
        print "refused after $round\n";
        exit;
    }
    print "never\n";
"#;

#[scenario(Here, Lab)]
fn an_ordinary_user_has_the_same_network_and_leaves_nothing() -> Result<()> {
    let internet = Internet::new()?;
    let host = in_internet(Host::with_program("curl")?.of_ordinary_user()?, &internet, &[])?;
    let checks = host.checks()?;
    let network = checks.as_array().and_then(|all| all.iter().find(|check| check["name"] == "network"));
    ensure!(network.is_some_and(|check| check["verdict"] == "PASS"), "{checks}");
    for place in ["203.0.113.1", "[2001:db8:2::1]", "www.example"] {
        assert_eq!(fetch(&host, place)?, "internet", "{place}");
    }
    for place in NEVER {
        assert_eq!(fetch(&host, place)?, "", "{place}");
    }
    // Nothing has root's rights, and the VM's network is not the daemon's.
    let daemon = host.daemon_pid()?;
    let network_of = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net"));
    let (own, mut others) = (network_of(daemon)?, 0);
    for (pid, line) in host.processes()? {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).context("no user")?;
        let user = host.user_id().context("no ordinary user")?.to_string();
        ensure!(users.split_whitespace().all(|id| id == user), "users {users} run {line}");
        others += i32::from(network_of(pid)? != own);
    }
    ensure!(others > 0, "no process is in the VM's network");
    host.ok(&["vm", "delete", "--force", "box"])?;
    host.nothing_left()?;
    // A network namespace exists while a process is in it, or has it open.
    assert_eq!(network_of(daemon)?, own);
    for open in fs::read_dir(format!("/proc/{daemon}/fd"))? {
        // The daemon may close it meanwhile.
        let target = fs::read_link(open?.path()).unwrap_or_default();
        ensure!(!target.starts_with("net:["), "the daemon has {} open", target.display());
    }
    assert_eq!(internet.rules()?, "");
    Ok(())
}

#[scenario(Here, LabMore)]
fn a_vm_without_a_network_has_no_card() -> Result<()> {
    let internet = Internet::new()?;
    let host = internet.host(Host::tiny()?);
    let run = [
        "vm",
        "run",
        "--rm",
        "--image",
        "tiny",
        "--network",
        "none",
        "--",
        "busybox",
        "ls",
        "/sys/class/net",
    ];
    let finished = host.banger(&run)?;
    assert_eq!(finished.stdout, "lo\n");
    ensure!(!finished.stderr.contains("network"), "{}", finished.stderr);
    host.nothing_left()
}

#[scenario(Here)]
fn vms_start_without_a_network_where_a_host_has_none_to_give() -> Result<()> {
    let internet = Internet::new()?;
    let host = internet.host(Host::tiny()?);
    let run = |options: &[&str]| {
        let run =
            [&["vm", "run", "--rm", "--image", "tiny"], options, &["--", "busybox", "ls", "/sys/class/net"]];
        host.banger(&run.concat())
    };
    let check = || -> Result<String> {
        let checks = host.checks()?;
        let network = checks.as_array().and_then(|all| all.iter().find(|check| check["name"] == "network"));
        let network = network.filter(|network| network["verdict"] == "WARN");
        Ok(network.map(ToString::to_string).unwrap_or_default())
    };
    // No tap can be created: each VM says so, at once.
    internet.hide("/dev/net/tun")?;
    for _ in 0..2 {
        let finished = run(&[])?;
        ensure!(
            finished.stdout == "lo\n" && finished.stderr.contains("cannot create the network"),
            "{finished:?}"
        );
    }
    ensure!(check()?.contains("a network cannot be created"), "{}", check()?);
    // The program is missing: only the first VM says so.
    internet.hide("/usr/bin/pasta")?;
    let finished = run(&[])?;
    ensure!(finished.stdout == "lo\n" && finished.stderr.contains("pasta is not installed"), "{finished:?}");
    let finished = run(&[])?;
    ensure!(finished.stdout == "lo\n" && !finished.stderr.contains("pasta"), "{finished:?}");
    ensure!(check()?.contains("pasta is not installed"), "{}", check()?);
    host.nothing_left()
}
