//! The guest's users: `/etc/passwd` and `/etc/group`, read here because a static program cannot ask the C library.

use std::fs;

use banger_proto::FailureKind;
use banger_sys::Credentials;

use crate::failure::Failure;

/// A user, with the fields that a login needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups, including the user's own.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
    pub(crate) shell: String,
}

impl User {
    /// Returns the credentials for the user's programs and threads.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials { uid: self.uid, gid: self.gid, groups: self.groups.clone() }
    }
}

/// Finds the guest's user `spec`: `USER[:GROUP]`, each a name or a number; root by default.
pub(crate) fn lookup(spec: Option<&str>) -> Result<User, Failure> {
    let read = |path: &str| fs::read(path).unwrap_or_default();
    find(&read("/etc/passwd"), &read("/etc/group"), spec.unwrap_or("root"))
        .map_err(|missing| Failure::new(FailureKind::NotFound, missing))
}

/// Finds the user `spec`, names before numbers. Root needs no entry in `passwd`, and any number is valid.
fn find(passwd: &[u8], group: &[u8], spec: &str) -> Result<User, String> {
    let (passwd, group) = (String::from_utf8_lossy(passwd), String::from_utf8_lossy(group));
    let (name, group_name) = spec.split_once(':').map_or((spec, None), |(user, group)| (user, Some(group)));
    let users = || passwd.lines().filter_map(user);
    let number: Option<u32> = name.parse().ok();
    let mut user = users()
        .find(|user| user.name == name)
        .or_else(|| users().find(|user| Some(user.uid) == number))
        .or_else(|| matches!(name, "root" | "0").then(root))
        .or_else(|| number.map(unnamed))
        .ok_or_else(|| format!("there is no user {name:?} in the guest"))?;
    match group_name.filter(|name| !name.is_empty()) {
        // As for a container: only this group.
        Some(name) => {
            user.gid = group_number(&group, name)
                .ok_or_else(|| format!("there is no group {name:?} in the guest"))?;
            user.groups = vec![user.gid];
        }
        None => user.groups = groups(&group, &user),
    }
    Ok(user)
}

/// Returns the user of a number that no file lists.
fn unnamed(uid: u32) -> User {
    User { name: uid.to_string(), uid, home: "/".into(), ..root() }
}

fn root() -> User {
    User {
        name: "root".into(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        home: "/root".into(),
        shell: "/bin/sh".into(),
    }
}

/// Parses passwd(5): name, password, user, group, comment, home, shell.
fn user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    let or = |field: Option<&str>, default: &str| {
        field.filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
    };
    let home = or(fields.nth(1), "/");
    let shell = or(fields.next(), "/bin/sh");
    Some(User { name, uid, gid, groups: Vec::new(), home, shell })
}

fn group_number(file: &str, name: &str) -> Option<u32> {
    let named = file.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    match named {
        Some(rest) => rest.split(':').nth(1)?.parse().ok(),
        None => name.parse().ok(),
    }
}

/// Finds a user's groups in group(5): name, password, number, members.
fn groups(file: &str, user: &User) -> Vec<u32> {
    let member = |line: &str| {
        let mut fields = line.split(':');
        let number: u32 = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|name| name == user.name).then_some(number)
    };
    let mut groups = vec![user.gid];
    groups.extend(file.lines().filter_map(member).filter(|number| *number != user.gid));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\nbroken\ndev:x:1000:1000:,,,:/home/dev:\n7:x:8:8::/:/bin/sh\n\xff:x:a:b\n";
    const GROUP: &[u8] = b"root:x:0:\nsudo:x:27:other,dev\ndev:x:1000:dev\nbad:x:y:dev\ndocker:x:999:dev\n";

    #[test]
    fn a_user_is_found_by_name_before_number() {
        let dev = find(PASSWD, GROUP, "dev").unwrap();
        assert_eq!((dev.uid, dev.gid, dev.groups.as_slice()), (1000, 1000, &[1000, 27, 999][..]));
        assert_eq!((dev.home.as_str(), dev.shell.as_str()), ("/home/dev", "/bin/sh"));
        assert_eq!(find(PASSWD, GROUP, "1000"), Ok(dev));
        assert_eq!(find(PASSWD, GROUP, "7").unwrap().uid, 8);
        assert_eq!(find(PASSWD, GROUP, "root").unwrap().shell, "/bin/bash");
        assert!(find(PASSWD, GROUP, "nobody").unwrap_err().contains("no user \"nobody\""));
        assert!(find(PASSWD, GROUP, "broken").is_err());
    }

    #[test]
    fn a_given_group_replaces_all_others_and_numbers_need_no_entry() {
        let found = |spec| find(PASSWD, GROUP, spec).map(|user| (user.uid, user.gid, user.groups));
        assert_eq!(found("dev:sudo"), Ok((1000, 27, vec![27])));
        assert_eq!(found("dev:5"), Ok((1000, 5, vec![5])));
        assert_eq!(found("root:docker"), Ok((0, 999, vec![999])));
        assert_eq!(found("dev:"), found("dev"));
        assert_eq!(found("65532:65532"), Ok((65532, 65532, vec![65532])));
        assert_eq!(found("dev:wheel"), Err("there is no group \"wheel\" in the guest".to_owned()));
        assert_eq!(found("4294967296"), Err("there is no user \"4294967296\" in the guest".to_owned()));
        assert!(found(":5").is_err());
        let unnamed = find(b"", b"", "65532").unwrap();
        assert_eq!((unnamed.name.as_str(), unnamed.gid, unnamed.home.as_str()), ("65532", 0, "/"));
    }

    #[test]
    fn root_needs_no_passwd_entry() {
        let root = find(b"", b"", "root").unwrap();
        assert_eq!((root.uid, root.groups.as_slice(), root.shell.as_str()), (0, &[0][..], "/bin/sh"));
        assert!(find(b"", b"", "dev").is_err());
    }
}
