//! A real registry on the loopback, images for it made by real tools, and a proxy before it that can be told to fail.

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

/// Debian's `docker-registry`, with its images in a folder of its own.
#[derive(Debug)]
pub struct Registry {
    program: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Registry {
    /// Starts one, on a free port; with `users`, a file as `htpasswd -B` makes it, only for them.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start(users: Option<&Path>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let users =
            users.map(|path| format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", path.display()));
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n{}",
            folder.path().display(),
            users.unwrap_or_default()
        );
        let path = folder.path().join("config.yml");
        fs::write(&path, config)?;
        let mut program = Command::new("docker-registry")
            .arg("serve")
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("docker-registry")?;
        let stderr = program.stderr.take().context("stderr")?;
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let told = lines.find_map(|line| {
            let address = line.split("listening on ").nth(1)?;
            address
                .chars()
                .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
                .collect::<String>()
                .parse()
                .ok()
        });
        // Or it would wait, once the pipe is full.
        thread::spawn(move || lines.for_each(drop));
        let address = told.context("docker-registry has not said where it listens")?;
        Ok(Self { program, address, _folder: folder })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pushes `image`, as skopeo names one (`oci:FOLDER:TAG`), as `name`; `more` goes to skopeo.
    ///
    /// # Errors
    /// When skopeo fails.
    pub fn push(&self, image: &str, name: &str, more: &[&str]) -> Result<()> {
        let to = format!("docker://{}/{name}", self.address);
        let skopeo = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        run(Command::new("skopeo").args(skopeo).args(more).args([image, &to]))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Runs a tool that must succeed.
///
/// # Errors
/// When it does not, with what it said.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// An OCI layout made by `umoci`, with one image, tagged `x`, of `layers`, each a tar; `config` goes to `umoci config`.
///
/// # Errors
/// When umoci fails.
pub fn layout(folder: &Path, layers: &[PathBuf], config: &[&str]) -> Result<String> {
    let umoci = |args: &[&str]| run(Command::new("umoci").args(args));
    let layout = folder.display().to_string();
    let image = format!("{layout}:x");
    umoci(&["init", "--layout", &layout])?;
    umoci(&["new", "--image", &image])?;
    for layer in layers {
        umoci(&["raw", "add-layer", "--image", &image, &layer.display().to_string()])?;
    }
    umoci(&[&["config", "--image", &image], config].concat())?;
    Ok(format!("oci:{image}"))
}

/// What a proxy does with the bytes that come from behind it.
#[derive(Debug, Clone, Copy)]
pub enum Manners {
    /// Passes all of them on.
    Good,
    /// Breaks each connection after some of them: at most so many, by chance.
    Breaking(u64),
    /// Passes so many on, on all connections together, and then none until it is told to be good.
    Holding(u64),
}

/// A proxy before a registry.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    passed: AtomicU64,
    manners: Mutex<Manners>,
    changed: Condvar,
}

impl State {
    fn manners(&self) -> Manners {
        *self.manners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Starts one before `registry`.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn start(registry: SocketAddr, manners: Manners) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let state =
            State { passed: AtomicU64::new(0), manners: Mutex::new(manners), changed: Condvar::new() };
        let state = Arc::new(state);
        let shared = state.clone();
        thread::spawn(move || {
            for (number, caller) in (1..).zip(listener.incoming().map_while(Result::ok)) {
                let state = shared.clone();
                // A connection that breaks is what this is for.
                thread::spawn(move || drop(serve(&caller, registry, &state, number)));
            }
        });
        Ok(Self { address, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has it behave otherwise from now on.
    pub fn behave(&self, manners: Manners) {
        *self.state.manners.lock().unwrap_or_else(PoisonError::into_inner) = manners;
        self.state.changed.notify_all();
    }

    /// Bytes it has passed on from the registry so far.
    pub fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::SeqCst)
    }

    /// Waits until it has passed on `bytes`.
    pub fn wait_for(&self, bytes: u64) {
        let manners = self.state.manners.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.state.changed.wait_while(manners, |_| self.passed() < bytes);
        drop(wait);
    }
}

fn serve(caller: &TcpStream, registry: SocketAddr, state: &State, number: u64) -> std::io::Result<()> {
    let server = TcpStream::connect(registry)?;
    let (mut from, mut to) = (caller.try_clone()?, server.try_clone()?);
    thread::spawn(move || std::io::copy(&mut from, &mut to).and_then(|_| to.shutdown(Shutdown::Write)));
    let (mut server, mut caller) = (&server, caller);
    let mut buffer = [0; 16 << 10];
    // Any numbers do that are not the same from connection to connection: Knuth's multiplicative hash.
    let chance = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    let mut of_connection = 0;
    loop {
        let read = server.read(&mut buffer)?;
        of_connection += read as u64;
        let broken = matches!(state.manners(), Manners::Breaking(most) if of_connection > chance % most);
        if read == 0 || broken {
            return caller.shutdown(Shutdown::Both);
        }
        let held = |manners: &mut Manners| matches!(manners, Manners::Holding(most) if state.passed.load(Ordering::SeqCst) >= *most);
        let manners = state.manners.lock().unwrap_or_else(PoisonError::into_inner);
        drop(state.changed.wait_while(manners, held));
        caller.write_all(&buffer[..read])?;
        state.passed.fetch_add(read as u64, Ordering::SeqCst);
        state.changed.notify_all();
    }
}
