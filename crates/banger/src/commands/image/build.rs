use std::{
    fs,
    io::{self, IsTerminal, Read},
    path::PathBuf,
    process::ExitCode,
};

use banger_api::{
    ApiError, CommitVm, CreateVm, Digest, ErrorKind, Image, ImageName, NameImage, PullImage, RefError, Size,
    StopVm, SubjectKind, Vm, resolve_image,
};
use banger_client::{Client, Output};
use banger_proto::{Exec, ExitStatus};
use tokio::io::AsyncWriteExt;

use crate::{
    commands::{reference::reference, temporary_vm, variables::variable},
    config, credentials,
    error::{CommandError, unreadable},
    operation::watch,
    signals,
    ssh::personal,
    ui::{Console, Ui},
};

/// Part of every build's key; a new number invalidates all earlier builds.
const KEY_VERSION: &[u8] = b"banger image build 1\0";

/// Maximum size of a script, in bytes.
const MAX_SCRIPT: u64 = 16 << 20;

/// Maximum number of bytes of a script sent at once.
const MAX_CHUNK: usize = 32 << 10;

/// Build an image from another image and scripts
///
/// banger starts a VM from the image, runs the scripts in it in order, as root with `sh` in /, stops the VM and
/// commits it, as `image commit` does. The first script that fails ends the build, and the VM is deleted.
///
/// If the image, the scripts and the variables have not changed, banger reuses the image of the earlier build. If
/// NAME belongs to an earlier build's image that no VM uses, the name moves to the new image.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image build golden --from debian-bookworm --run setup.sh
  echo 'apt-get update && apt-get -y install postgresql' | banger image build db --from golden --run -
  banger image build golden --from debian-bookworm --run base.sh --run team.sh --env PROXY=http://proxy.example:3142")]
pub(crate) struct Build {
    /// Name for the image
    name: ImageName,
    /// Base image, pulled if it is not local
    #[arg(long = "from", value_name = "IMAGE", value_parser = reference())]
    image: String,
    /// Script to run, or - for standard input; repeatable
    #[arg(long = "run", required = true, value_name = "SCRIPT")]
    scripts: Vec<PathBuf>,
    /// Set an environment variable for the scripts; without VALUE, copy it from the host
    #[arg(short, long, value_parser = variable, value_name = "NAME[=VALUE]")]
    env: Vec<(String, String)>,
    /// Include /root
    #[arg(long)]
    with_home: bool,
    /// Number of the VM's virtual CPUs
    #[arg(long, value_name = "COUNT")]
    vcpu: Option<u32>,
    /// Memory of the VM, such as 512M or 4G
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Size of the writable layer for the changes (system overlay)
    #[arg(long, value_name = "SIZE")]
    system_overlay_size: Option<Size>,
    /// Build again even if nothing has changed
    #[arg(long)]
    no_cache: bool,
    /// Keep the VM for inspection, also after a failed build
    #[arg(long)]
    keep: bool,
}

impl Build {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let scripts = self.scripts.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let images = client.images().await?;
        let base = self.base(&client, &images, ui).await?;
        let key = self.key(&base, &scripts);
        let built = images.iter().find(|image| image.build_key == Some(key)).filter(|_| !self.no_cache);
        let image = match built {
            Some(image) if image.name == self.name => {
                ui.note("nothing has changed since it was built");
                image.clone()
            }
            Some(image) => {
                self.check_name_is_free(&images)?;
                ui.note(format_args!("nothing has changed since {} was built", image.name));
                let tag = NameImage { name: self.name.clone(), replace_built: true };
                let mut events = client.tag_image(image.id.as_str(), &tag).await?;
                watch::<Image>(&client, &mut events, ui).await?.0
            }
            None => {
                self.check_name_is_free(&images)?;
                self.build(&client, ui, &base, &scripts, key).await?
            }
        };
        ui.line(&image.name)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Refuses a name that the image could not get, before any work is done.
    fn check_name_is_free(&self, images: &[Image]) -> Result<(), ApiError> {
        let Some(image) = images.iter().find(|image| image.name == self.name) else { return Ok(()) };
        if image.build_key.is_none() {
            let message = format!("image {} already exists and was not created by a build", image.name);
            return Err(
                ApiError::new(ErrorKind::AlreadyExists, message).hint("choose another name, or rename it")
            );
        }
        if image.used_by.is_empty() {
            return Ok(());
        }
        let message = format!("image {} is used by {}", image.name, image.used_by.join(", "));
        Err(ApiError::new(ErrorKind::Busy, message).hint(format!(
            "delete these VMs first, or rename their image: banger image rename {0} {0}-old",
            image.name
        )))
    }

    async fn base(&self, client: &Client, images: &[Image], ui: &Ui) -> Result<Image, CommandError> {
        match resolve_image(images, &self.image) {
            Ok(image) => Ok(image.clone()),
            Err(RefError::NotFound) => {
                let name = self
                    .image
                    .parse()
                    .map_err(|_| ApiError::unresolved(SubjectKind::Image, &self.image, RefError::NotFound))?;
                let credentials = credentials::for_image(client, &name, ui).await;
                let pull = PullImage { name, size: None, credentials };
                let mut events = client.pull_image(&pull).await?;
                Ok(watch::<Image>(client, &mut events, ui).await?.0)
            }
            Err(error) => Err(ApiError::unresolved(SubjectKind::Image, &self.image, error).into()),
        }
    }

