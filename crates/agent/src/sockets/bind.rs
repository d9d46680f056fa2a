//! Listens on a socket in the guest.

use std::{
    ffi::OsStr,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown},
        net::UnixListener as StdUnixListener,
    },
    path::{Path, PathBuf},
    thread,
};

use banger_proto::{Endpoint, FailureKind};
use rustix::{
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, listen, socket_with},
    rand::{GetRandomFlags, getrandom},
};
use tokio::net::{TcpListener, UnixListener};

use super::{
    names::resolve,
    privileges::{drop_privileges, run_as_user},
};
use crate::{children::Children, failure::Failure, stream::Socket, users::User};

/// Maximum number of connections that wait in the kernel.
const BACKLOG: i32 = 128;

/// Directory of sockets that only one user can reach.
const PRIVATE: &str = "/run/banger";

/// A listening socket. Dropping it removes its files.
#[derive(Debug)]
pub(super) struct Bound {
    /// Its endpoint, with the port or path that was chosen.
    pub(super) at: Endpoint,
    listener: Listener,
    _cleanup: Cleanup,
}

#[derive(Debug)]
enum Listener {
    /// For both address families, if the guest has both.
    Tcp(TcpListener, Option<TcpListener>),
    Unix(UnixListener),
}

/// Files of a listener.
#[derive(Debug)]
enum Cleanup {
    None,
    /// A socket, removed with the rights of the user who created it.
    Socket(PathBuf, User),
    /// A directory that the agent created.
    Directory(PathBuf),
}

/// Listens at `at` as `user`; `None` is a private socket.
pub(super) async fn bind(at: Option<&Endpoint>, user: User, children: &Children) -> Result<Bound, Failure> {
    match at {
        Some(Endpoint::Tcp { host, port }) => {
            let (first, second) = families(host, children).await?;
            let action = format!("listen on {host}:{port}");
            let port = *port;
            let bound = run_as_user(&user, move || bind_tcp(first, second, port)).await;
            bound
                .and_then(|(first, second)| from_tcp_listeners(host, first, second))
                .map_err(Failure::io(action))
        }
        Some(Endpoint::Unix { path }) => {
            let path = PathBuf::from(OsStr::from_bytes(path));
            let (at, listener) = bind_unix(path.clone(), &user).await?;
            // Only now: a file that was in the way is not this listener's.
            Ok(Bound { at, listener, _cleanup: Cleanup::Socket(path, user) })
        }
        None => {
            let dir = private_dir(&user).map_err(Failure::io("create a directory for a socket"))?;
            let cleanup = Cleanup::Directory(dir.clone());
            let (at, listener) = bind_unix(dir.join("agent"), &user).await?;
            Ok(Bound { at, listener, _cleanup: cleanup })
        }
    }
}

/// Returns the address to listen at, and the matching one of the other family.
async fn families(host: &str, children: &Children) -> Result<(IpAddr, Option<IpAddr>), Failure> {
    match host {
        "" | "*" => Ok((Ipv4Addr::UNSPECIFIED.into(), Some(Ipv6Addr::UNSPECIFIED.into()))),
        "localhost" => Ok((Ipv4Addr::LOCALHOST.into(), Some(Ipv6Addr::LOCALHOST.into()))),
        host => {
            let address = resolve(host, children).await?.first().copied();
            let missing = || Failure::new(FailureKind::NotFound, format!("{host:?} has no address"));
            Ok((address.ok_or_else(missing)?, None))
        }
    }
}

fn bind_tcp(
    first: IpAddr,
    second: Option<IpAddr>,
    port: u16,
) -> io::Result<(StdTcpListener, Option<StdTcpListener>)> {
    let first = StdTcpListener::bind((first, port))?;
    let port = first.local_addr()?.port();
    // The guest may lack IPv6, or its IPv6 socket also accepts IPv4, where the port is already in use.
    let second = second.and_then(|address| StdTcpListener::bind((address, port)).ok());
    Ok((first, second))
}

fn from_tcp_listeners(
    host: &str,
    first: StdTcpListener,
    second: Option<StdTcpListener>,
) -> io::Result<Bound> {
    let tokio = |listener: StdTcpListener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let at = Endpoint::Tcp { host: host.to_owned(), port: first.local_addr()?.port() };
    let listener = Listener::Tcp(tokio(first)?, second.map(tokio).transpose()?);
    Ok(Bound { at, listener, _cleanup: Cleanup::None })
}

async fn bind_unix(path: PathBuf, user: &User) -> Result<(Endpoint, Listener), Failure> {
    let at = Endpoint::Unix { path: path.as_os_str().as_bytes().to_vec() };
    let action = format!("listen on {}", path.display());
    // Fails if the path exists.
    let bound = run_as_user(user, move || bind_unix_socket(&path)).await;
    let listener = bound.and_then(UnixListener::from_std).map_err(Failure::io(action))?;
    Ok((at, Listener::Unix(listener)))
}

fn bind_unix_socket(path: &Path) -> io::Result<StdUnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Its mode is set before any process can connect.
    let opened = fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .and_then(|()| Ok(listen(&socket, BACKLOG)?));
    if let Err(error) = opened {
        // The file may have been removed already.
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(socket.into())
}

/// Creates a directory that only `user` can enter.
fn private_dir(user: &User) -> io::Result<PathBuf> {
    fs::create_dir_all(PRIVATE)?;
    let mut random = [0; 8];
    getrandom(&mut random, GetRandomFlags::empty())?;
    let dir = Path::new(PRIVATE).join(format!("{:016x}", u64::from_be_bytes(random)));
    fs::DirBuilder::new().mode(0o700).create(&dir)?;
    chown(&dir, Some(user.uid), Some(user.gid))?;
    Ok(dir)
}

impl Bound {
    /// Accepts the next connection, and returns it with its peer's address.
    pub(super) async fn accept(&mut self) -> io::Result<(Socket, Option<SocketAddr>)> {
        let (socket, from) = match &self.listener {
            Listener::Unix(listener) => return Ok((Box::pin(listener.accept().await?.0), None)),
            Listener::Tcp(first, None) => first.accept().await?,
            Listener::Tcp(first, Some(second)) => tokio::select! {
                accepted = first.accept() => accepted?,
                accepted = second.accept() => accepted?,
            },
        };
        // Send typed characters without delay.
        let _ = socket.set_nodelay(true);
        Ok((Box::pin(socket), Some(from)))
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        match self {
            Self::None => {}
            Self::Directory(dir) => {
                // It may have been removed already.
                let _ = fs::remove_dir_all(dir);
            }
            Self::Socket(path, user) => {
                let (path, user) = (std::mem::take(path), user.clone());
                // It may have been removed or replaced already, or the user may no longer remove it.
                let remove = move || {
                    drop_privileges(&user)?;
                    let is_socket = fs::symlink_metadata(&path)?.file_type().is_socket();
                    if is_socket { fs::remove_file(path) } else { Ok(()) }
                };
                let _ = thread::Builder::new().spawn(remove);
            }
        }
    }
}
