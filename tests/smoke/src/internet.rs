//! A host in a network of its own, and an internet for it: two network namespaces with real servers.
//!
//! ```text
//! host: 198.51.100.2, 2001:db8:1::2  ◀─veth─▶  internet: 198.51.100.1, 2001:db8:1::1
//!   a web server on every address,               a web server on every address, a resolver at 203.0.113.53
//!   8081 of 127.0.0.1 and 8082 of ::1
//! ```

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{
    Host,
    run::{inside, until},
};

/// Addresses of the internet's servers: public ones, a private one, and that of a cloud's metadata.
const SERVERS: [&str; 8] = [
    "203.0.113.1/32",
    "203.0.113.2/32",
    "203.0.113.53/32",
    "192.168.50.1/32",
    "169.254.169.254/32",
    "2001:db8:2::1/128",
    "2001:db8:2::53/128",
    "fd00:50::1/128",
];

/// Program of an HTTP proxy of the host's loopback, for the user `me` with the password `s3cret`.
const PROXY: &str = r#"
import base64, http.server, urllib.request
class Proxy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = "Basic " + base64.b64encode(b"me:s3cret").decode()
        if self.headers["Proxy-Authorization"] != known:
            return self.send_error(407)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.path) as answer:
            body = answer.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", 3128), Proxy).serve_forever()
"#;

/// Names that the resolver knows, as options of dnsmasq.
const NAMES: [&str; 6] = [
    "--host-record=www.example,203.0.113.1,2001:db8:2::1",
    "--host-record=other.example,203.0.113.2",
    "--cname=alias.example,www.example",
    "--host-record=private.example,192.168.50.1",
    "--host-record=host.example,198.51.100.2",
    "--host-record=half.example,203.0.113.1",
];

/// Number of addresses of `many.example`: 2001:db8:3::1 and those after it.
pub const MANY: u16 = 500;

/// The network of the addresses of `many.example`.
const MANY_NETWORK: &str = "2001:db8:3::/64";

/// A network namespace with a process in it, which ends with this value.
#[derive(Debug)]
struct Namespace(Child);

