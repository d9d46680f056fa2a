//! Fetches the catalog's kernels from Debian packages or from files with known digests.
//!
//! apt finds and verifies the packages, without changing the host's own apt state.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CatalogKernel, Download, KernelSource, sources};
use crate::confinement::{self, MAX_DOWNLOAD};
use crate::error::IoContext;
use crate::kernel::import_kernel_files;
use crate::program::{HostCommand, Rights};
use crate::publish::write_error;
use crate::{DownloadRequest, ImageError, KernelInfo, Progress, Registries, download, import_kernel};

/// Timeout for each apt command; the largest download is 30 MB.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Configuration of apt that clears the host's hooks: they are for the host's own apt state.
const NO_HOOKS: &str = "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
    #clear APT::Update::Post-Invoke-Success;\n#clear DPkg;\n";

/// Fetches the kernel `entry` into the directory `dest`. `work` holds temporary files.
///
/// For a Debian package, `apt-get` downloads the newest version, as any user, with its own package lists in `work`.
/// It verifies the lists by Debian's signatures and the package by the lists. Packages come from
/// `BANGER_DEBIAN_MIRROR` if that is set, else from the package sources of this host if it runs Debian (any release).
/// [`download`] fetches files.
///
/// # Errors
/// Returns an error if apt or a source of Debian packages is missing, or if a download fails; else as
/// [`import_kernel`].
pub fn fetch_kernel(
    entry: &CatalogKernel,
    registries: &Registries,
    work: &Path,
    dest: &Path,
    progress: &dyn Progress,
) -> Result<KernelInfo, ImageError> {
    match &entry.source {
        KernelSource::Apt { suite, package } => fetch_package(suite, package, work, dest, progress),
        KernelSource::Files(files) => {
            progress.stage("download the kernel");
            let files = files.iter().map(|file| {
                let Download { url, sha256 } = file;
                let request = DownloadRequest { url, sha256: Some(*sha256), limit: MAX_DOWNLOAD };
                Ok((PathBuf::from(url), download(registries, request, work, progress)?))
            });
            import_kernel_files(files.collect::<Result<_, ImageError>>()?, dest, progress)
        }
    }
}

fn fetch_package(
    suite: &str,
    package: &str,
    work: &Path,
    dest: &Path,
    progress: &dyn Progress,
) -> Result<KernelInfo, ImageError> {
    let refused = |problem| ImageError::Apt { package: package.to_owned(), problem };
    let sources = sources::lines(suite);
    if sources.is_empty() {
        return Err(refused("this host has no Debian package source, and BANGER_DEBIAN_MIRROR is not set"));
    }
    let apt = Apt::new(work, &sources, progress)?;
    progress.stage("read the package lists");
    apt.run("apt-get", &["update"])?;
    let depends = apt.run("apt-cache", &["depends", "--important", package])?;
    let package = real_package(&depends, package).ok_or_else(|| refused("no such package"))?;
    progress.stage("download the kernel");
    apt.run("apt-get", &["download", package])?;
    let deb = apt.downloaded()?.ok_or_else(|| refused("apt downloaded nothing"))?;
    import_kernel(deb, dest, progress)
}

/// An apt configuration with all its state in one directory.
struct Apt<'a> {
    dir: PathBuf,
    /// Files with the keys of the package sources.
    keys: Vec<PathBuf>,
    progress: &'a dyn Progress,
}

impl<'a> Apt<'a> {
    fn new(work: &Path, sources: &[String], progress: &'a dyn Progress) -> Result<Self, ImageError> {
        // apt resolves relative paths against its own directories.
        let dir = std::path::absolute(work).during("find", work)?.join("apt");
        for name in ["state/lists/partial", "cache/archives/partial", "deb", "tmp"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(|source| write_error(source, &path, 0))?;
        }
        let files = [
            ("sources.list", sources.join("\n") + "\n"),
            ("status", String::new()),
            ("apt.conf", NO_HOOKS.to_owned()),
        ];
        for (name, text) in files {
            let path = dir.join(name);
            fs::write(&path, text).map_err(|source| write_error(source, &path, 0))?;
        }
        Ok(Self { dir, keys: sources::key_files(sources), progress })
    }