    /// Returns the digest of everything that determines the image.
    fn key(&self, base: &Image, scripts: &[Vec<u8>]) -> Digest {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        hash.update(KEY_VERSION);
        let mut hash_field = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        hash_field(base.id.as_str().as_bytes());
        hash_field(base.digest.map(|digest| digest.to_string()).unwrap_or_default().as_bytes());
        hash_field(&[u8::from(self.with_home)]);
        hash_field(&(scripts.len() as u64).to_le_bytes());
        scripts.iter().for_each(|script| hash_field(script));
        for (name, value) in &self.env {
            hash_field(name.as_bytes());
            hash_field(value.as_bytes());
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(hash.finish().as_ref());
        Digest::sha256(digest)
    }

    async fn build(
        &self,
        client: &Client,
        ui: &Ui,
        base: &Image,
        scripts: &[Vec<u8>],
        key: Digest,
    ) -> Result<Image, CommandError> {
        let config = config::load_for(None)?;
        let request = CreateVm {
            image: Some(base.id.to_string()),
            vcpu: self.vcpu,
            memory: self.memory,
            system_overlay_size: self.system_overlay_size,
            personal: personal::collect(&config, None, client.dirs(), ui)?,
            rm: !self.keep,
            ..CreateVm::default()
        };
        let request = config::fill_defaults(&config, request)?;
        let mut phase = signals::cancellable();
        let mut events = phase.run(client.run_vm(&request)).await??;
        let (vm, _) = watch::<Vm>(client, &mut events, ui).await?;
        let remains = if self.keep {
            format!("VM {0} is kept; delete it with: banger vm delete {0}", vm.name)
        } else {
            format!("bangerd deletes VM {}", vm.name)
        };
        phase.set_last_words(&remains);
        let built = self.build_in_vm(client, ui, &vm, scripts, key).await;
        if self.keep {
            ui.note(remains);
        } else {
            temporary_vm::delete(client, &vm, events, ui).await?;
        }
        built
    }

    async fn build_in_vm(
        &self,
        client: &Client,
        ui: &Ui,
        vm: &Vm,
        scripts: &[Vec<u8>],
        key: Digest,
    ) -> Result<Image, CommandError> {
        let phase = signals::cancellable();
        for (path, script) in self.scripts.iter().zip(scripts) {
            ui.note(format_args!("Running {}", path.display()));
            let status = phase.run(self.run_script(client, vm, script)).await??;
            if status != ExitStatus::Code(0) {
                let how = match status {
                    ExitStatus::Code(code) => format!("exited with status {code}"),
                    ExitStatus::Signal(signal) => format!("was killed by signal {signal}"),
                };
                let error = ApiError::new(ErrorKind::Guest, format!("the script {} {how}", path.display()));
                return Err(error.hint("use --keep to keep the VM for inspection").into());
            }
        }
        let mut events = phase.run(client.stop_vm(vm.id.as_str(), StopVm::default())).await??;
        watch::<Vm>(client, &mut events, ui).await?;
        let commit = CommitVm { name: self.name.clone(), with_home: self.with_home, build_key: Some(key) };
        let mut events = phase.run(client.commit_vm(vm.id.as_str(), &commit)).await??;
        Ok(watch::<Image>(client, &mut events, ui).await?.0)
    }

    /// Runs a script in the VM; prints its output on standard error, on a terminal without control characters.
    async fn run_script(&self, client: &Client, vm: &Vm, script: &[u8]) -> Result<ExitStatus, ApiError> {
        let exec = Exec {
            argv: ["sh", "-s"].map(str::to_owned).to_vec(),
            env: self.env.iter().cloned().collect(),
            cwd: Some("/".to_owned()),
            stdin: true,
            ..Exec::default()
        };
        let (mut input, mut output) = banger_client::exec(client, vm.id.as_str(), exec).await?;
        let is_terminal = io::stderr().is_terminal();
        let (mut stdout, mut stderr) = (Console::text(is_terminal), Console::text(is_terminal));
        let mut remaining = Some(script);
        loop {
            while let Some(bytes) = remaining.filter(|bytes| bytes.is_empty() || input.window() > 0) {
                let (part, rest) = bytes.split_at(bytes.len().min(input.window()).min(MAX_CHUNK));
                let sent = if part.is_empty() { input.end_stdin().await } else { input.stdin(part).await };
                // A script that accepts no more input has ended; its output shows the result.
                remaining = (sent.is_ok() && !part.is_empty()).then_some(rest);
            }
            match output.next().await? {
                Output::Stdout(bytes) => print(&stdout.decode(&bytes)).await?,
                Output::Stderr(bytes) => print(&stderr.decode(&bytes)).await?,
                Output::Acknowledged(_) => {}
                Output::Exited(status) => return Ok(status),
            }
        }
    }
}

async fn print(bytes: &[u8]) -> Result<(), ApiError> {
    let mut stderr = tokio::io::stderr();
    let printed = async {
        stderr.write_all(bytes).await?;
        stderr.flush().await
    };
    printed.await.map_err(|error| ApiError::new(ErrorKind::Io, error.to_string()))
}

fn read(path: &PathBuf) -> Result<Vec<u8>, ApiError> {
    let mut script = Vec::new();
    let input: io::Result<Box<dyn Read>> = if path.as_os_str() == "-" {
        Ok(Box::new(io::stdin()))
    } else {
        fs::File::open(path).map(|file| Box::new(file) as Box<dyn Read>)
    };
    let read = input.and_then(|input| input.take(MAX_SCRIPT + 1).read_to_end(&mut script));
    read.map_err(|error| unreadable(path, &error))?;
    if script.len() as u64 > MAX_SCRIPT {
        let message = format!("{} is larger than {}", path.display(), Size::bytes(MAX_SCRIPT));
        return Err(ApiError::new(ErrorKind::Invalid, message));
    }
    Ok(script)
}