impl Namespace {
    fn new() -> Result<Self> {
        let mut command = Command::new("unshare");
        // The process says when it is in its namespaces, and ends with its standard input.
        command.args(["--net", "--mount", "--", "sh", "-c", "ip link set lo up && echo; exec cat"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut byte = [0];
        let stdout = child.stdout.as_mut().context("no output")?;
        std::io::Read::read_exact(stdout, &mut byte).context("cannot create a network namespace")?;
        Ok(Self(child))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Returns a program that runs in the namespace, not yet started.
    fn command(&self, program: &str) -> Command {
        inside(self.pid(), program)
    }

    fn ip(&self, args: &str) -> Result<()> {
        let output = self.command("ip").args(args.split(' ')).output()?;
        ensure!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A process that is killed with this value.
#[derive(Debug)]
struct Server(Child);

impl Server {
    fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The internet of a host.
#[derive(Debug)]
pub struct Internet {
    _servers: Vec<Server>,
    machine: Namespace,
    internet: Namespace,
    _dir: TempDir,
}

impl Internet {
    /// Creates both namespaces, and starts the servers. Needs root.
    ///
    /// # Errors
    /// Returns an error if a program is missing, or a server does not start.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (machine, internet) = (Namespace::new()?, Namespace::new()?);
        machine.ip(&format!("link add wan0 type veth peer name wan1 netns {}", internet.pid()))?;
        for (namespace, interface, end) in [(&machine, "wan0", 2), (&internet, "wan1", 1)] {
            namespace.ip(&format!("link set {interface} up"))?;
            namespace.ip(&format!("addr add 198.51.100.{end}/24 dev {interface}"))?;
            namespace.ip(&format!("-6 addr add 2001:db8:1::{end}/64 dev {interface} nodad"))?;
        }
        for server in SERVERS {
            internet.ip(&format!("addr add {server} dev lo"))?;
        }
        internet.ip(&format!("-6 route add local {MANY_NETWORK} dev lo"))?;
        let this = Self { _servers: Vec::new(), machine, internet, _dir: dir };
        this.connect()?;
        this.with_servers()
    }

    fn with_servers(mut self) -> Result<Self> {
        let everywhere = "[::]:80";
        for (namespace, name, addresses) in [
            (&self.machine, "host", &[everywhere, "127.0.0.1:8081", "[::1]:8082"][..]),
            (&self.internet, "internet", &[everywhere]),
        ] {
            let root = self._dir.path().join(name);
            fs::create_dir(&root)?;
            fs::write(root.join("who"), format!("{name}\n"))?;
            for address in addresses {
                let mut server = namespace.command("busybox");
                server.args(["httpd", "-f", "-p", address, "-h"]).arg(&root);
                self._servers.push(Server::start(&mut server)?);
            }
        }
        let mut resolver = self.internet.command("dnsmasq");
        resolver.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
        ]);
        resolver.args([
            "--bind-interfaces",
            "--listen-address=203.0.113.53,2001:db8:2::53",
            "--pid-file=",
            "--local=/example/",
        ]);
        let many = (1..=MANY).map(|number| format!("--host-record=many.example,2001:db8:3::{number:x}"));
        self._servers.push(Server::start(resolver.args(NAMES).args(many))?);
        let file = self.resolvers();
        fs::write(&file, "nameserver 203.0.113.53\nsearch example\n")?;
        let mut mount = self.machine.command("mount");
        ensure!(mount.arg("--bind").arg(&file).arg("/etc/resolv.conf").status()?.success(), "cannot mount");
        for place in ["203.0.113.1", "[2001:db8:2::1]", "127.0.0.1", "127.0.0.1:8081", "[::1]:8082"] {
            let url = format!("http://{place}/who");
            until(&format!("{url} answers"), || Ok(self.fetch(&url)?.is_some()))?;
        }
        Ok(self)
    }

    /// Returns what the host reads from a URL.
    ///
    /// # Errors
    /// Returns an error if curl cannot be started.
    pub fn fetch(&self, url: &str) -> Result<Option<String>> {
        let output = self.machine.command("curl").args(["-s", "-g", "-m", "10", url]).output()?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Starts the proxy at `http://me:s3cret@127.0.0.1:3128` of the host.
    ///
    /// # Errors
    /// Returns an error if Python is missing, or the proxy does not answer.
    pub fn start_proxy(&mut self) -> Result<()> {
        self._servers.push(Server::start(self.machine.command("python3").args(["-c", PROXY]))?);
        until("the proxy answers", || Ok(self.fetch("http://127.0.0.1:3128/")?.is_some()))
    }

    /// Starts an HTTPS server at `https://www.example:4433`, whose authority nothing trusts. Returns the path of the
    /// authority's certificate.
    ///
    /// # Errors
    /// Returns an error if openssl is missing, or the server does not answer.
    pub fn start_https(&mut self) -> Result<PathBuf> {
        let dir = self._dir.path().to_owned();
        let openssl = |arguments: &str| {
            let output = Command::new("openssl").args(arguments.split(' ')).current_dir(&dir).output()?;
            let error = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "openssl {arguments}: {error}");
            anyhow::Ok(())
        };
        let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2";
        openssl(&format!("{new} -subj /CN=Company -keyout ca.key -out ca.pem"))?;
        openssl(&format!(
            "{new} -subj /CN=www.example -addext subjectAltName=DNS:www.example -CA ca.pem -CAkey ca.key \
             -keyout server.key -out server.pem"
        ))?;
        // It serves the files of its directory.
        fs::write(dir.join("who"), "internet\n")?;
        let script = "cd \"$0\" && exec openssl s_server -accept 4433 -cert server.pem -key server.key -WWW";
        let mut server = self.internet.command("sh");
        self._servers.push(Server::start(server.args(["-c", script]).arg(&dir))?);
        let ca = dir.join("ca.pem");
        let arguments = ["-s", "-m", "10", "--cacert"];
        until("the HTTPS server answers", || {
            let mut curl = self.machine.command("curl");
            let output = curl.args(arguments).arg(&ca).arg("https://www.example:4433/who").output()?;
            Ok(String::from_utf8_lossy(&output.stdout).contains("internet"))
        })?;
        Ok(ca)
    }

    /// Gives the host its default routes.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn connect(&self) -> Result<()> {
        self.machine.ip("route add default via 198.51.100.1")?;
        self.machine.ip("-6 route add default via 2001:db8:1::1")
    }

    /// Takes the host's default routes away.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn disconnect(&self) -> Result<()> {
        self.machine.ip("route del default")?;
        self.machine.ip("-6 route del default")
    }

    /// Returns the file that is the host's `/etc/resolv.conf`.
    fn resolvers(&self) -> PathBuf {
        self._dir.path().join("resolv.conf")
    }

    /// Takes IPv4 away from the host, and its resolver's IPv4 address.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn remove_ipv4(&self) -> Result<()> {
        self.machine.ip("-4 addr flush dev wan0")?;
        Ok(fs::write(self.resolvers(), "nameserver 2001:db8:2::53\nsearch example\n")?)
    }

    /// Returns the host's rules of nftables, which banger does not change.
    ///
    /// # Errors
    /// Returns an error if nft cannot list them.
    pub fn rules(&self) -> Result<String> {
        let output = self.machine.command("nft").args(["list", "ruleset"]).output()?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Hides a file of the host's: programs find an empty device in its place.
    ///
    /// # Errors
    /// Returns an error if it does not exist.
    pub fn hide(&self, path: &str) -> Result<()> {
        let status = self.machine.command("mount").args(["--bind", "/dev/null", path]).status()?;
        ensure!(status.success(), "cannot hide {path}");
        Ok(())
    }

    /// Gives the host a further address.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn add_address(&self, address: &str) -> Result<()> {
        self.machine.ip(&format!("addr add {address} dev wan0"))
    }

    /// Moves a host into this network, before its daemon starts.
    pub fn host(&self, host: Host) -> Host {
        host.in_namespaces_of(self.machine.pid())
    }
}
