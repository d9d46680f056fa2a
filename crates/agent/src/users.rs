//! The guest's users: `/etc/passwd` and `/etc/group`, read here because a static program cannot ask the C library.

use std::fs;

use banger_proto::FailureKind;
use banger_sys::Credentials;

use crate::failure::Failure;

/// A user, as far as a login needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups, the user's own among them.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
    pub(crate) shell: String,
}

impl User {
    /// What a program or thread of theirs runs as.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials { uid: self.uid, gid: self.gid, groups: self.groups.clone() }
    }
}

/// The guest's user called `wanted`, by name or number; root where nobody is named.
pub(crate) fn of_guest(wanted: Option<&str>) -> Result<User, Failure> {
    let read = |path: &str| fs::read(path).unwrap_or_default();
    let wanted = wanted.unwrap_or("root");
    let user = find(&read("/etc/passwd"), &read("/etc/group"), wanted);
    let missing = || format!("there is no user {wanted:?} in the guest");
    user.ok_or_else(|| Failure::new(FailureKind::NotFound, missing()))
}

/// The user called `wanted`, by name or number. Root is there even where no file says so.
fn find(passwd: &[u8], group: &[u8], wanted: &str) -> Option<User> {
    let (passwd, group) = (String::from_utf8_lossy(passwd), String::from_utf8_lossy(group));
    let users = || passwd.lines().filter_map(user);
    let number: Option<u32> = wanted.parse().ok();
    let mut user = users()
        .find(|user| user.name == wanted)
        .or_else(|| users().find(|user| Some(user.uid) == number))
        .or_else(|| matches!(wanted, "root" | "0").then(root))?;
    user.groups = groups(&group, &user);
    Some(user)
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

/// passwd(5): name, password, user, group, comment, home, shell.
fn user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    let or = |field: Option<&str>, otherwise: &str| {
        field.filter(|text| !text.is_empty()).unwrap_or(otherwise).to_owned()
    };
    let home = or(fields.nth(1), "/");
    let shell = or(fields.next(), "/bin/sh");
    Some(User { name, uid, gid, groups: Vec::new(), home, shell })
}

/// group(5): name, password, number, members.
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
        assert_eq!(find(PASSWD, GROUP, "1000"), Some(dev));
        assert_eq!(find(PASSWD, GROUP, "7").unwrap().uid, 8);
        assert_eq!(find(PASSWD, GROUP, "root").unwrap().shell, "/bin/bash");
        assert_eq!(find(PASSWD, GROUP, "nobody"), None);
        assert_eq!(find(PASSWD, GROUP, "broken"), None);
    }

    #[test]
    fn root_needs_no_file() {
        let root = find(b"", b"", "root").unwrap();
        assert_eq!((root.uid, root.groups.as_slice(), root.shell.as_str()), (0, &[0][..], "/bin/sh"));
        assert_eq!(find(b"", b"", "dev"), None);
    }
}
