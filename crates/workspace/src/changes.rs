//! What was done in a guest, as a patch: its listing, the files that it names, and git, which puts them together here.
//! The guest's own git has no part in it, nor has its repository but for its index, which is read as data.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read, Write},
    path::Path,
    process::{Child, ChildStdin, Stdio},
};

use banger_files::{Item, Kind, Listed, ListingReader, Part, Reader, StreamError, safe_path};
use serde::Serialize;
use tempfile::{SpooledTempFile, spooled_tempfile};

use crate::{
    Record, Repository, Scratch, WorkspaceError,
    error::writing,
    git::{GitError, heard, odd, run},
    index::{GITLINK, Index, parse},
    record::{FILE, LINK, PROGRAM, is_state},
    repository::object_id,
    scratch::quote,
    snapshot::{excludes_file, tree_entries},
};

const INDEX: &[u8] = b".git/index";
const HEAD: &[u8] = b".git/HEAD";
const EXCLUDE: &[u8] = b".git/info/exclude";

/// Most bytes of the files that say what is ignored, and of an index: far beyond the largest repositories'.
const MAX_RULES: usize = 256 << 20;

/// A file beyond this is put on the disk before git gets it.
const IN_MEMORY: usize = 8 << 20;

/// Where the guest's files are kept in the scratch, as a commit.
const WORK: &str = "refs/banger/work";

/// A guest's workspace, looked at from the host.
#[derive(Debug)]
pub struct Guest {
    record: Record,
    scratch: Scratch,
    /// What the user has git ignore everywhere, as arguments.
    excludes: Vec<String>,
    listed: Vec<Listed>,
    /// Files that say what is ignored and tracked, as they came.
    rules: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A file's mode as git has it, and its blob: an id, or a mark of the import's.
type Blob = (u32, String);

/// A path that is in the guest and not in what comes of it, and why.
pub type LeftOut = (Vec<u8>, &'static str);

/// What has become of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is another one now.
    Modified,
    /// It is gone.
    Deleted,
    /// It has another path.
    Renamed,
    /// It is a link now, or none any more.
    TypeChanged,
}

/// A file that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What has become of it.
    pub change: ChangeKind,
    /// Its path; bytes that are no UTF-8 are shown as U+FFFD.
    pub path: String,
    /// The path that it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_path: Option<String>,
}

/// All that was done.
#[derive(Debug)]
pub struct Changes {
    scratch: Scratch,
    record: Record,
    /// The commit that was sent, or a tree without anything.
    base: String,
    /// A commit with the files that the guest has.
    work: String,
    /// What its `HEAD` says.
    head: Vec<u8>,
    /// Paths that are in the guest and not in this.
    pub left_out: Vec<LeftOut>,
}

/// Reads a listing that comes from a guest.
///
/// # Errors
/// When it makes no sense.
pub fn read_listing(input: impl Read) -> Result<Vec<Listed>, WorkspaceError> {
    let mut reader = ListingReader::new(input)?;
    let mut listed = Vec::new();
    while let Some(record) = reader.next_record()? {
        listed.push(record);
    }
    Ok(listed)
}

/// Reads files that come from a guest and are small, by path.
///
/// # Errors
/// When they make no sense, or are too large together.
pub fn read_files(input: impl Read) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, WorkspaceError> {
    let mut files = BTreeMap::new();
    let mut left = MAX_RULES;
    each_file(input, |path, mode, content| {
        let mut bytes = Vec::new();
        if mode != LINK {
            content.read_to_end(&mut bytes).map_err(WorkspaceError::Sending)?;
            left = left
                .checked_sub(bytes.len())
                .ok_or_else(|| WorkspaceError::TooMuch("its rules of what is ignored".to_owned()))?;
            files.insert(path.to_vec(), bytes);
        }
        Ok(())
    })?;
    Ok(files)
}