    /// Runs an apt program and returns its output.
    fn run(&self, program: &'static str, arguments: &[&str]) -> Result<String, ImageError> {
        let rights = Rights::Confined(confinement::apt(&self.dir, &self.keys));
        let mut program = HostCommand::new(program, TIMEOUT, rights)?.with_network();
        let command = program.command();
        // apt and gpgv create temporary files.
        command.env("TMPDIR", self.dir.join("tmp"));
        command.arg("-c").arg(self.dir.join("apt.conf"));
        for (option, name) in [
            ("Dir::State", "state"),
            ("Dir::State::lists", "state/lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::sourcelist", "sources.list"),
        ] {
            let mut value = std::ffi::OsString::from(format!("{option}="));
            value.push(self.dir.join(name));
            command.arg("-o").arg(value);
        }
        for option in [
            // The host's other sources and its package pins do not apply here.
            "Dir::Etc::sourceparts=/dev/null",
            "Dir::Etc::preferences=/dev/null",
            "Dir::Etc::preferencesparts=/dev/null",
            "Acquire::Languages=none",
            "Acquire::Retries=3",
            // As root, apt downloads as the user _apt, who may not write to `work`.
            "APT::Sandbox::User=root",
            // An unreachable source is an error; apt must not continue with the remaining ones.
            "APT::Update::Error-Mode=any",
            "APT::Architecture=amd64",
            "APT::Architectures=amd64",
        ] {
            command.arg("-o").arg(option);
        }
        command.arg("-q").args(arguments).current_dir(self.dir.join("deb"));
        program.output(self.progress)
    }

    /// Opens the downloaded package.
    fn downloaded(&self) -> Result<Option<File>, ImageError> {
        let dir = self.dir.join("deb");
        for entry in fs::read_dir(&dir).during("read", &dir)? {
            let path = entry.during("read", &dir)?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                return File::open(&path).during("open", &path).map(Some);
            }
        }
        Ok(None)
    }
}

