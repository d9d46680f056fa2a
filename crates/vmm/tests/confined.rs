//! Starts real VMMs as their plans say, confined, as each user that this process can be.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests

use std::{
    fs,
    io::{self, Write},
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use banger_sys::confine::{LANDLOCK_TCP, Support, confine};
use banger_vmm::{
    Disk, KvmProbe, KvmSource, KvmVerdict, LaunchPlan, ProcessSpec, VmSpec, VmmKind, VmmSearch, choose,
    control, discover,
};
use banger_vsock_device::{Config, Device};
use tokio::time::timeout;

/// Time after which a VMM counts as hung.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A user without rights.
const OTHER_USER: u32 = 65534;

/// Directories of a VM, which every user can use.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["run", "programs"] {
            fs::create_dir(host.path(name)).unwrap();
        }
        for name in ["image", "work", "kernel", "initrd", "secret"] {
            fs::File::create(host.path(name)).unwrap().set_len(1 << 20).unwrap();
            host.share(name, 0o666);
        }
        // Served by a thread of this process.
        fs::write(host.path("programs/banger-vsock-device"), "").unwrap();
        host.share("programs/banger-vsock-device", 0o755);
        for name in ["", "run", "programs"] {
            host.share(name, 0o777);
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn share(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Returns the plan of a VM, in QEMU without KVM. Returns `None` if the VMM is not installed.
    async fn plan(&self, vmm: VmmKind) -> Option<LaunchPlan> {
        let kvm = if vmm == VmmKind::Firecracker { KvmVerdict::Usable } else { KvmVerdict::Broken };
        let search = VmmSearch {
            directories: vec![self.path("programs")],
            use_path: true,
            kvm: KvmSource::Fixed(KvmProbe::new(kvm, "a test")),
        };
        let (vmm, _) = match choose(Some(vmm), &discover(&search).await) {
            Ok(chosen) => chosen,
            Err(error) => {
                let text = format!("SKIPPED: {error}\n");
                io::stderr().write_all(text.as_bytes()).unwrap();
                return None;
            }
        };
        let spec = VmSpec {
            id: "00000000000000ab".to_owned(),
            vcpu: 1,
            memory_mib: 64,
            kernel: self.path("kernel"),
            initrd: self.path("initrd"),
            cmdline: String::new(),
            disks: vec![
                Disk { path: self.path("image"), read_only: true },
                Disk { path: self.path("work"), read_only: false },
            ],
            largest_file: 64 << 20,
            vsock_cid: 3,
            ready_port: 1025,
            network: None,
            run_dir: self.path("run"),
        };
        let plan = vmm.plan(&spec).unwrap();
        for (link, target) in &plan.links {
            symlink(target, link).unwrap();
        }
        Some(plan)
    }

    /// Serves the plan's vsock device for one QEMU.
    fn serve_device(&self) {
        let config = Config {
            guest_cid: 3,
            vhost_socket: self.path("run/vhost.sock"),
            host_socket: self.path("run/vsock.sock"),
            ready_port: None,
        };
        let mut device = Device::bind(config).unwrap();
        thread::spawn(move || device.serve().unwrap());
    }

    /// Removes the sockets, for the next QEMU.
    fn clear(&self) {
        for entry in fs::read_dir(self.path("run")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}

/// Returns QEMU's process. It boots its firmware, not the plan's kernel, which is empty.
fn qemu(plan: &LaunchPlan) -> ProcessSpec {
    let mut qemu = plan.processes.last().unwrap().clone();
    for option in ["-kernel", "-initrd", "-append"] {
        let at = qemu.args.iter().position(|arg| arg == option).unwrap();
        qemu.args.drain(at..at + 2);
        qemu.sockets.iter_mut().filter(|socket| socket.argument > at).for_each(|socket| socket.argument -= 2);
    }
    qemu
}

fn users() -> Vec<Option<u32>> {
    if rustix::process::geteuid().is_root() { vec![None, Some(OTHER_USER)] } else { vec![None] }
}

fn command(host: &Host, process: &ProcessSpec, user: Option<u32>, replacement: Option<&[&str]>) -> Command {
    let (args, descriptors) = process.open_sockets().unwrap();
    let mut command = match replacement {
        None => {
            let mut command = Command::new(&process.program);
            command.args(args);
            command
        }
        Some(words) => {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]);
            command
        }
    };
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command
        .env_clear()
        .current_dir(host.path("run"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    confine(&mut command, &process.confinement, descriptors).unwrap();
    command
}

#[tokio::test]
async fn a_confined_qemu_runs_with_all_its_devices() {
    let host = Host::new();
    for user in users() {
        let Some(plan) = host.plan(VmmKind::Qemu).await else { return };
        host.serve_device();
        // QEMU opens its console by name, and a pipe of this process belongs to this process's user.
        let mut command = command(&host, &qemu(&plan), user, None);
        let mut running = command.stdout(Stdio::null()).spawn().unwrap();
        let answer = control(VmmKind::Qemu).ping(&plan.control).await;
        let status = fs::read_to_string(format!("/proc/{}/status", running.id())).unwrap();
        running.kill().unwrap();
        let output = running.wait_with_output().unwrap();
        answer.unwrap_or_else(|error| panic!("{user:?}: {error}: {output:?}"));
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"] {
            assert!(status.contains(line), "{user:?}: no {line} in {status}");
        }
        host.clear();
    }
}

/// Firecracker needs KVM only when it starts a guest, which this one does not.
#[tokio::test]
async fn a_confined_firecracker_answers_and_has_its_own_filters() {
    let host = Host::new();
    for user in users() {
        let Some(plan) = host.plan(VmmKind::Firecracker).await else { return };
        let mut firecracker = plan.processes.last().unwrap().clone();
        let at = firecracker.args.iter().position(|arg| arg == "--config-file").unwrap();
        firecracker.args.drain(at..at + 2);
        // It opens its log by name, as QEMU its console.
        let mut command = command(&host, &firecracker, user, None);
        let mut running = command.stderr(Stdio::null()).spawn().unwrap();
        // Until it listens.
        let answered = async {
            while control(VmmKind::Firecracker).ping(&plan.control).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        let answer = timeout(TIMEOUT, answered).await;
        let threads = fs::read_dir(format!("/proc/{}/task", running.id())).unwrap();
        let statuses =
            threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap());
        let statuses: Vec<_> = statuses.collect();
        running.kill().unwrap();
        let output = running.wait_with_output().unwrap();
        answer.unwrap_or_else(|error| panic!("{user:?}: {error}: {output:?}"));
        assert!(statuses.iter().all(|status| status.contains("NoNewPrivs:\t1")), "{statuses:?}");
        assert!(statuses.iter().all(|status| status.contains("CapEff:\t0000000000000000")), "{statuses:?}");
        assert!(statuses.iter().any(|status| status.contains("Seccomp:\t2")), "{statuses:?}");
        host.clear();
    }
}

/// What a guest would do that has taken QEMU over.
#[tokio::test]
async fn a_program_with_the_rights_of_qemu_reaches_only_its_vm() {
    let support = Support::of_kernel();
    if !support.has_landlock(LANDLOCK_TCP) {
        let text = format!("SKIPPED: {support:?}\n");
        io::stderr().write_all(text.as_bytes()).unwrap();
        return;
    }
    let host = Host::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let path = |name: &str| host.path(name).display().to_string();
    let attempt = |what: &str, step: String| format!("{{ {step}; }} 2>/dev/null && echo {what}; ");
    let script = [
        attempt("work", format!("echo x >> {}", path("work"))),
        attempt("image", format!("echo x >> {}", path("image"))),
        attempt("secret", format!("read -N 1 x < {}", path("secret"))),
        attempt("created", format!("echo x > {}", path("run/new"))),
        attempt("connected", format!("exec 3<>/dev/tcp/127.0.0.1/{port}")),
        attempt("started", "(:)".to_owned()),
        // No Unix sockets: not even those of the VM.
        attempt("unix", "exec perl -e 'use Socket; exit !socket(S, AF_UNIX, SOCK_STREAM, 0)'".to_owned()),
    ]
    .concat();
    for user in users() {
        let Some(plan) = host.plan(VmmKind::Qemu).await else { return };
        host.serve_device();
        let words = ["/bin/bash", "--norc", "-c", &script];
        let output = command(&host, &qemu(&plan), user, Some(&words)).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "work\n", "{user:?}");
        host.clear();
    }
}
