//! Listening on a socket in the guest.

use std::{
    ffi::OsStr,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, PermissionsExt, chown},
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
    names::addresses,
    rights::{give_up_rights, with_rights_of},
};
use crate::{children::Children, failure::Failure, stream::Socket, users::User};

/// Callers that may wait in the kernel.
const BACKLOG: i32 = 128;

/// Where sockets are that are nobody's but one user's.
const PRIVATE: &str = "/run/banger";

/// A socket that listens. What it has put into the file system goes with it.
#[derive(Debug)]
pub(super) struct Bound {
    /// Where, with what was chosen.
    pub(super) at: Endpoint,
    listener: Listener,
    _left: Left,
}

#[derive(Debug)]
enum Listener {
    /// Of both families, where there are both.
    Tcp(TcpListener, Option<TcpListener>),
    Unix(UnixListener),
}

/// What is in the file system.
#[derive(Debug)]
enum Left {
    Nothing,
    /// A socket somewhere, removed as the user who made it.
    Socket(PathBuf, User),
    /// A folder of our own.
    Folder(PathBuf),
}

/// Listens at `at` as `user`.
pub(super) async fn bind(at: Option<&Endpoint>, user: User, children: &Children) -> Result<Bound, Failure> {
    match at {
        Some(Endpoint::Tcp { host, port }) => {
            let (first, second) = families(host, children).await?;
            let what = format!("listen at {host}:{port}");
            let port = *port;
            let bound = with_rights_of(&user, move || bind_tcp(first, second, port)).await;
            bound.and_then(|(first, second)| of_tcp(host, first, second)).map_err(Failure::io(what))
        }
        Some(Endpoint::Unix { path }) => {
            let path = PathBuf::from(OsStr::from_bytes(path));
            bind_unix(path.clone(), &user, Left::Socket(path, user.clone())).await
        }
        None => {
            let folder = private_folder(&user).map_err(Failure::io("make a folder for a socket"))?;
            bind_unix(folder.join("agent"), &user, Left::Folder(folder)).await
        }
    }
}

/// The address to listen at, and one of the other family that goes with it.
async fn families(host: &str, children: &Children) -> Result<(IpAddr, Option<IpAddr>), Failure> {
    match host {
        "" | "*" => Ok((Ipv4Addr::UNSPECIFIED.into(), Some(Ipv6Addr::UNSPECIFIED.into()))),
        "localhost" => Ok((Ipv4Addr::LOCALHOST.into(), Some(Ipv6Addr::LOCALHOST.into()))),
        host => {
            let address = addresses(host, children).await?.first().copied();
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
    // A guest need not have IPv6; and its socket may take IPv4 in too, where that is taken already.
    let second = second.and_then(|address| StdTcpListener::bind((address, port)).ok());
    Ok((first, second))
}

fn of_tcp(host: &str, first: StdTcpListener, second: Option<StdTcpListener>) -> io::Result<Bound> {
    let tokio = |listener: StdTcpListener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let at = Endpoint::Tcp { host: host.to_owned(), port: first.local_addr()?.port() };
    let listener = Listener::Tcp(tokio(first)?, second.map(tokio).transpose()?);
    Ok(Bound { at, listener, _left: Left::Nothing })
}

async fn bind_unix(path: PathBuf, user: &User, left: Left) -> Result<Bound, Failure> {
    let at = Endpoint::Unix { path: path.as_os_str().as_bytes().to_vec() };
    let what = format!("listen at {}", path.display());
    // What was there already stays.
    let bound = with_rights_of(user, move || bind_unix_here(&path)).await;
    let listener = bound.and_then(UnixListener::from_std).map_err(Failure::io(what))?;
    Ok(Bound { at, listener: Listener::Unix(listener), _left: left })
}

fn bind_unix_here(path: &Path) -> io::Result<StdUnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Before anybody can connect.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// A new folder that only `user` can enter.
fn private_folder(user: &User) -> io::Result<PathBuf> {
    fs::create_dir_all(PRIVATE)?;
    let mut random = [0; 8];
    getrandom(&mut random, GetRandomFlags::empty())?;
    let folder = Path::new(PRIVATE).join(format!("{:016x}", u64::from_be_bytes(random)));
    fs::DirBuilder::new().mode(0o700).create(&folder)?;
    chown(&folder, Some(user.uid), Some(user.gid))?;
    Ok(folder)
}

impl Bound {
    /// The next who calls, and where from.
    pub(super) async fn accept(&mut self) -> io::Result<(Socket, Option<SocketAddr>)> {
        let (socket, from) = match &self.listener {
            Listener::Unix(listener) => return Ok((Box::pin(listener.accept().await?.0), None)),
            Listener::Tcp(first, None) => first.accept().await?,
            Listener::Tcp(first, Some(second)) => tokio::select! {
                accepted = first.accept() => accepted?,
                accepted = second.accept() => accepted?,
            },
        };
        // What is typed is not to wait for more of it.
        let _ = socket.set_nodelay(true);
        Ok((Box::pin(socket), Some(from)))
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        match self {
            Self::Nothing => {}
            Self::Folder(folder) => {
                // It may be gone.
                let _ = fs::remove_dir_all(folder);
            }
            Self::Socket(path, user) => {
                let (path, user) = (std::mem::take(path), user.clone());
                // It may be gone, or not be the user's to remove any more.
                let remove = move || give_up_rights(&user).and_then(|()| fs::remove_file(path));
                let _ = thread::Builder::new().spawn(remove);
            }
        }
    }
}
