//! The event loop.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    io::Errno,
};
use vhost::vhost_user::{BackendReqHandler, Error as VhostUserError};

use crate::{
    Error, log,
    muxer::{Muxer, Ready},
    vhost_user::VhostUser,
};

/// The epoll tokens. Connections have those from `CONNECTIONS` on.
const QEMU: u64 = 0;
const LISTENER: u64 = 1;
const KICKS: [u64; 2] = [2, 3];
const CONNECTIONS: u64 = 4;

/// Maximum number of events that one wait returns.
const MAX_EVENTS: usize = 64;

/// A device's sockets and its guest.
#[derive(Debug, Clone)]
pub struct Config {
    /// The guest's context id.
    pub guest_cid: u32,
    /// The socket that QEMU connects to.
    pub vhost_socket: PathBuf,
    /// The socket that host programs connect to.
    pub host_socket: PathBuf,
    /// The port that the guest may connect to, once. Someone listens at `<host_socket>_<port>`.
    pub ready_port: Option<u32>,
}

/// A vsock device whose sockets exist.
#[derive(Debug)]
pub struct Device {
    config: Config,
    qemu: UnixListener,
    host: UnixListener,
    ready: Option<Ready>,
}

impl Device {
    /// Creates the two sockets, the one for QEMU last, and opens the guest's connection. From then on, the device
    /// opens nothing.
    ///
    /// # Errors
    /// Returns an error if a socket cannot be created, or nothing listens for the guest's connection.
    pub fn bind(config: Config) -> Result<Self, Error> {
        let ready = config.ready_port.map(|port| Ready::open(&config.host_socket, port)).transpose()?;
        let host = bind(&config.host_socket)?;
        let nonblocking = host.set_nonblocking(true);
        nonblocking.map_err(|source| Error::Socket { path: config.host_socket.clone(), source })?;
        let qemu = bind(&config.vhost_socket)?;
        Ok(Self { config, qemu, host, ready })
    }

    /// Waits for QEMU, and serves its guest until QEMU disconnects. Then all connections are closed.
    ///
    /// # Errors
    /// Returns an error if the operating system fails. QEMU, the guest and host programs cannot cause an error.
    pub fn serve(&mut self) -> Result<(), Error> {
        let (qemu, _) = self.qemu.accept().map_err(Error::Accept)?;
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).map_err(wait_failed)?);
        let watch = |fd: &dyn std::os::fd::AsFd, token, flags| {
            epoll::add(&*epoll, fd, epoll::EventData::new_u64(token), flags).map_err(wait_failed)
        };
        watch(&qemu, QEMU, epoll::EventFlags::IN)?;
        watch(&self.host, LISTENER, epoll::EventFlags::IN | epoll::EventFlags::ET)?;

        let guest_cid = self.config.guest_cid;
        let host = self.host.try_clone().map_err(Error::Wait)?;
        let muxer = Muxer::new(guest_cid, host, self.ready.take(), Arc::clone(&epoll), CONNECTIONS);
        let vhost_user = Arc::new(Mutex::new(VhostUser::new(guest_cid, Arc::clone(&epoll), KICKS)));
        run(&epoll, qemu, muxer, &vhost_user)
    }
}

fn run(
    epoll: &OwnedFd,
    qemu: UnixStream,
    mut muxer: Muxer,
    vhost_user: &Arc<Mutex<VhostUser>>,
) -> Result<(), Error> {
    let mut requests = BackendReqHandler::from_stream(qemu, Arc::clone(vhost_user));
    let mut events = Vec::with_capacity(MAX_EVENTS);
    let mut more = false;
    loop {
        let no_wait = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(epoll, spare_capacity(&mut events), more.then_some(&no_wait)) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(wait_failed(error)),
        }
        for event in events.drain(..) {
            match event.data.u64() {
                QEMU => match requests.handle_request() {
                    Ok(()) => {}
                    Err(
                        VhostUserError::Disconnected
                        | VhostUserError::PartialMessage
                        | VhostUserError::SocketBroken(_),
                    ) => return Ok(()),
                    Err(error) => log(format_args!("cannot handle a request from QEMU: {error}")),
                },
                LISTENER => muxer.listener_event(),
                // The rings are processed after any event.
                token if KICKS.contains(&token) => {}
                id => {
                    let flags = event.flags;
                    muxer.stream_event(id, flags.contains(epoll::EventFlags::HUP));
                }
            }
        }
        // Only this thread locks it.
        more = muxer.process(&mut vhost_user.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn wait_failed(error: Errno) -> Error {
    Error::Wait(error.into())
}

/// Creates a socket that accepts connections as soon as its path exists.
fn bind(path: &Path) -> Result<UnixListener, Error> {
    // A short name, because a socket's path has at most 107 bytes.
    let temporary = path.with_file_name(".s");
    let bound = match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(&temporary),
    };
    let bound = bound.and_then(|listener| fs::rename(&temporary, path).map(|()| listener));
    bound.map_err(|source| Error::Socket { path: path.to_owned(), source })
}
