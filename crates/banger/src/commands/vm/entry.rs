//! The command of a VM without a repository: the user's, else the image's own, else a shell.

use std::path::Path;

use banger_api::{Image, ImageConfig};

use crate::session::GuestCommand;

/// Shells: an image with one of these as its command has no program of its own.
const SHELLS: [&str; 8] = ["sh", "bash", "ash", "dash", "zsh", "ksh", "fish", "busybox"];

/// Programs that run as PID 1.
const INITS: [&str; 2] = ["init", "systemd"];

/// Returns the user's `command`, or `entrypoint` with it, with the user and directory of `image`. Without either,
/// returns the image's own command if it has no init, or else a login shell.
pub(super) fn guest_command(image: &Image, entrypoint: Option<&str>, command: &[String]) -> GuestCommand {
    let ImageConfig { working_dir, user, .. } = image.config.clone();
    let argv: Vec<_> = match entrypoint {
        Some(program) => [&[program.to_owned()], command].concat(),
        None if command.is_empty() => image_command(image),
        None => command.to_vec(),
    };
    if argv.is_empty() {
        GuestCommand::default()
    } else {
        GuestCommand { argv, cwd: working_dir, user, ..GuestCommand::default() }
    }
}

/// Returns the program that `image` is for, unless it is only a shell or an init.
fn image_command(image: &Image) -> Vec<String> {
    let argv = [image.config.entrypoint.as_slice(), &image.config.cmd].concat();
    let is_shell_or_init = match argv.as_slice() {
        [program] => {
            let name = Path::new(program).file_name().unwrap_or_default();
            SHELLS.iter().chain(&INITS).any(|known| name == *known)
        }
        _ => false,
    };
    if image.init.is_some() || is_shell_or_init { Vec::new() } else { argv }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(init: Option<&str>, entrypoint: &[&str], cmd: &[&str]) -> Image {
        let json = serde_json::json!({
            "id": "0123456789abcdef", "name": "app", "size": 0, "disk_usage": 0, "entries": 1, "init": init,
            "source": "registry", "created_at": "2026-01-01T00:00:00Z", "used_by": [],
            "config": {"entrypoint": entrypoint, "cmd": cmd, "working_dir": "/srv", "user": "65532:65532"},
        });
        serde_json::from_value(json).unwrap()
    }

    #[track_caller]
    fn assert_runs(image: &Image, entrypoint: Option<&str>, command: &[&str], argv: &[&str]) {
        let command: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
        let guest_command = guest_command(image, entrypoint, &command);
        assert_eq!(guest_command.argv, argv);
        let image_settings = (Some("/srv"), Some("65532:65532"));
        let expected = if argv.is_empty() { (None, None) } else { image_settings };
        assert_eq!((guest_command.cwd.as_deref(), guest_command.user.as_deref()), expected);
    }

    #[test]
    fn images_without_an_init_run_their_own_command_or_the_users() {
        let app = image(None, &["/app", "--serve"], &["80"]);
        assert_runs(&app, None, &[], &["/app", "--serve", "80"]);
        assert_runs(&app, None, &["ls", "-l"], &["ls", "-l"]);
        assert_runs(&app, Some("/other"), &[], &["/other"]);
        assert_runs(&app, Some("/other"), &["-v"], &["/other", "-v"]);
        assert_runs(&image(None, &[], &["node", "x.js"]), None, &[], &["node", "x.js"]);
    }

    #[test]
    fn images_with_only_a_shell_or_an_init_run_a_login_shell() {
        for cmd in ["/bin/sh", "bash", "/sbin/init", "/lib/systemd/systemd"] {
            assert_runs(&image(None, &[], &[cmd]), None, &[], &[]);
        }
        assert_runs(&image(None, &[], &[]), None, &[], &[]);
        assert_runs(&image(None, &["sh"], &["-c", "serve"]), None, &[], &["sh", "-c", "serve"]);
        let machine = image(Some("/sbin/init"), &["/app"], &[]);
        assert_runs(&machine, None, &[], &[]);
        assert_runs(&machine, None, &["id"], &["id"]);
        assert_runs(&machine, Some("/app"), &[], &["/app"]);
    }
}
