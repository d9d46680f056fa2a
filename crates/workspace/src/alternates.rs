//! The directories in which git finds a repository's objects.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use crate::git::read_file;

/// Maximum depth of lists that lead to others, as in git.
const MAX_DEPTH: usize = 5;

/// Maximum number of directories.
const MAX_DIRS: usize = 100;

/// Returns what git has to be able to read for the objects in `objects` and the directories that it borrows from: these,
/// and directories of packs to which a link leads.
pub(crate) fn object_paths(objects: &Path) -> Vec<PathBuf> {
    let dirs = object_dirs(objects);
    let links = dirs.iter().map(|dir| dir.join("pack")).filter(|pack| pack.is_symlink());
    // A hostile repository chooses the link. Directories of other names hold no packs.
    let targets = links.filter_map(|pack| pack.canonicalize().ok()).filter(|pack| pack.ends_with("pack"));
    let targets: Vec<_> = targets.collect();
    dirs.into_iter().chain(targets).collect()
}

/// Returns `objects`, a repository's directory of objects, and those that it borrows from (gitrepository-layout(5),
/// `objects/info/alternates`). A directory in the list that holds no packs is left out: the list may be hostile.
fn object_dirs(objects: &Path) -> Vec<PathBuf> {
    let mut dirs = vec![objects.to_owned()];
    let mut borrowing = dirs.clone();
    for _ in 0..MAX_DEPTH {
        borrowing = borrowing.iter().flat_map(|dir| alternates(dir)).collect();
        borrowing.retain(|dir| !dirs.contains(dir));
        dirs.extend(borrowing.iter().cloned());
        dirs.truncate(MAX_DIRS);
    }
    dirs
}

/// Returns the directories that the list in `objects` names.
fn alternates(objects: &Path) -> Vec<PathBuf> {
    // git reports a list that it cannot read.
    let list = read_file(&objects.join("info/alternates")).ok().flatten().unwrap_or_default();
    let lines = list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    let paths = lines.filter_map(|line| match line.strip_prefix(b"\"") {
        Some(quoted) => unquoted(quoted),
        None => Some(line.to_vec()),
    });
    let dirs = paths.map(|path| objects.join(OsString::from_vec(path)));
    dirs.filter(|dir| dir.join("pack").is_dir()).collect()
}

/// Undoes git's quoting of a path, after the opening quote. Returns `None` if it is malformed.
fn unquoted(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut path = Vec::new();
    let mut rest = quoted;
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        path.push(match byte {
            b'"' => return Some(path),
            b'\\' => {
                let (&escape, after) = rest.split_first()?;
                rest = after;
                match escape {
                    b'a' => 7,
                    b'b' => 8,
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'v' => 11,
                    b'f' => 12,
                    b'r' => b'\r',
                    b'"' | b'\\' => escape,
                    b'0'..=b'3' => {
                        let (digits, after) = rest.split_at_checked(2)?;
                        rest = after;
                        let digits = std::str::from_utf8(digits).ok()?;
                        u8::from_str_radix(digits, 8).ok()? | (escape - b'0') << 6
                    }
                    _ => return None,
                }
            }
            byte => byte,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::temp_repo::quote;

    #[test]
    fn borrowed_objects_are_found_in_every_form_of_the_list_and_circles_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).join("objects");
        for name in ["a", "b", "c", "d\n\u{e4}\""] {
            fs::create_dir_all(path(name).join("pack")).unwrap();
            fs::create_dir_all(path(name).join("info")).unwrap();
        }
        let odd = path("d\n\u{e4}\"");
        let quoted = String::from_utf8(quote(odd.as_os_str().as_encoded_bytes())).unwrap();
        let list = format!("# a comment\n\n../../b/objects\n{quoted}\n{}\n\"\\x\n", dir.path().display());
        fs::write(path("a").join("info/alternates"), list).unwrap();
        fs::write(path("b").join("info/alternates"), format!("{}\n", path("c").display())).unwrap();
        fs::write(path("c").join("info/alternates"), format!("{}\n", path("a").display())).unwrap();
        let found = object_dirs(&path("a"));
        assert_eq!(found, [path("a"), path("a").join("../../b/objects"), odd, path("c")]);
        assert_eq!(object_dirs(&path("none")), [path("none")]);
    }

    #[test]
    fn a_link_to_a_directory_of_packs_is_followed_and_another_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().canonicalize().unwrap().join(name);
        for name in ["objects", "large/pack", "secret"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        let pack = path("objects/pack");
        symlink(path("large/pack"), &pack).unwrap();
        assert_eq!(object_paths(&path("objects")), [path("objects"), path("large/pack")]);
        fs::remove_file(&pack).unwrap();
        symlink(path("secret"), &pack).unwrap();
        assert_eq!(object_paths(&path("objects")), [path("objects")]);
    }

    #[test]
    fn quoted_paths_are_read_as_git_writes_them() {
        for bytes in [&b"plain"[..], b"a\"b\\c", b"\0\x01\xff\n\t", b""] {
            assert_eq!(unquoted(&quote(bytes)[1..]).as_deref(), Some(bytes));
        }
        assert_eq!(unquoted(b"\\t\\n\\a\"rest").as_deref(), Some(&b"\t\n\x07"[..]));
        for malformed in [&b"open"[..], b"\\", b"\\9\"", b"\\08\"", b"\\0", b"\\400\""] {
            assert_eq!(unquoted(malformed), None);
        }
    }
}
