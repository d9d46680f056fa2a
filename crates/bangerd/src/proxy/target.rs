//! The target of a request, from its `Host`.

use banger_api::VmName;

/// A port of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) vm: VmName,
    pub(super) port: u16,
}

/// A `Host` that names no port of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InvalidHost {
    /// It has another form than `PORT.VM.localhost`.
    Form,
    /// The port is not one.
    Port,
    /// The VM's name cannot be one.
    Name,
}

/// Parses `PORT.VM.localhost`, with the proxy's port `own_port` or without one.
pub(super) fn target(host: &str, own_port: u16) -> Result<Target, InvalidHost> {
    let host = host.strip_suffix(&format!(":{own_port}")).unwrap_or(host);
    let host = host.to_ascii_lowercase();
    let name = host.strip_suffix(".localhost").ok_or(InvalidHost::Form)?;
    let (port, vm) = name.split_once('.').ok_or(InvalidHost::Form)?;
    let plain = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| *port > 0 && plain).ok_or(InvalidHost::Port)?;
    Ok(Target { vm: vm.parse().map_err(|_| InvalidHost::Name)?, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_names_a_port_and_a_vm() {
        let expected = Target { vm: "box".parse().unwrap(), port: 3000 };
        for host in ["3000.box.localhost:7788", "3000.box.localhost", "3000.BOX.LocalHost:7788"] {
            assert_eq!(target(host, 7788), Ok(expected.clone()), "{host}");
        }
        use InvalidHost::{Form, Name, Port};
        for (host, error) in [
            ("", Form),
            ("localhost:7788", Form),
            ("127.0.0.1:7788", Form),
            ("box.localhost:7788", Form),
            ("3000.box.localhost:80", Form),
            ("3000.box.localhost.example.com", Form),
            ("3000.box.example.com", Form),
            ("3000.boxlocalhost", Form),
            ("0.box.localhost", Port),
            ("65536.box.localhost", Port),
            ("+80.box.localhost", Port),
            ("http.box.localhost", Port),
            (".box.localhost", Port),
            ("3000.a.box.localhost", Name),
            ("3000.b_x.localhost", Name),
            ("3000..localhost", Name),
            ("3000.<b>.localhost", Name),
        ] {
            assert_eq!(target(host, 7788), Err(error), "{host}");
        }
    }
}
