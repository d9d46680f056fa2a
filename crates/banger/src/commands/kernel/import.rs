use std::{
    fs::{self, File},
    io::{self, PipeWriter},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use banger_api::{ApiError, ErrorKind, Kernel, Name};
use banger_client::{Client, Events};
use tokio::net::unix::pipe;

use crate::{commands::watch::watch, error::CommandError, ui::Ui};

/// Make a kernel of a Debian package, of files, or of this host's own
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger kernel import mine linux-image-6.1.0-56-cloud-amd64.deb
  banger kernel import mine --image arch/x86/boot/bzImage --modules out/lib/modules/6.12.0
  banger kernel import host --host")]
pub(crate) struct Import {
    /// Name for the kernel
    name: Name,
    /// A kernel's Debian package
    #[arg(value_name = "FILE.deb", conflicts_with_all = ["image", "host"])]
    deb: Option<PathBuf>,
    /// A vmlinuz (bzImage) or vmlinux
    #[arg(long, value_name = "FILE", conflicts_with = "host")]
    image: Option<PathBuf>,
    /// The folder of its modules, as /lib/modules/RELEASE
    #[arg(long, value_name = "DIR", requires = "image")]
    modules: Option<PathBuf>,
    /// The kernel that this host runs, with its modules
    #[arg(long)]
    host: bool,
}

impl Import {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let mut events = match (&self.deb, &self.image) {
            (Some(deb), _) => {
                let file = File::open(deb).map_err(cannot("open", deb))?;
                client.import_kernel(&self.name, true, tokio::fs::File::from_std(file)).await?
            }
            (None, Some(image)) => send_files(&client, &self.name, image, self.modules.as_deref()).await?,
            (None, None) if self.host => {
                let (image, modules) = host_kernel();
                send_files(&client, &self.name, &image, modules.as_deref()).await?
            }
            (None, None) => {
                return Err(CommandError::usage("name a FILE.deb, or use --image FILE or --host"));
            }
        };
        let (kernel, _) = watch::<Kernel>(&client, &mut events, ui).await?;
        ui.line(&kernel.name)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Sends a kernel and its modules as a tar, made while it is sent.
pub(crate) async fn send_files(
    client: &Client,
    name: &Name,
    image: &Path,
    modules: Option<&Path>,
) -> Result<Events, CommandError> {
    let kernel = File::open(image).map_err(cannot("open", image))?;
    if let Some(folder) = modules {
        fs::read_dir(folder).map_err(cannot("read", folder))?;
    }
    let modules = modules.map(Path::to_owned);
    let (reader, writer) = io::pipe()?;
    thread::Builder::new().name("tar".to_owned()).spawn(move || {
        // A reader that is gone has told why; a tar that is cut short is refused as such.
        let _ = write_tar(writer, kernel, modules.as_deref());
    })?;
    let reader = pipe::Receiver::from_owned_fd(reader.into())?;
    Ok(client.import_kernel(name, false, reader).await?)
}

fn write_tar(writer: PipeWriter, mut kernel: File, modules: Option<&Path>) -> io::Result<()> {
    let mut tar = tar::Builder::new(io::BufWriter::with_capacity(64 << 10, writer));
    tar.follow_symlinks(false);
    tar.append_file("kernel", &mut kernel)?;
    if let Some(folder) = modules {
        append_files(&mut tar, folder, Path::new("modules"))?;
    }
    tar.into_inner().map(drop)
}

/// Appends the regular files under `folder`; links such as `build` lead out of it.
fn append_files(tar: &mut tar::Builder<impl io::Write>, folder: &Path, name: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (kind, name) = (entry.file_type()?, name.join(entry.file_name()));
        if kind.is_dir() {
            append_files(tar, &entry.path(), &name)?;
        } else if kind.is_file() {
            tar.append_file(name, &mut File::open(entry.path())?)?;
        }
    }
    Ok(())
}

/// Where distributions keep the kernel that runs, and its modules.
fn host_kernel() -> (PathBuf, Option<PathBuf>) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = PathBuf::from("/lib/modules").join(&release);
    let beside = modules.join("vmlinuz");
    let image = if beside.is_file() { beside } else { PathBuf::from(format!("/boot/vmlinuz-{release}")) };
    let modules = modules.is_dir().then_some(modules);
    (image, modules)
}

fn cannot(action: &str, path: &Path) -> impl FnOnce(io::Error) -> ApiError {
    let what = format!("cannot {action} {}", path.display());
    move |error| {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        let kind = if denied { ErrorKind::NotPermitted } else { ErrorKind::Io };
        let error = ApiError::new(kind, format!("{what}: {error}"));
        if denied {
            error.hint("some distributions let only root read kernels: copy it with sudo first")
        } else {
            error
        }
    }
}
