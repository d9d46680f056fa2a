//! Firecracker: a configuration file for the start, and its HTTP API afterwards.
//!
//! The configuration file contains the whole VM, so that a start needs no round trips. Its format is that of
//! Firecracker's `firecracker.yaml`, versions 1.8 to 1.17.

mod client;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{
    Accel, BoxFuture, Control, GuestChannel, LaunchPlan, ProcessSpec, Role, VmSpec, Vmm, VmmError, VmmKind,
    confinement,
};

/// The installed Firecracker.
#[derive(Debug, Clone)]
pub(crate) struct Firecracker {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Config<'a> {
    boot_source: BootSource<'a>,
    drives: Vec<Drive<'a>>,
    machine_config: MachineConfig,
    vsock: Vsock<'a>,
    entropy: Entropy,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    network_interfaces: Vec<NetworkInterface<'a>>,
}

#[derive(Serialize)]
struct BootSource<'a> {
    kernel_image_path: &'a Path,
    initrd_path: &'a Path,
    boot_args: String,
}

#[derive(Serialize)]
struct Drive<'a> {
    drive_id: String,
    path_on_host: &'a Path,
    is_root_device: bool,
    is_read_only: bool,
    cache_type: &'static str,
}

#[derive(Serialize)]
struct MachineConfig {
    vcpu_count: u32,
    mem_size_mib: u64,
}

#[derive(Serialize)]
struct Vsock<'a> {
    guest_cid: u32,
    uds_path: &'a Path,
}

#[derive(Serialize)]
struct Entropy {}

#[derive(Serialize)]
struct NetworkInterface<'a> {
    iface_id: &'static str,
    host_dev_name: &'a str,
    guest_mac: String,
}

/// Returns the configuration file for `spec`.
fn render(spec: &VmSpec, vsock: &Path) -> Result<Vec<u8>, VmmError> {
    let drives = spec.disks.iter().enumerate().map(|(number, disk)| Drive {
        drive_id: format!("disk{number}"),
        path_on_host: disk.vmm_path(),
        // The boot initrd mounts the root, so Firecracker does not need to put it on the kernel command line.
        is_root_device: false,
        is_read_only: disk.read_only,
        // Data that the guest has synced is on the host's disk. Firecracker's default acknowledges a sync earlier.
        cache_type: if disk.read_only { "Unsafe" } else { "Writeback" },
    });
    let interfaces = spec.network.iter().map(|tap| NetworkInterface {
        iface_id: "eth0",
        host_dev_name: &tap.name,
        guest_mac: tap.mac_text(),
    });
    let config = Config {
        boot_source: BootSource {
            kernel_image_path: &spec.kernel,
            initrd_path: &spec.initrd,
            // There is no PCI bus to probe.
            boot_args: format!("{} pci=off", spec.cmdline),
        },
        drives: drives.collect(),
        machine_config: MachineConfig { vcpu_count: spec.vcpu, mem_size_mib: spec.memory_mib },
        vsock: Vsock { guest_cid: spec.vsock_cid, uds_path: vsock },
        entropy: Entropy {},
        network_interfaces: interfaces.collect(),
    };
    Ok(serde_json::to_vec_pretty(&config)?)
}

impl Vmm for Firecracker {
    fn kind(&self) -> VmmKind {
        VmmKind::Firecracker
    }

    fn accel(&self) -> Accel {
        Accel::Kvm
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn plan(&self, spec: &VmSpec) -> Result<LaunchPlan, VmmError> {
        // Relative to the VM's directory, in which it runs: a copy of a running VM runs in another one.
        let [config, control, vsock] = ["firecracker.json", "api.sock", "vsock.sock"].map(Path::new);
        let arguments: [&std::ffi::OsStr; 10] = [
            "--id".as_ref(),
            spec.id.as_ref(),
            "--api-sock".as_ref(),
            control.as_os_str(),
            "--config-file".as_ref(),
            config.as_os_str(),
            // Standard output carries only the guest's console.
            "--log-path".as_ref(),
            "/proc/self/fd/2".as_ref(),
            "--level".as_ref(),
            "Warn".as_ref(),
        ];
        let vmm = ProcessSpec {
            role: Role::Vmm,
            program: self.program.clone(),
            args: arguments.map(Into::into).to_vec(),
            sockets: Vec::new(),
            ready: None,
            confinement: confinement::firecracker(spec),
            in_network: true,
        };
        Ok(LaunchPlan {
            files: vec![(spec.run_dir.join(config), render(spec, vsock)?)],
            links: spec.links(),
            processes: vec![vmm],
            control: spec.run_dir.join(control),
            guest: GuestChannel::Hybrid(spec.run_dir.join(vsock)),
            ready_port: spec.ready_port,
        })
    }
}

/// Firecracker's HTTP API.
#[derive(Debug)]
pub(crate) struct Api;

impl Control for Api {
    fn ping<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>> {
        Box::pin(client::request(control, "GET", "/", None))
    }

    fn pause<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>> {
        Box::pin(client::request(control, "PATCH", "/vm", Some(r#"{"state":"Paused"}"#)))
    }

    fn resume<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>> {
        Box::pin(client::request(control, "PATCH", "/vm", Some(r#"{"state":"Resumed"}"#)))
    }

    fn ctrl_alt_del<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>> {
        Box::pin(client::request(control, "PUT", "/actions", Some(r#"{"action_type":"SendCtrlAltDel"}"#)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::spec_for_test;

    #[test]
    fn the_configuration_file_contains_the_whole_vm() {
        let firecracker = Firecracker { program: "/usr/bin/firecracker".into(), version: "1.12.1".into() };
        let plan = firecracker.plan(&spec_for_test()).unwrap();
        insta::assert_snapshot!(String::from_utf8(plan.files[0].1.clone()).unwrap());
        insta::assert_debug_snapshot!(plan.processes);
    }
}
