//! Applies a guest's identity: names, network, clock, time zone, locale, variables, authorized keys, certificates.
//! Applying the same message twice changes nothing the second time.

mod certificates;
pub(crate) mod files;
pub(crate) mod locale;
mod names;
mod network;
pub(crate) mod sshd;
mod timezone;
pub(crate) mod variables;

use std::{fs, io, path::Path, process::Command};

use banger_proto::Configure;
use rustix::{
    system::sethostname,
    time::{ClockId, Timespec, clock_settime},
};

use self::names::check_name;
use crate::{console::log, failure::Failure, oom::Unprotected};

/// Applies `request`.
pub(crate) fn configure(request: &Configure) -> Result<(), Failure> {
    if let Some(nanoseconds) = request.clock_ns {
        let (tv_sec, tv_nsec) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
        let time = Timespec { tv_sec: tv_sec.cast_signed(), tv_nsec: tv_nsec.cast_signed() };
        clock_settime(ClockId::Realtime, time).map_err(|error| Failure::io("set the clock")(error.into()))?;
    }
    if let Some(name) = &request.hostname {
        check_name(name)?;
        sethostname(name.as_bytes()).map_err(|error| Failure::io("set the host name")(error.into()))?;
        files::replace("/etc/hostname", &format!("{name}\n")).map_err(Failure::io("write /etc/hostname"))?;
    }
    for name in request.hosts.values().flatten() {
        check_name(name)?;
    }
    let old = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let hosts = files::hosts(&old, request.hostname.as_deref(), &request.hosts);
    files::replace("/etc/hosts", &hosts).map_err(Failure::io("write /etc/hosts"))?;
    network::apply(request.network.as_ref())?;
    if let Some(lines) = request.network.as_ref().and_then(network::resolver) {
        files::replace("/etc/resolv.conf", &lines).map_err(Failure::io("write /etc/resolv.conf"))?;
    }
    if let Some(name) = &request.timezone {
        timezone::set(Path::new("/"), name).map_err(Failure::io("set the time zone"))?;
    }
    // The guest is usable without these, so failures are only logged.
    if let Err(error) = sshd::authorize(Path::new("/"), &request.authorized_keys) {
        log(&format!("cannot add banger's key to root's authorized_keys: {error}"));
    }
    if let Some(certificates) = &request.certificates
        && let Err(error) = certificates::set(Path::new("/"), certificates).and_then(run_in_background)
    {
        log(&format!("cannot install the certificates: {error}"));
    }
    if let Some(path) = variables::by_name(&request.env).get("PATH")
        && let Err(error) = variables::write_path_profile(Path::new("/"), path)
    {
        log(&format!("cannot set the image's PATH for login shells: {error}"));
    }
    if let Some(name) = &request.locale
        && let Err(error) = locale::set(Path::new("/"), name)
    {
        log(&format!("cannot set the locale: {error}"));
    }
    Ok(())
}

/// Starts a program whose end nothing waits for. The server reaps it.
fn run_in_background(command: Option<Command>) -> io::Result<()> {
    let _unprotected = Unprotected::new();
    command.map_or(Ok(()), |mut command| command.spawn().map(drop))
}