/// Returns the package that holds the kernel: the first that `package` depends on, or `package` itself.
///
/// `depends` is the output of `apt-cache depends`.
fn real_package<'a>(depends: &'a str, package: &'a str) -> Option<&'a str> {
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let mut kernels = names.filter(|name| name.starts_with("linux-image-"));
    // apt prints nothing for an unknown package.
    kernels.next().or_else(|| depends.lines().any(|line| line == package).then_some(package))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Catalog, Silent};
    use banger_api::Digest;
    use sha2::{Digest as _, Sha256};
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    #[test]
    fn files_with_known_digests_are_imported_as_a_kernel() {
        let kernel = crate::kernel::testing::vmlinux("6.1.155", &["virtio_pci"]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/vmlinux-6.1.155", listener.local_addr().unwrap());
        let hash = Digest::sha256(Sha256::digest(&kernel).into()).hex();
        let text = format!(
            "[[kernel]]\nname = 'x'\ndescription = 'y'\nspace_mib = 1\n\
             source = {{ files = [{{ url = '{url}', sha256 = '{hash}' }}] }}\n"
        );
        let entry = Catalog::parse(&text).unwrap().kernels.remove(0);
        assert_eq!(entry.source.to_string(), url);
        let bytes = kernel.clone();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            assert!(lines.any(|line| line.is_empty()));
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len());
            stream.write_all(&[head.as_bytes(), &bytes].concat()).unwrap();
        });
        let work = tempfile::tempdir().unwrap();
        let dest = work.path().join("kernel");
        let info = fetch_kernel(&entry, &Registries::default(), work.path(), &dest, &Silent).unwrap();
        server.join().unwrap();
        assert_eq!((info.release.as_str(), info.virtio_pci, info.virtio_mmio), ("6.1.155", false, true));
        assert!(fs::read(dest.join("vmlinux")).unwrap() == kernel);
        assert!(Catalog::parse(&text.replace(&hash, "123")).is_err());
    }

    /// Serves a signed Debian repository of one package until the test process ends. Returns its address.
    fn serve_packages() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answer = |mut stream: TcpStream| {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let Some(request) = lines.next() else { return };
            lines.any(|line| line.is_empty());
            let body: &[u8] = match request.split(' ').nth(1).unwrap_or_default() {
                "/dists/test/InRelease" => include_bytes!("testdata/InRelease"),
                "/dists/test/main/binary-amd64/Packages" => include_bytes!("testdata/Packages"),
                "/pool/linux-image-test_1_amd64.deb" => include_bytes!("testdata/linux-image-test.deb"),
                _ => &[],
            };
            let status = if body.is_empty() { "404 Not Found" } else { "200 OK" };
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
            // apt may have closed the connection.
            let _ = stream.write_all(&[head.as_bytes(), body].concat());
        };
        thread::spawn(move || {
            listener.incoming().flatten().for_each(|stream| drop(thread::spawn(move || answer(stream))));
        });
        address
    }

    #[test]
    fn a_confined_apt_downloads_a_package_that_it_has_verified() {
        let work = tempfile::tempdir().unwrap();
        // Outside of apt's own directory, as on a host.
        let keys = tempfile::tempdir().unwrap();
        let key = keys.path().join("key.gpg");
        fs::write(&key, include_bytes!("testdata/key.gpg")).unwrap();
        let source =
            |key: &Path| format!("deb [signed-by={}] http://{} test main", key.display(), serve_packages());
        let apt = Apt::new(work.path(), &[source(&key)], &Silent).unwrap();
        let configuration = apt.run("apt-config", &["dump"]).unwrap();
        assert!(!configuration.contains("-Invoke::"), "{configuration}");
        apt.run("apt-get", &["update"]).unwrap();
        let depends = apt.run("apt-cache", &["depends", "--important", "linux-image-test"]).unwrap();
        let package = real_package(&depends, "linux-image-test").unwrap();
        apt.run("apt-get", &["download", package]).unwrap();
        let mut package = apt.downloaded().unwrap().unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut package, &mut bytes).unwrap();
        assert!(bytes == include_bytes!("testdata/linux-image-test.deb"));
        // Without the key, nothing is accepted.
        fs::write(&key, b"").unwrap();
        let other = tempfile::tempdir().unwrap();
        let apt = Apt::new(other.path(), &[source(&key)], &Silent).unwrap();
        assert!(matches!(apt.run("apt-get", &["update"]), Err(ImageError::Program { .. })));
    }

    #[test]
    fn a_program_with_the_rights_of_apt_writes_only_in_its_directory() {
        let (work, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("secret"), "secret\n").unwrap();
        let apt = Apt::new(work.path(), &[], &Silent).unwrap();
        let rights = Rights::Confined(confinement::apt(&apt.dir, &apt.keys));
        let mut shell = HostCommand::new("bash", TIMEOUT, rights).unwrap().with_network();
        let script = "echo x > $0/deb/x && cat $0/deb/x; echo x > $1/x; cat $1/secret; cat /etc/shadow";
        shell.command().args(["-c", script]).arg(&apt.dir).arg(other.path());
        assert_eq!(shell.accept(255).output(&Silent).unwrap(), "x\n");
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_metapackage_resolves_to_its_kernel_package() {
        let meta = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-9-cloud-amd64\n";
        assert_eq!(real_package(meta, "linux-image-cloud-amd64"), Some("linux-image-6.1.0-9-cloud-amd64"));
        assert_eq!(real_package("x\n  Depends: kmod\n", "x"), Some("x"));
        assert_eq!(real_package("", "x"), None);
    }
}
