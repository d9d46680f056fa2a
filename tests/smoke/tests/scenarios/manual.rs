//! The manual's commands, run as they are written: each page from top to bottom, by a reader who types every line.

use std::{
    fs,
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use banger_contract::{CodeBlock, code_blocks, manual_pages};
use banger_smoke::{Host, Registry, Running, layout, run, scenario, static_busybox, tar_of, tar_with, until};
use rustix::process::Signal;

/// The input of each command: the work of a reader in a guest's shell. Commands other than shells do not read it.
const TYPED: &[u8] = b"echo work >> work.txt\n";

/// Commands that run until their reader presses Ctrl-C, with what the reader waits for.
const UNTIL_CTRL_C: &[(&str, Ready)] = &[
    ("banger daemon logs -f", Ready::Output),
    ("banger vm ssh box -N -L 3000:localhost:3000", Ready::Listener(3000)),
];

/// Commands that do not run here, and why. The tests of the command line check all commands' options.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo xtask try", "everything it does was done before the scenarios start"),
    ("man banger-vm-run", "needs a pager; a unit test reads the pages"),
    ("banger vm run -p 3000 . -- npm run dev", "needs npm; scenarios of ports publish them"),
    ("docker export container", "needs Docker; other scenarios import from standard input"),
    ("banger kernel pull debian-cloud", "downloads a package; the template's kernel was pulled with it"),
    ("banger kernel import", "needs other kernels; scenarios of kernels import packages and files"),
];

#[derive(Debug, Clone, Copy)]
enum Ready {
    /// It has printed something.
    Output,
    /// It listens on this port of the loopback interface.
    Listener(u16),
}

/// A reader of the manual, and the host in front of them.
struct Reader {
    host: Host,
    /// The working directory.
    dir: PathBuf,
    /// Hosts that the reader has left, with their files.
    others: Vec<Host>,
}

impl Reader {
    /// Returns a reader with a repository `my-repo` in the working directory. The default image has git and make.
    fn new() -> Result<Self> {
        let host = Host::new()?;
        let tar = host.path("base.tar");
        tar_with(&tar, &["/usr/bin/git", "/usr/bin/make"])?;
        host.ok(&["image", "import", "base", &tar.display().to_string()])?;
        fs::write(host.path("system.toml"), "[vm]\nimage = \"base\"\nmemory = \"256M\"\n")?;
        let dir = host.path("work");
        create_repository(&host, &dir.join("my-repo"))?;
        Ok(Self { host, dir, others: Vec::new() })
    }

    /// Returns a reader who also has a VM `box`.
    fn with_box() -> Result<Self> {
        let reader = Self::new()?;
        reader.host.ok(&["vm", "run", "-d", "--name", "box"])?;
        Ok(reader)
    }

    /// Runs the commands of a page, and tries its settings. Then deletes the VMs.
    fn follow(mut self, page: &str) -> Result<()> {
        for block in code_blocks(page) {
            match block.language.as_str() {
                "sh" => block.lines.iter().try_for_each(|line| self.run_line(line)),
                "toml" => self.configure(&block),
                "console" => self.replay(&block),
                "text" => Ok(()),
                other => bail!("{page} has a block of {other:?}"),
            }
            .with_context(|| format!("{page}, block {:?}", block.lines))?;
        }
        let vms = self.host.ok(&["ps", "-a", "-q"])?;
        let ids: Vec<_> = vms.split_whitespace().collect();
        if !ids.is_empty() {
            self.host.ok(&[&["vm", "delete", "--force", "--discard"], &ids[..]].concat())?;
        }
        self.host.nothing_left()
    }

    /// Runs a line that must succeed.
    fn run_line(&mut self, line: &str) -> Result<()> {
        if NOT_RUN.iter().any(|(command, _)| line.starts_with(command)) {
            return Ok(());
        }
        if line.ends_with("# on another") {
            let other = std::mem::replace(&mut self.host, Host::new()?);
            self.others.push(other);
        }
        if let Some((_, ready)) = UNTIL_CTRL_C.iter().find(|(command, _)| line.starts_with(command)) {
            return self.interrupt(line, *ready);
        }
        self.output_of(line, TYPED).map(drop)
    }