impl Guest {
    /// The workspace of `record`, which has what is `listed`. What git makes of it is made in `cache`.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn new(
        repository: &Repository,
        record: Record,
        listed: Vec<Listed>,
        cache: &Path,
    ) -> Result<Self, WorkspaceError> {
        let scratch = Scratch::of(repository, cache)?;
        let listed = listed.into_iter().filter(|file| safe_path(&file.path)).collect();
        let excludes = excludes_file(repository);
        Ok(Self { record, scratch, excludes, listed, rules: BTreeMap::new() })
    }

    /// Whether the guest has commits, branches or tags of its own.
    pub fn has_own_refs(&self) -> bool {
        let own = |file: &&Listed| self.record.files.get(&file.path).is_none_or(|sent| !sent.is(file));
        self.listed.iter().filter(|file| is_state(&file.path)).any(|file| own(&file))
    }

    /// The paths of the files that say what is ignored and what is tracked, to be fetched first.
    pub fn rules(&self) -> Vec<Vec<u8>> {
        let wanted = |file: &&Listed| {
            file.kind == Kind::File
                && (file.path == INDEX
                    || file.path == HEAD
                    || file.path == EXCLUDE
                    || file.path == b".gitignore"
                    || file.path.ends_with(b"/.gitignore"))
        };
        self.listed.iter().filter(wanted).map(|file| file.path.clone()).collect()
    }

    /// Takes them, and returns the paths whose content is to be fetched: of all that belongs to the workspace and is not
    /// known to be as it was sent.
    ///
    /// # Errors
    /// When git cannot tell what is ignored.
    pub fn wanted(&mut self, rules: BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<Vec<u8>>, WorkspaceError> {
        self.rules = rules;
        let tracked = self.tracked()?;
        let (certain, others): (Vec<_>, Vec<_>) = self
            .listed
            .iter()
            .filter(|file| !file.path.starts_with(b".git/"))
            .partition(|file| tracked.contains(&file.path) || file.kind == Kind::Repository);
        let ignored = self.ignored(others.iter().map(|file| file.path.as_slice()))?;
        let kept: BTreeSet<Vec<u8>> = certain
            .iter()
            .chain(others.iter().filter(|file| !ignored.contains(&file.path)))
            .map(|file| file.path.clone())
            .collect();
        self.listed.retain(|file| kept.contains(&file.path));
        let unknown = self.listed.iter().filter(|file| matches!(file.kind, Kind::File | Kind::Link));
        Ok(unknown.filter(|file| self.known(file).is_none()).map(|file| file.path.clone()).collect())
    }

    /// Whether anything of the workspace's files is new, changed or gone. To be asked when the rules were
    /// [taken](Self::wanted): what is ignored is no work.
    pub fn has_work(&self) -> bool {
        let sent = &self.record.files;
        let there: BTreeSet<_> = self.listed.iter().map(|file| file.path.as_slice()).collect();
        self.listed.iter().any(|file| sent.get(&file.path).is_none_or(|sent| !sent.is(file)))
            || sent.keys().any(|path| !path.starts_with(b".git/") && !there.contains(path.as_slice()))
    }

    /// The blob that a file is, if it is as it was sent, and was as it was staged then.
    fn known(&self, file: &Listed) -> Option<(u32, &str)> {
        let sent = self.record.files.get(&file.path).filter(|sent| sent.is(file))?;
        Some((sent.mode, sent.id.as_deref()?))
    }

    /// What the guest tracks.
    fn tracked(&self) -> Result<BTreeSet<Vec<u8>>, WorkspaceError> {
        let index = self.rules.get(INDEX).map(|bytes| parse(bytes, self.record.known.id_length));
        if let Some(Ok(Index::Whole(entries, _))) = index {
            return Ok(entries.into_iter().map(|entry| entry.path).collect());
        }
        // Without one that can be read, what the commit has.
        match self.record.commit() {
            Some(commit) => Ok(tree_entries(&self.scratch, commit)?.into_keys().collect()),
            None => Ok(BTreeSet::new()),
        }
    }

    /// Those of `paths` that the guest's rules, or the user's own everywhere, say to be ignored.
    fn ignored<'a>(
        &self,
        paths: impl Iterator<Item = &'a [u8]>,
    ) -> Result<BTreeSet<Vec<u8>>, WorkspaceError> {
        let input: Vec<u8> = paths.flat_map(|path| [path, b"\0"].concat()).collect();
        if input.is_empty() {
            return Ok(BTreeSet::new());
        }
        for (path, bytes) in &self.rules {
            if path == EXCLUDE {
                self.scratch.write("info/exclude", bytes)?;
            } else if path != INDEX && path != HEAD {
                let file = self.scratch.files().join(to_os(path));
                let folder = file.parent().unwrap_or(self.scratch.files());
                fs::create_dir_all(folder).map_err(writing(folder))?;
                fs::write(&file, bytes).map_err(writing(&file))?;
            }
        }
        let arguments =
            self.excludes.iter().map(String::as_str).chain(["check-ignore", "--no-index", "-z", "--stdin"]);
        match run(self.scratch.command(arguments), &input) {
            Ok(output) => Ok(output.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()),
            // As it says that none is.
            Err(GitError::Failed { stderr, .. }) if stderr.is_empty() => Ok(BTreeSet::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the files that were wanted, and puts all together.
    ///
    /// # Errors
    /// When what comes makes no sense, or git cannot put it together.
    pub fn take(mut self, files: impl Read) -> Result<Changes, WorkspaceError> {
        let commit = self.record.commit();
        let (base, before) = match commit {
            Some(commit) => (commit.to_owned(), tree_entries(&self.scratch, commit)?),
            None => (empty_tree(&self.scratch)?, BTreeMap::new()),
        };
        let mut import = Import::begin(&self.scratch)?;
        let mut came = BTreeMap::new();
        each_file(files, |path, mode, content| {
            let mark = import.blob(content)?;
            came.insert(path.to_vec(), (mode, format!(":{mark}")));
            Ok(())
        })?;
        let (now, left_out) = self.now(came, &before);
        import.commit(commit)?;
        // First, as a file may be a folder now, whose files go with it.
        for path in before.keys().filter(|path| !now.contains_key(path.as_slice())) {
            import.delete(path)?;
        }
        for (path, (mode, id)) in now.iter().filter(|(path, blob)| before.get(**path) != Some(*blob)) {
            import.modify(*mode, id, path)?;
        }
        import.end()?;
        let work = object_id(&self.scratch.run(&["rev-parse", "--verify", WORK], &[])?)?;
        let head = self.rules.remove(HEAD).unwrap_or_default();
        Ok(Changes { scratch: self.scratch, record: self.record, base, work, head, left_out })
    }

    /// What the workspace consists of, given what `came` and what was there `before`; and what is left out of it.
    fn now(
        &self,
        mut came: BTreeMap<Vec<u8>, Blob>,
        before: &BTreeMap<Vec<u8>, Blob>,
    ) -> (BTreeMap<&[u8], Blob>, Vec<LeftOut>) {
        let (mut now, mut left_out) = (BTreeMap::new(), Vec::new());
        for file in &self.listed {
            let path = &file.path;
            let blob = came.remove(path).or_else(|| match file.kind {
                Kind::File | Kind::Link => self.known(file).map(|(mode, id)| (mode, id.to_owned())),
                // A submodule stays as it is.
                Kind::Repository => before.get(path).filter(|(mode, _)| *mode == GITLINK).cloned(),
                Kind::Unread | Kind::Special => None,
            });
            match (refused(path), blob) {
                (Some(why), _) => left_out.push((path.clone(), why)),
                (None, None) => left_out.push((path.clone(), reason(file.kind))),
                (None, Some(blob)) => _ = now.insert(path.as_slice(), blob),
            }
        }
        (now, left_out)
    }
}

impl Changes {
    /// The patch from the commit `base`, or from the one that was sent, for `git apply`.
    ///
    /// # Errors
    /// When git cannot make it.
    pub fn patch(&self, base: Option<&str>) -> Result<Vec<u8>, WorkspaceError> {
        #[rustfmt::skip]
        let arguments = [
            "diff-tree", "-r", "-p", "--binary", "--full-index", "-M", "--no-color", "--no-ext-diff", "--no-textconv",
            "--src-prefix=a/", "--dst-prefix=b/", base.unwrap_or(&self.base), &self.work,
        ];
        Ok(self.scratch.run(&arguments, &[])?)
    }

    /// The files that the patch changes.
    ///
    /// # Errors
    /// When git cannot tell.
    pub fn list(&self, base: Option<&str>) -> Result<Vec<Change>, WorkspaceError> {
        let arguments =
            ["diff-tree", "-r", "-z", "-M", "--name-status", base.unwrap_or(&self.base), &self.work];
        let listed = self.scratch.run(&arguments, &[])?;
        let mut words =
            listed.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let mut changes = Vec::new();
        while let Some(status) = words.next().filter(|word| !word.is_empty()) {
            let mut next = || words.next().ok_or_else(|| odd("diff-tree", "a change without a path"));
            let (change, old_path) = match status.chars().next() {
                Some('A') => (ChangeKind::Added, None),
                Some('D') => (ChangeKind::Deleted, None),
                Some('R') => (ChangeKind::Renamed, Some(next()?)),
                Some('T') => (ChangeKind::TypeChanged, None),
                _ => (ChangeKind::Modified, None),
            };
            changes.push(Change { change, path: next()?, old_path });
        }
        Ok(changes)
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Refs at which this workspace's work was put before.
    pub(crate) fn pulled(&self) -> &BTreeMap<String, String> {
        &self.record.known.pulled
    }

    /// The workspace's folder in the guest.
    pub fn guest(&self) -> &[u8] {
        self.record.guest()
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn work(&self) -> &str {
        &self.work
    }

    /// The commit that was sent.
    pub(crate) fn sent(&self) -> Option<&str> {
        self.record.commit()
    }

    /// Whether that commit was sent at some time.
    pub(crate) fn was_sent(&self, id: &str) -> bool {
        self.record.known.commits.contains(id)
    }

    /// What is checked out in the guest: `heads/NAME`, or `HEAD` when that is no branch.
    pub(crate) fn head(&self) -> Option<&str> {
        let head = std::str::from_utf8(&self.head).ok()?.trim_end();
        match head.strip_prefix("ref: refs/") {
            Some(branch) => Some(branch),
            None if matches!(head.len(), 40 | 64) => Some("HEAD"),
            None => None,
        }
    }
}

/// The tree that has nothing.
fn empty_tree(scratch: &Scratch) -> Result<String, WorkspaceError> {
    Ok(object_id(&scratch.run(&["hash-object", "-t", "tree", "-w", "--stdin"], &[])?)?)
}

/// Why git would not take a file at `path`.
fn refused(path: &[u8]) -> Option<&'static str> {
    let of_git = |name: &[u8]| {
        let name = name.to_ascii_lowercase();
        name == b".git" || name == b"git~1" || name.strip_prefix(b".git").is_some_and(is_padding)
    };
    path.split(|byte| *byte == b'/').any(of_git).then_some("it could be taken for a repository's own")
}

/// What some file systems take for nothing at the end of a name.
fn is_padding(rest: &[u8]) -> bool {
    !rest.is_empty() && (rest.iter().all(|byte| matches!(byte, b' ' | b'.')) || rest.first() == Some(&b':'))
}

fn reason(kind: Kind) -> &'static str {
    match kind {
        Kind::File | Kind::Link => "it could not be read",
        Kind::Repository => "it is a repository of its own",
        Kind::Unread => "it is a folder that could not be read",
        Kind::Special => "it is a device, pipe or socket",
    }
}

fn to_os(path: &[u8]) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(path.to_vec())
}

/// Calls `take` with each file and link of a stream of paths: its path, mode as git has it, and content. What came only
/// in part counts as not there.
fn each_file(
    input: impl Read,
    mut take: impl FnMut(&[u8], u32, &mut dyn Read) -> Result<(), WorkspaceError>,
) -> Result<(), WorkspaceError> {
    let mut reader = Reader::new(input)?;
    match reader.next_item()? {
        Item::Folder(entry) if entry.name.is_empty() => {}
        _ => return Err(StreamError::Malformed("it does not begin with a folder without a name").into()),
    }
    let mut folders: Vec<Vec<u8>> = Vec::new();
    loop {
        match reader.next_item()? {
            Item::End => return Ok(()),
            Item::Folder(entry) => folders.push(joined(&folders, &entry.name)),
            Item::Leave => _ = folders.pop(),
            Item::Remove(_) => return Err(StreamError::Malformed("a removal").into()),
            Item::Link(entry, target) => take(&joined(&folders, &entry.name), LINK, &mut &*target)?,
            Item::File(entry) => {
                let path = joined(&folders, &entry.name);
                let mode = if entry.mode & 0o100 != 0 { PROGRAM } else { FILE };
                if let Some(mut content) = spooled(&mut reader)? {
                    take(&path, mode, &mut content)?;
                }
            }
        }
    }
}

fn joined(folders: &[Vec<u8>], name: &[u8]) -> Vec<u8> {
    match folders.last() {
        Some(folder) => [folder, &b"/"[..], name].concat(),
        None => name.to_vec(),
    }
}

/// The file that has begun, if all of it comes.
fn spooled(reader: &mut Reader<impl Read>) -> Result<Option<SpooledTempFile>, WorkspaceError> {
    let mut spool = spooled_tempfile(IN_MEMORY);
    loop {
        match reader.next_part()? {
            Part::Bytes(bytes) => spool.write_all(bytes).map_err(writing(std::env::temp_dir()))?,
            Part::Broken => return Ok(None),
            Part::Whole => {
                io::Seek::rewind(&mut spool).map_err(writing(std::env::temp_dir()))?;
                return Ok(Some(spool));
            }
        }
    }
}

/// `git fast-import`: blobs as they come, then one commit.
struct Import {
    child: Child,
    stdin: io::BufWriter<ChildStdin>,
    marks: usize,
}

impl Import {
    fn begin(scratch: &Scratch) -> Result<Self, WorkspaceError> {
        let mut command = scratch.command([
            "-c",
            "fastimport.unpackLimit=1",
            "fast-import",
            "--quiet",
            "--force",
            "--done",
        ]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| GitError::Run { what: FAST_IMPORT.to_owned(), source })?;
        let stdin = child.stdin.take().ok_or_else(|| odd(FAST_IMPORT, "it has no input"))?;
        Ok(Self { child, stdin: io::BufWriter::with_capacity(64 << 10, stdin), marks: 0 })
    }

    /// Gives it a blob, and returns its mark.
    fn blob(&mut self, content: &mut dyn Read) -> Result<usize, WorkspaceError> {
        let mut bytes = spooled_tempfile(IN_MEMORY);
        let size = io::copy(content, &mut bytes).map_err(writing(std::env::temp_dir()))?;
        io::Seek::rewind(&mut bytes).map_err(writing(std::env::temp_dir()))?;
        self.marks += 1;
        self.say(format!("blob\nmark :{}\ndata {size}\n", self.marks).as_bytes())?;
        if let Err(error) = io::copy(&mut bytes, &mut self.stdin) {
            return Err(self.failed(error));
        }
        self.say(b"\n")?;
        Ok(self.marks)
    }

    fn commit(&mut self, parent: Option<&str>) -> Result<(), WorkspaceError> {
        let mut head = format!("commit {WORK}\ncommitter banger <banger@localhost> 0 +0000\ndata 0\n");
        if let Some(parent) = parent {
            head.push_str(&format!("from {parent}\n"));
        }
        self.say(head.as_bytes())
    }

    fn modify(&mut self, mode: u32, id: &str, path: &[u8]) -> Result<(), WorkspaceError> {
        self.say(&[format!("M {mode:o} {id} ").as_bytes(), &quote(path), b"\n"].concat())
    }

    fn delete(&mut self, path: &[u8]) -> Result<(), WorkspaceError> {
        self.say(&[b"D ", &*quote(path), b"\n"].concat())
    }

    fn end(mut self) -> Result<(), WorkspaceError> {
        self.say(b"\ndone\n")?;
        if let Err(error) = self.stdin.flush() {
            return Err(self.failed(error));
        }
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        let stderr = heard(child.stderr.take());
        let status = child.wait().map_err(|source| GitError::Run { what: FAST_IMPORT.to_owned(), source })?;
        if status.success() {
            Ok(())
        } else {
            Err(GitError::Failed { what: FAST_IMPORT.to_owned(), stderr }.into())
        }
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), WorkspaceError> {
        self.stdin.write_all(bytes).map_err(|error| self.failed(error))
    }

    /// Why it takes no more: what it has said itself, if it has.
    fn failed(&mut self, source: io::Error) -> WorkspaceError {
        let _ = self.child.kill();
        let stderr = heard(self.child.stderr.take());
        let _ = self.child.wait();
        let what = FAST_IMPORT.to_owned();
        if stderr.is_empty() {
            GitError::Run { what, source }.into()
        } else {
            GitError::Failed { what, stderr }.into()
        }
    }
}

const FAST_IMPORT: &str = "fast-import";
