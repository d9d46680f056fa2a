//! Serves ssh: packets before the keys are exchanged if the first byte is odd, or else messages about channels.

use banger_ssh_server::fuzzing::{ssh_channels, ssh_transport};

pub(crate) fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    if kind % 2 == 1 {
        ssh_transport(bytes, usize::from(*kind));
    } else {
        ssh_channels(bytes);
    }
}