    /// Runs a line that must succeed, and returns its standard output and error.
    fn output_of(&mut self, line: &str, input: &[u8]) -> Result<String> {
        let line = self.change_dir(line);
        let finished = self.start(line)?.finish(input)?;
        let stderr = finished.stderr.clone();
        Ok(finished.success()? + &stderr)
    }

    /// Changes the directory if the line begins with `cd`, and returns the rest of it.
    fn change_dir<'a>(&mut self, line: &'a str) -> &'a str {
        let Some(rest) = line.strip_prefix("cd ") else { return line };
        let (dir, rest) = rest.split_once(" && ").unwrap_or((rest, "true"));
        self.dir.push(dir);
        rest
    }

    /// Starts a line in a shell, with banger's programs on `PATH`.
    fn start(&self, line: &str) -> Result<Running> {
        let mut path = vec![self.host.path("bin"), self.host.program("")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").context("PATH")?));
        let mut bash = self.host.tool("bash");
        bash.args(["-euo", "pipefail", "-c", line]).current_dir(&self.dir);
        bash.env("PATH", std::env::join_paths(path)?);
        Running::start(bash, line.to_owned())
    }

    /// Starts a line, and presses Ctrl-C when it is ready.
    fn interrupt(&self, line: &str, ready: Ready) -> Result<()> {
        // The shell would not forward the signal, and tests that run in the background inherit that it is ignored.
        let mut running = self.start(&format!("exec env --default-signal=INT {line}"))?;
        match ready {
            Ready::Output => running.wait_for_stdout("\n").map(drop)?,
            Ready::Listener(port) => {
                until(&format!("{line} listens"), || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
            }
        }
        running.signal(Signal::INT)?;
        let finished = running.finish(b"")?;
        // What ssh prints if another program has the port.
        ensure!(!finished.stderr.contains("cannot listen to port"), "{line}: {}", finished.stderr);
        Ok(())
    }

    /// Writes a block to the file that it is meant for, and lets banger read it.
    fn configure(&mut self, block: &CodeBlock) -> Result<()> {
        let table = block.lines.first().and_then(|line| line.split_whitespace().next()).unwrap_or_default();
        let (file, command) = match table {
            "[workspace]" => (self.dir.join("my-repo/banger.toml"), "banger vm run my-repo --dry-run"),
            "[[image]]" | "urls" => {
                (self.host.path("config/banger/catalog.toml"), "banger image list --available --quiet")
            }
            _ => (self.host.path("config/banger/config.toml"), "banger config show"),
        };
        fs::create_dir_all(self.host.path("config/banger"))?;
        fs::write(&file, block.lines.join("\n"))?;
        self.output_of(command, b"")?;
        Ok(fs::remove_file(file)?)
    }

    /// Replays a session: lines after `$` on the host, lines after a prompt with `#` in the guest. All other lines must
    /// be in the output, except that numbers may differ.
    fn replay(&mut self, block: &CodeBlock) -> Result<()> {
        let mut lines = block.lines.iter().peekable();
        while let Some(command) = lines.next() {
            let command = command.strip_prefix("$ ").with_context(|| format!("not a command: {command}"))?;
            let (mut typed, mut expected) = (String::new(), Vec::new());
            while let Some(line) = lines.next_if(|line| !line.starts_with("$ ")) {
                match line.split_once("# ").filter(|(prompt, _)| prompt.starts_with("root@")) {
                    Some((_, in_guest)) => typed += &format!("{in_guest}\n"),
                    None => expected.push(line),
                }
            }
            let output = self.output_of(command, typed.as_bytes())?;
            for line in expected {
                let printed = without_numbers(&output).contains(&without_numbers(line));
                ensure!(printed, "{command} did not print {line:?}, but: {output}");
            }
        }
        Ok(())
    }
}

/// Replaces each number by one digit.
fn without_numbers(text: &str) -> String {
    let mut result = String::new();
    for c in text.chars() {
        match c.is_ascii_digit() {
            true if result.ends_with('0') => {}
            true => result.push('0'),
            false => result.push(c),
        }
    }
    result
}

/// Creates a repository with a Makefile and a script.
fn create_repository(host: &Host, root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    fs::write(root.join("Makefile"), "test:\n\t@echo tested\n")?;
    fs::write(root.join("setup.sh"), "echo configured > /etc/motd\n")?;
    let git = |args: &[&str]| run(host.tool("git").current_dir(root).args(args));
    git(&["init", "-q", "-b", "main"])?;
    git(&["config", "user.name", "A U Thor"])?;
    git(&["config", "user.email", "author@example.com"])?;
    git(&["add", "-A"])?;
    git(&["commit", "-qm", "first"])
}

/// Starts a registry with alpine's name for a small image, and configures it as a mirror.
fn mirror_alpine(host: &Host) -> Result<Registry> {
    let tar = host.path("alpine.tar");
    let busybox = static_busybox()?;
    let links = [("bin/sh", "busybox"), ("bin/cat", "busybox")];
    tar_of(&tar, &[("bin/busybox", &busybox), ("etc/os-release", b"ID=alpine\n")], &links)?;
    let registry = Registry::start(None)?;
    let image = layout(&host.path("alpine"), &[tar], &["--config.cmd", "/bin/sh"])?;
    registry.push(&image, "library/alpine:3.20", &[])?;
    let mirror = format!("\n[[registry]]\nhost = 'docker.io'\nmirrors = ['http://{}']\n", registry.address());
    let config = fs::read_to_string(host.path("system.toml"))?;
    fs::write(host.path("system.toml"), config + &mirror)?;
    Ok(registry)
}

/// Lets `ssh` and `scp` read this host's own `~/.ssh/config`: they look up the home directory in the user database.
fn use_own_ssh_config(host: &Host) -> Result<()> {
    fs::create_dir_all(host.path("bin"))?;
    for program in ["ssh", "scp"] {
        let path = host.path(&format!("bin/{program}"));
        let config = host.path(".ssh/config");
        fs::write(&path, format!("#!/bin/sh\nexec /usr/bin/{program} -F {} \"$@\"\n", config.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

#[scenario(Here, Slow)]
fn the_commands_of_the_readme_work() -> Result<()> {
    let reader = Reader::new()?;
    let _registry = mirror_alpine(&reader.host)?;
    use_own_ssh_config(&reader.host)?;
    reader.follow("README.md")
}

#[scenario(Here)]
fn the_commands_of_the_introduction_work() -> Result<()> {
    Reader::new()?.follow("docs/src/introduction.md")
}

#[scenario(Here)]
fn the_commands_for_installing_banger_work() -> Result<()> {
    let reader = Reader::new()?;
    // fish creates it.
    fs::create_dir_all(reader.host.path(".config/fish/completions"))?;
    reader.follow("docs/src/guide/install.md")
}

#[scenario(Here)]
fn the_commands_for_a_first_vm_work() -> Result<()> {
    Reader::new()?.follow("docs/src/guide/first-vm.md")
}

#[scenario(Here)]
fn the_commands_for_repositories_work() -> Result<()> {
    Reader::new()?.follow("docs/src/guide/repositories.md")
}

#[scenario(Here)]
fn the_commands_for_ssh_work() -> Result<()> {
    let host = Host::with_debian()?;
    use_own_ssh_config(&host)?;
    let dir = host.path("work");
    fs::create_dir_all(dir.join("src"))?;
    Reader { host, dir, others: Vec::new() }.follow("docs/src/guide/ssh.md")
}

#[scenario(Here)]
fn the_commands_for_files_work() -> Result<()> {
    let reader = Reader::with_box()?;
    for dir in ["src", "data"] {
        fs::create_dir(reader.dir.join(dir))?;
    }
    reader.host.ok(&[
        "vm",
        "exec",
        "box",
        "--",
        "sh",
        "-c",
        "mkdir -p /var/log; echo line > /var/log/app.log",
    ])?;
    reader.follow("docs/src/guide/files.md")
}

#[scenario(Here)]
fn the_commands_for_the_life_of_a_vm_work() -> Result<()> {
    Reader::with_box()?.follow("docs/src/guide/lifecycle.md")
}

#[scenario(Here)]
fn the_commands_for_watching_vms_work() -> Result<()> {
    Reader::with_box()?.follow("docs/src/guide/watching.md")
}

#[scenario(Here, Slow)]
fn the_commands_for_images_work() -> Result<()> {
    let mut reader = Reader::new()?;
    let _registry = mirror_alpine(&reader.host)?;
    reader.dir.push("my-repo");
    let rootfs = reader.host.path("rootfs");
    fs::create_dir_all(rootfs.join("bin"))?;
    fs::write(rootfs.join("bin/sh"), static_busybox()?)?;
    fs::set_permissions(rootfs.join("bin/sh"), fs::Permissions::from_mode(0o755))?;
    run(reader
        .host
        .tool("tar")
        .arg("czf")
        .arg(reader.dir.join("rootfs.tar.gz"))
        .arg("-C")
        .arg(&rootfs)
        .arg("."))?;
    run(reader
        .host
        .tool("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .arg(&rootfs)
        .arg(reader.dir.join("rootfs.ext4"))
        .arg("32M"))?;
    reader.follow("docs/src/guide/images.md")
}

#[scenario(Here)]
fn the_commands_for_registries_work() -> Result<()> {
    let reader = Reader::new()?;
    reader.host.ok(&["image", "tag", "base", "tools"])?;
    reader.follow("docs/src/guide/registries.md")
}

#[scenario(Here)]
fn the_commands_for_kernels_work() -> Result<()> {
    Reader::new()?.follow("docs/src/guide/kernels.md")
}

#[scenario(Here)]
fn the_commands_for_networks_work() -> Result<()> {
    Reader::new()?.follow("docs/src/guide/network.md")
}

#[scenario(Here)]
fn the_commands_for_ports_work() -> Result<()> {
    let reader = Reader::new()?;
    // Other daemons of this machine have the default one.
    let config = fs::read_to_string(reader.host.path("system.toml"))?;
    fs::write(
        reader.host.path("system.toml"),
        config + &format!("[daemon]\nproxy = {}\n", crate::ports::free_port()?),
    )?;
    reader.host.ok(&["daemon", "restart"])?;
    reader.follow("docs/src/guide/ports.md")
}

#[scenario(Here)]
fn the_configuration_examples_are_valid() -> Result<()> {
    Reader::new()?.follow("docs/src/guide/configuration.md")
}

#[scenario(Here)]
fn the_commands_for_problems_work() -> Result<()> {
    Reader::new()?.follow("docs/src/guide/troubleshooting.md")
}

#[scenario(Here)]
fn the_command_of_the_api_page_works() -> Result<()> {
    let reader = Reader::new()?;
    // The page is for clients of a running daemon.
    reader.host.ok(&["ps"])?;
    reader.follow("docs/src/reference/api.md")
}

#[scenario(Here)]
fn every_page_with_commands_has_a_scenario() -> Result<()> {
    let scenarios = include_str!("manual.rs");
    for page in manual_pages() {
        let has_commands =
            code_blocks(&page).iter().any(|block| matches!(&*block.language, "sh" | "toml" | "console"));
        let followed = scenarios.contains(&format!("follow(\"{page}\")"));
        ensure!(has_commands == followed, "{page}: has commands: {has_commands}, followed: {followed}");
    }
    for (command, _) in NOT_RUN {
        let exists = |block: &CodeBlock| block.lines.iter().any(|line| line.starts_with(command));
        ensure!(
            manual_pages().iter().any(|page| code_blocks(page).iter().any(exists)),
            "no page has {command}"
        );
    }
    Ok(())
}
