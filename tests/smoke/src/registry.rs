//! A real registry on the loopback interface, tools to fill it, and a proxy that can break connections.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// Debian's `docker-registry`, with its images in a temporary directory. Dropping it kills the process.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Registry {
    /// Starts a registry on a free port. With `users`, a file from `htpasswd -B`, it requires a login.
    ///
    /// # Errors
    /// Returns an error if it is not installed or does not start.
    pub fn start(users: Option<&Path>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let users =
            users.map(|path| format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", path.display()));
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n{}",
            dir.path().display(),
            users.unwrap_or_default()
        );
        let path = dir.path().join("config.yml");
        fs::write(&path, config)?;
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("docker-registry")?;
        let stderr = process.stderr.take().context("stderr")?;
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let printed = lines.find_map(|line| {
            let address = line.split("listening on ").nth(1)?;
            address
                .chars()
                .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
                .collect::<String>()
                .parse()
                .ok()
        });
        // The registry would block when the pipe is full.
        thread::spawn(move || lines.for_each(drop));
        let address = printed.context("docker-registry did not print its address")?;
        Ok(Self { process, address, _dir: dir })
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pushes `image`, a skopeo name such as `oci:DIRECTORY:TAG`, as `name`. `options` are additional arguments of
    /// skopeo.
    ///
    /// # Errors
    /// Returns an error if skopeo fails.
    pub fn push(&self, image: &str, name: &str, options: &[&str]) -> Result<()> {
        let to = format!("docker://{}/{name}", self.address);
        let skopeo = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        run(Command::new("skopeo").args(skopeo).args(options).args([image, &to]))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a tool that must succeed.
///
/// # Errors
/// Returns an error with its standard error if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Creates an OCI layout with an image of these tars, tagged `x`, and returns its skopeo name. `config` are arguments
/// of `umoci config`.
///
/// # Errors
/// Returns an error if umoci fails.
pub fn layout(dir: &Path, layers: &[PathBuf], config: &[&str]) -> Result<String> {
    let umoci = |args: &[&str]| run(Command::new("umoci").args(args));
    let layout = dir.display().to_string();
    let image = format!("{layout}:x");
    umoci(&["init", "--layout", &layout])?;
    umoci(&["new", "--image", &image])?;
    for layer in layers {
        umoci(&["raw", "add-layer", "--image", &image, &layer.display().to_string()])?;
    }
    umoci(&[&["config", "--image", &image], config].concat())?;
    Ok(format!("oci:{image}"))
}

/// How a proxy forwards the registry's bytes.
#[derive(Debug, Clone, Copy)]
pub enum Forwarding {
    /// Forwards all bytes.
    All,
    /// Breaks each connection after a pseudo-random number of bytes below this limit.
    BreakAfter(u64),
    /// Forwards this many bytes on all connections together, then blocks until [`Proxy::set_forwarding`] is called.
    BlockAfter(u64),
}

/// A proxy in front of a registry.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    forwarded: AtomicU64,
    forwarding: Mutex<Forwarding>,
    changed: Condvar,
}

impl State {
    fn forwarding(&self) -> Forwarding {
        *self.forwarding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Starts a proxy in front of `registry`.
    ///
    /// # Errors
    /// Returns an error if it cannot listen on a socket.
    pub fn start(registry: SocketAddr, forwarding: Forwarding) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let state = State {
            forwarded: AtomicU64::new(0),
            forwarding: Mutex::new(forwarding),
            changed: Condvar::new(),
        };
        let state = Arc::new(state);
        let shared = state.clone();
        thread::spawn(move || {
            for (number, client) in (1..).zip(listener.incoming().map_while(Result::ok)) {
                let state = shared.clone();
                // Broken connections are expected here.
                thread::spawn(move || drop(serve(&client, registry, &state, number)));
            }
        });
        Ok(Self { address, state })
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how it forwards bytes from now on.
    pub fn set_forwarding(&self, forwarding: Forwarding) {
        *self.state.forwarding.lock().unwrap_or_else(PoisonError::into_inner) = forwarding;
        self.state.changed.notify_all();
    }

    /// Returns the number of bytes forwarded from the registry so far.
    pub fn forwarded(&self) -> u64 {
        self.state.forwarded.load(Ordering::SeqCst)
    }

    /// Waits until it has forwarded `bytes`.
    pub fn wait_for(&self, bytes: u64) {
        let forwarding = self.state.forwarding.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.state.changed.wait_while(forwarding, |_| self.forwarded() < bytes);
        drop(wait);
    }
}

fn serve(client: &TcpStream, registry: SocketAddr, state: &State, number: u64) -> std::io::Result<()> {
    let server = TcpStream::connect(registry)?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || std::io::copy(&mut from, &mut to).and_then(|_| to.shutdown(Shutdown::Write)));
    let (mut server, mut client) = (&server, client);
    let mut buffer = [0; 16 << 10];
    // Any numbers work that differ between connections: Knuth's multiplicative hash.
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    let mut connection_bytes = 0;
    loop {
        let read = server.read(&mut buffer)?;
        connection_bytes += read as u64;
        let is_broken =
            matches!(state.forwarding(), Forwarding::BreakAfter(limit) if connection_bytes > hash % limit);
        if read == 0 || is_broken {
            return client.shutdown(Shutdown::Both);
        }
        let is_blocked = |forwarding: &mut Forwarding| {
            let forwarded = state.forwarded.load(Ordering::SeqCst);
            matches!(forwarding, Forwarding::BlockAfter(limit) if forwarded >= *limit)
        };
        let forwarding = state.forwarding.lock().unwrap_or_else(PoisonError::into_inner);
        drop(state.changed.wait_while(forwarding, is_blocked));
        client.write_all(&buffer[..read])?;
        state.forwarded.fetch_add(read as u64, Ordering::SeqCst);
        state.changed.notify_all();
    }
}
