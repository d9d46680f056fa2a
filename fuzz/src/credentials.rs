//! Reads a login file and an image's name, separated by a zero byte, and a credential helper's output: the same helper
//! each time, which is the name of a program.

use banger::fuzzing::{find_credentials, read_helper_output};

pub(crate) fn run(data: &[u8]) {
    read_helper_output(data);
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let file = parts.next().unwrap_or_default();
    let Ok(image) = std::str::from_utf8(parts.next().unwrap_or_default()) else { return };
    let helper = find_credentials(file, image);
    assert_eq!(helper, find_credentials(file, image));
    if let Some(helper) = helper {
        assert!(helper.starts_with("docker-credential-") && !helper.contains(['/', '\0']), "{helper}");
    }
}
