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

use super::kernel_dir::{self, KernelDirError, KernelFiles};
use crate::{error::CommandError, operation::watch, ui::Ui};

/// Create a kernel from packages, from files, or from this host's own
///
/// The type of a FILE is detected from its content: a Debian package, an RPM, a vmlinuz (bzImage) or a vmlinux.
/// Several FILEs are parts of one kernel. In a directory, banger searches for the kernel, and for its modules in
/// `modules`, in `lib/modules/RELEASE` or beside it.
///
/// A kernel must have the drivers that every VM boots with, built in or as modules: virtio disks and vsock, ext4,
/// overlayfs.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger kernel import mine linux-image-6.1.0-56-cloud-amd64.deb
  banger kernel import fedora kernel-core-6.14.rpm kernel-modules-core-6.14.rpm
  banger kernel import mine ./vmlinux
  banger kernel import mine /mnt/lib/modules/6.12.0
  banger kernel import mine --image arch/x86/boot/bzImage --modules out/lib/modules/6.12.0
  banger kernel import host --host")]
pub(crate) struct Import {
    /// Name for the kernel
    name: Name,
    /// Packages, a kernel, or a directory
    #[arg(value_name = "FILE", conflicts_with_all = ["image", "host"])]
    files: Vec<PathBuf>,
    /// Kernel file: a vmlinuz (bzImage) or vmlinux
    #[arg(long, value_name = "FILE", conflicts_with = "host")]
    image: Option<PathBuf>,
    /// Directory of its modules, such as /lib/modules/RELEASE
    #[arg(long, value_name = "DIR", requires = "image")]
    modules: Option<PathBuf>,
    /// Import the running kernel of this host, with its modules
    #[arg(long)]
    host: bool,
}

impl Import {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let (name, modules) = (&self.name, self.modules.as_deref());
        let mut events = match (self.files.as_slice(), &self.image) {
            ([dir], _) if dir.is_dir() => send_tar(&client, name, parts_of_dir(dir)?).await?,
            ([file], _) => client.import_kernel(name, tokio::fs::File::from_std(open(file)?)).await?,
            ([], Some(image)) => send_files(&client, name, image, modules).await?,
            ([], None) if self.host => send_tar(&client, name, parts_of_kernel(host_kernel())?).await?,
            ([], None) => {
                return Err(CommandError::usage("name a FILE or a directory, or use --image FILE or --host"));
            }
            (files, _) => send_tar(&client, name, parts_of_files(files)?).await?,
        };
        let (kernel, _) = watch::<Kernel>(&client, &mut events, ui).await?;
        ui.line(&kernel.name)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Sends a kernel and its modules.
pub(crate) async fn send_files(
    client: &Client,
    name: &Name,
    image: &Path,
    modules: Option<&Path>,
) -> Result<Events, CommandError> {
    let kernel_files =
        KernelFiles { kernel: image.to_owned(), modules: modules.map(Path::to_owned), config: None };
    send_tar(client, name, parts_of_kernel(kernel_files)?).await
}

/// Sends the parts of a kernel as a tar, created while it is sent.
async fn send_tar(client: &Client, name: &Name, parts: Parts) -> Result<Events, CommandError> {
    let (reader, writer) = io::pipe()?;
    thread::Builder::new().name("tar".to_owned()).spawn(move || {
        // If the reader is gone, its side reports the reason; a truncated tar is rejected as such.
        let _ = parts.write(writer);
    })?;
    let reader = pipe::Receiver::from_owned_fd(reader.into())?;
    Ok(client.import_kernel(name, reader).await?)
}

/// Content of the tar: files by their names in it, and a directory of modules.
struct Parts {
    files: Vec<(String, File)>,
    modules: Option<PathBuf>,
}

impl Parts {
    fn write(self, writer: PipeWriter) -> io::Result<()> {
        let mut tar = tar::Builder::new(io::BufWriter::with_capacity(64 << 10, writer));
        tar.follow_symlinks(false);
        for (name, mut file) in self.files {
            tar.append_file(name, &mut file)?;
        }
        if let Some(dir) = self.modules {
            append_files(&mut tar, &dir, Path::new("modules"))?;
        }
        tar.into_inner().map(drop)
    }
}

fn parts_of_files(files: &[PathBuf]) -> Result<Parts, CommandError> {
    let mut parts = Parts { files: Vec::new(), modules: None };
    for (number, path) in files.iter().enumerate() {
        if path.is_dir() {
            let text = format!("{} is a directory and must be imported alone", path.display());
            return Err(CommandError::usage(text));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        parts.files.push((format!("files/{number}/{name}"), open(path)?));
    }
    Ok(parts)
}

fn parts_of_dir(dir: &Path) -> Result<Parts, CommandError> {
    let kernel_files = kernel_dir::find_kernel(dir).map_err(|error| match error {
        KernelDirError::Read { path, source } => cannot("read", &path)(source),
        KernelDirError::NoKernel(_) => ApiError::new(ErrorKind::NotFound, error.to_string()),
        KernelDirError::ManyKernels { .. } | KernelDirError::ManyModules { .. } => {
            ApiError::new(ErrorKind::Ambiguous, error.to_string())
                .hint("select them with --image FILE and --modules DIR")
        }
    })?;
    parts_of_kernel(kernel_files)
}

fn parts_of_kernel(kernel_files: KernelFiles) -> Result<Parts, CommandError> {
    if let Some(dir) = &kernel_files.modules {
        fs::read_dir(dir).map_err(cannot("read", dir))?;
    }
    let mut files = vec![("kernel".to_owned(), open(&kernel_files.kernel)?)];
    // The configuration only adds details, so it is optional.
    let config = kernel_files.config.and_then(|path| File::open(path).ok());
    files.extend(config.map(|config| ("config".to_owned(), config)));
    Ok(Parts { files, modules: kernel_files.modules })
}

fn open(path: &Path) -> Result<File, ApiError> {
    File::open(path).map_err(cannot("open", path))
}

/// Appends a directory's regular files; symbolic links such as `build` lead out of it and are skipped.
fn append_files(tar: &mut tar::Builder<impl io::Write>, dir: &Path, name: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
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

/// Returns the paths of the running kernel, its modules and its configuration, as distributions install them.
fn host_kernel() -> KernelFiles {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = PathBuf::from("/lib/modules").join(&release);
    let in_modules = modules.join("vmlinuz");
    let kernel =
        if in_modules.is_file() { in_modules } else { PathBuf::from(format!("/boot/vmlinuz-{release}")) };
    let config = PathBuf::from(format!("/boot/config-{release}"));
    let modules = modules.is_dir().then_some(modules);
    KernelFiles { kernel, modules, config: config.is_file().then_some(config) }
}

fn cannot(action: &str, path: &Path) -> impl FnOnce(io::Error) -> ApiError {
    let message = format!("cannot {action} {}", path.display());
    move |error| {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        let kind = if denied { ErrorKind::NotPermitted } else { ErrorKind::Io };
        let error = ApiError::new(kind, format!("{message}: {error}"));
        if denied {
            error.hint("on some distributions only root can read kernels: copy it with sudo first")
        } else {
            error
        }
    }
}
