//! Finds the init of a root file system. The host reports it for an image, the agent runs it.
//!
//! An init is the first of [`INITS`] that is executable and would boot a system. These would not:
//!
//! - programs that only run another program, such as `tini`;
//! - a busybox without its boot scripts. Container images have `/sbin/init` as a name of their busybox, and an
//!   inittab that needs openrc, but no openrc. The check looks for the first program that busybox would start: the
//!   first in `/etc/inittab`, or without that file `/etc/init.d/rcS`.
//!
//! If there is no init, the agent stays PID 1.

/// Paths of distributions' inits, in the order in which kernel and initrds look.
const INITS: [&str; 3] = ["/sbin/init", "/etc/init", "/usr/lib/systemd/systemd"];

/// Programs that only run another program.
const WRAPPERS: [&str; 5] = ["tini", "tini-static", "dumb-init", "catatonit", "docker-init"];

/// Directories in which busybox's init looks for programs (its `init.c`).
const DIRS: [&str; 4] = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"];

/// Actions of an inittab that busybox starts by itself.
const START_ACTIONS: [&str; 4] = ["sysinit", "wait", "once", "respawn"];

/// A root file system. Links are resolved within it.
pub trait Root {
    /// Returns the file at `path`, with all links followed, if it is executable.
    fn program(&self, path: &str) -> Option<Executable>;
    /// Returns the text at `path`, or its beginning.
    fn text(&self, path: &str) -> Option<String>;
}

/// An executable file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// File name after all links are followed, without its directory.
    pub name: String,
    /// Identifies the file, independent of its names.
    pub file: u64,
}

/// Kinds of init that the agent distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitKind {
    /// systemd.
    Systemd,
    /// busybox's init.
    Busybox,
    /// Any other: sysvinit, openrc-init, runit, s6, a script, …
    Other,
}

/// Returns the path of the init of `root`, if it has one.
pub fn find_init(root: &impl Root) -> Option<&'static str> {
    INITS.into_iter().find(|path| root.program(path).is_some_and(|program| boots_system(root, &program)))
}

/// Returns the kind of init that `program` is.
pub fn kind_of_init(root: &impl Root, program: &Executable) -> InitKind {
    let is_busybox = || root.program("/bin/busybox").is_some_and(|busybox| busybox.file == program.file);
    match program.name.as_str() {
        "systemd" => InitKind::Systemd,
        name if name.starts_with("busybox") || is_busybox() => InitKind::Busybox,
        _ => InitKind::Other,
    }
}

fn boots_system(root: &impl Root, program: &Executable) -> bool {
    if WRAPPERS.contains(&program.name.as_str()) {
        return false;
    }
    kind_of_init(root, program) != InitKind::Busybox
        || match root.text("/etc/inittab") {
            Some(inittab) => first_started(&inittab).is_some_and(|first| is_runnable(root, first)),
            None => is_runnable(root, "/etc/init.d/rcS"),
        }
}

fn is_runnable(root: &impl Root, program: &str) -> bool {
    if program.contains('/') {
        return root.program(program).is_some();
    }
    DIRS.iter().any(|dir| root.program(&format!("{dir}/{program}")).is_some())
}

/// Returns the first program of an inittab, whose lines are `id:runlevels:action:process`.
fn first_started(inittab: &str) -> Option<&str> {
    let mut lines = inittab.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.find_map(|line| {
        let mut fields = line.splitn(4, ':');
        let (action, process) = (fields.nth(2)?, fields.next()?);
        let program = process.split_whitespace().next()?;
        // A dash makes it a login shell.
        START_ACTIONS.contains(&action).then(|| program.trim_start_matches('-'))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Programs by path, each with its resolved name and its file, and texts by path.
    #[derive(Default)]
    struct Files(BTreeMap<&'static str, Executable>, BTreeMap<&'static str, &'static str>);

    impl Root for Files {
        fn program(&self, path: &str) -> Option<Executable> {
            self.0.get(path).cloned()
        }

        fn text(&self, path: &str) -> Option<String> {
            self.1.get(path).map(|text| (*text).to_owned())
        }
    }

    const ALPINE_INITTAB: &str = "# /etc/inittab\n\n::sysinit:/sbin/openrc sysinit\n\
        ::sysinit:/sbin/openrc boot\n::wait:/sbin/openrc default\n\
        tty1::respawn:/sbin/getty 38400 tty1\n::ctrlaltdel:/sbin/reboot\n";

    fn init(
        programs: &[(&'static str, &str, u64)],
        texts: &[(&'static str, &'static str)],
    ) -> Option<&'static str> {
        let program = |&(path, name, file): &(&'static str, &str, u64)| {
            (path, Executable { name: name.to_owned(), file })
        };
        find_init(&Files(programs.iter().map(program).collect(), texts.iter().copied().collect()))
    }

    #[test]
    fn inits_are_found_at_their_usual_paths() {
        let systemd = ("/usr/lib/systemd/systemd", "systemd", 1);
        assert_eq!(init(&[systemd, ("/sbin/init", "systemd", 1)], &[]), Some("/sbin/init"));
        assert_eq!(init(&[systemd], &[]), Some("/usr/lib/systemd/systemd"));
        for other in ["init", "openrc-init", "runit-init", "script.sh"] {
            assert_eq!(init(&[("/sbin/init", other, 1)], &[]), Some("/sbin/init"), "{other}");
        }
        assert_eq!(init(&[("/etc/init", "init", 1)], &[]), Some("/etc/init"));
        assert_eq!(init(&[("/init", "init", 1), ("/bin/sh", "sh", 2)], &[]), None);
    }

    #[test]
    fn programs_that_only_run_another_program_are_not_inits() {
        for wrapper in WRAPPERS {
            assert_eq!(init(&[("/sbin/init", wrapper, 1)], &[]), None, "{wrapper}");
        }
        let systemd = ("/usr/lib/systemd/systemd", "systemd", 2);
        assert_eq!(init(&[("/sbin/init", "tini", 1), systemd], &[]), Some("/usr/lib/systemd/systemd"));
    }

    #[test]
    fn busybox_is_an_init_only_if_its_first_program_exists() {
        let busybox = [("/sbin/init", "busybox", 1), ("/bin/busybox", "busybox", 1)];
        let hard_linked = [("/sbin/init", "init", 1), ("/bin/busybox", "busybox", 1)];
        let with = |more: &[(&'static str, &'static str, u64)], inittab| {
            let texts = [("/etc/inittab", inittab)];
            let inits = [busybox, hard_linked].map(|files| init(&[&files, more].concat(), &texts));
            assert_eq!(inits[0], inits[1]);
            inits[0]
        };
        let (openrc, getty) = (("/sbin/openrc", "openrc", 2), ("/sbin/getty", "busybox", 1));
        assert_eq!(with(&[getty], ALPINE_INITTAB), None);
        assert_eq!(with(&[openrc], ALPINE_INITTAB), Some("/sbin/init"));
        assert_eq!(with(&[getty], "tty1::respawn:-getty 38400\n"), Some("/sbin/init"));
        assert_eq!(with(&[], "tty1::respawn:-getty 38400\n"), None);
        assert_eq!(with(&[getty], "::shutdown:/sbin/getty\nnonsense\n:::\n"), None);
        let script = ("/etc/init.d/rcS", "rcS", 3);
        assert_eq!(with(&[script], ""), None);
        for files in [busybox, hard_linked] {
            assert_eq!(init(&files, &[]), None);
            assert_eq!(init(&[&files[..], &[script]].concat(), &[]), Some("/sbin/init"));
        }
    }
}
