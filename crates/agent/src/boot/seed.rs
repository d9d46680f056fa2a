//! Copies the image's files in the root user's home to a fresh work disk.
//!
//! A disk is fresh while it holds only `lost+found`, which seeding removes. The copy is made in a separate directory
//! first, so that an interrupted copy is repeated and the user's files are never overwritten.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink},
    path::Path,
};

use super::error::{BootError, failed};

const SEEDING: &str = ".banger-seeding";
const LOST_AND_FOUND: &str = "lost+found";

/// Copies `home` to the work disk mounted at `disk`, if the disk is fresh.
pub(super) fn seed(home: &Path, disk: &Path) -> Result<(), BootError> {
    let copy = disk.join(SEEDING);
    if copy.exists() {
        fs::remove_dir_all(&copy).map_err(failed("remove", &copy))?;
    } else if !is_fresh(disk).map_err(failed("read", disk))? {
        return Ok(());
    }
    fs::create_dir(&copy).map_err(failed("create", &copy))?;
    copy_tree(home, &copy).map_err(failed("copy the image's home to", disk))?;
    publish(&copy, disk).map_err(failed("fill", disk))?;
    let lost = disk.join(LOST_AND_FOUND);
    match fs::remove_dir(&lost) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", lost)(error)),
        _ => Ok(()),
    }
}

fn is_fresh(disk: &Path) -> io::Result<bool> {
    let names = fs::read_dir(disk)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    Ok(names == [LOST_AND_FOUND])
}

/// Moves the entries of `copy` to `disk`; keeps entries that an interrupted seeding has already moved.
fn publish(copy: &Path, disk: &Path) -> io::Result<()> {
    for entry in fs::read_dir(copy)? {
        let entry = entry?;
        let to = disk.join(entry.file_name());
        if fs::symlink_metadata(&to).is_err() {
            fs::rename(entry.path(), to)?;
        }
    }
    fs::remove_dir_all(copy)
}

/// Copies files, directories and links with their owners and modes; skips sockets and devices.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = fs::symlink_metadata(&source)?;
        let owner = (Some(meta.uid()), Some(meta.gid()));
        if meta.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            lchown(&target, owner.0, owner.1)?;
            continue;
        } else if meta.is_dir() {
            fs::create_dir(&target)?;
            copy_tree(&source, &target)?;
        } else if meta.is_file() {
            fs::copy(&source, &target)?;
        } else {
            continue;
        }
        chown(&target, owner.0, owner.1)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_fresh_disk_is_seeded_once_and_user_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (home, disk) = (dir.path().join("home"), dir.path().join("disk"));
        fs::create_dir_all(home.join("sub")).unwrap();
        fs::write(home.join(".profile"), "image").unwrap();
        fs::write(home.join("sub/tool"), "x").unwrap();
        fs::set_permissions(home.join("sub/tool"), fs::Permissions::from_mode(0o750)).unwrap();
        symlink("sub/tool", home.join("link")).unwrap();
        fs::create_dir_all(disk.join(LOST_AND_FOUND)).unwrap();

        seed(&home, &disk).unwrap();
        assert_eq!(listing(&disk), [".profile", "link", "sub"]);
        assert_eq!(fs::metadata(disk.join("sub/tool")).unwrap().mode() & 0o777, 0o750);

        fs::write(disk.join(".profile"), "mine").unwrap();
        fs::remove_file(disk.join("link")).unwrap();
        seed(&home, &disk).unwrap();
        assert_eq!(listing(&disk), [".profile", "sub"]);
        assert_eq!(fs::read(disk.join(".profile")).unwrap(), b"mine");
    }

    #[test]
    fn an_interrupted_seeding_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let (home, disk) = (dir.path().join("home"), dir.path().join("disk"));
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("a"), "image").unwrap();
        fs::write(home.join("b"), "image").unwrap();
        fs::create_dir_all(disk.join(SEEDING)).unwrap();
        fs::create_dir(disk.join(LOST_AND_FOUND)).unwrap();
        fs::write(disk.join(SEEDING).join("b"), "ha").unwrap();
        fs::write(disk.join("a"), "image").unwrap();
        seed(&home, &disk).unwrap();
        assert_eq!(listing(&disk), ["a", "b"]);
        assert_eq!(fs::read(disk.join("b")).unwrap(), b"image");
    }

    #[test]
    fn an_emptied_disk_is_not_seeded() {
        let dir = tempfile::tempdir().unwrap();
        let (home, disk) = (dir.path().join("home"), dir.path().join("disk"));
        fs::create_dir_all(&home).unwrap();
        fs::create_dir_all(&disk).unwrap();
        fs::write(home.join("a"), "image").unwrap();
        seed(&home, &disk).unwrap();
        assert_eq!(listing(&disk), [] as [&str; 0]);
    }
}
