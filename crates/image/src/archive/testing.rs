//! Archives for tests, written directly or by the real programs.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Returns the output of `program` for the input `bytes`.
pub(crate) fn pipe(program: &str, args: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{program} {args:?}");
    output.stdout
}

/// Creates the `ar` container of a Debian package.
pub(crate) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        bytes.extend(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, content.len()).bytes(),
        );
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}

/// Builds an RPM of the files in `root` with `rpmbuild`; `payload` is rpm's name for the compression.
pub(crate) fn rpm(root: &Path, payload: &str) -> Vec<u8> {
    let work = tempfile::tempdir().unwrap();
    let spec = work.path().join("kernel.spec");
    let text = format!(
        "Name: kernel\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nAutoReqProv: no\n%description\nx\n\
         %install\ncp -a {}/. %{{buildroot}}/\n%files\n/*\n",
        root.display()
    );
    std::fs::write(&spec, text).unwrap();
    let define = |name: &str, value: &str| ["--define".to_owned(), format!("{name} {value}")];
    let output = Command::new("rpmbuild")
        .arg("-bb")
        .args(define("_topdir", &work.path().display().to_string()))
        .args(define("_rpmfilename", "out.rpm"))
        .args(define("_binary_payload", payload))
        .args(define("__os_install_post", "%{nil}"))
        .args(define("_build_id_links", "none"))
        .arg(&spec)
        .output()
        .unwrap_or_else(|error| panic!("rpmbuild (package rpm): {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(work.path().join("RPMS/out.rpm")).unwrap()
}

/// Creates a record of a PAX extended header.
pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend(value);
    record.push(b'\n');
    record
}

/// Writes tar archives byte by byte, including invalid ones.
#[derive(Debug, Default)]
pub(crate) struct TarWriter {
    pub(crate) bytes: Vec<u8>,
}

impl TarWriter {
    /// Adds an entry with exactly this name and link (up to 100 bytes each).
    pub(crate) fn raw(&mut self, kind: u8, name: &[u8], link: &[u8], size: u64, data: &[u8]) -> &mut Self {
        self.raw_with(kind, name, link, size, data, |_| ())
    }

    /// Adds an entry like `raw`, but changes the header before its checksum is computed.
    pub(crate) fn raw_with(
        &mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        size: u64,
        data: &[u8],
        change: impl FnOnce(&mut tar::Header),
    ) -> &mut Self {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.as_mut_bytes()[156] = kind;
        header.set_size(size);
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        if matches!(kind, b'3' | b'4') {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        change(&mut header);
        header.set_cksum();
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(&mut self, name: &str, data: &[u8]) -> &mut Self {
        self.raw(b'0', name.as_bytes(), b"", data.len() as u64, data)
    }

    pub(crate) fn directory(&mut self, name: &str) -> &mut Self {
        self.raw(b'5', name.as_bytes(), b"", 0, b"")
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.raw(b'2', name.as_bytes(), target.as_bytes(), 0, b"")
    }

    pub(crate) fn hard_link(&mut self, name: &str, target: &str) -> &mut Self {
        self.raw(b'1', name.as_bytes(), target.as_bytes(), 0, b"")
    }

    /// Adds an extended header for the next entry.
    pub(crate) fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        let body: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        self.raw(b'x', b"pax", b"", body.len() as u64, &body)
    }

    /// Returns the archive with its end marker.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}
