//! Reports the guest's TCP listeners to the host as they change.
//!
//! The kernel has no event for a new listener, so its tables are read at a short interval while the host watches.

use std::{convert::Infallible, io, time::Duration};

use banger_proto::{Listener, Reply, Transport};
use banger_sys::{ListeningSocket, SocketProtocol};
use tokio::{task::spawn_blocking, time::sleep};

use crate::connection::{Incoming, Outgoing};

/// Interval between two looks at the tables: a new listener should be reported at once for a person.
const INTERVAL: Duration = Duration::from_millis(250);

/// Maximum number of listeners in a report.
const MAX_LISTENERS: usize = 256;

/// Reports the listeners, until the host disconnects.
pub(crate) async fn watch(mut incoming: Incoming, mut outgoing: Outgoing) {
    tokio::select! {
        // The host sends nothing more; this waits until it disconnects.
        _ = incoming.next() => {}
        _ = report(&mut outgoing) => {}
    }
}

async fn report(outgoing: &mut Outgoing) -> io::Result<Infallible> {
    let mut reported = None;
    loop {
        let tcp = || banger_sys::listeners(SocketProtocol::Tcp);
        let listeners = of(spawn_blocking(tcp).await.unwrap_or_default());
        if reported.as_ref() != Some(&listeners) {
            outgoing.send_message(&Reply::Ports { listeners: listeners.clone() }).await?;
            reported = Some(listeners);
        }
        sleep(INTERVAL).await;
    }
}

/// Returns the listeners of sockets, sorted by port, each once.
fn of(mut sockets: Vec<ListeningSocket>) -> Vec<Listener> {
    sockets.sort_by_key(|socket| (socket.port, socket.address));
    sockets.dedup_by_key(|socket| (socket.port, socket.address));
    sockets.truncate(MAX_LISTENERS);
    let listener = |ListeningSocket { address, port, .. }| Listener {
        protocol: Transport::Tcp,
        address,
        port,
        pid: None,
        process: None,
        http: false,
    };
    sockets.into_iter().map(listener).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_sorted_and_several_sockets_of_a_port_are_one() {
        let socket = |port, inode| ListeningSocket { address: [127, 0, 0, 1].into(), port, inode };
        let listeners = of(vec![socket(80, 1), socket(22, 2), socket(80, 3)]);
        assert_eq!(listeners.iter().map(|listener| listener.port).collect::<Vec<_>>(), [22, 80]);
        assert_eq!(of((1..1000).map(|port| socket(port, 1)).collect()).len(), MAX_LISTENERS);
    }
}
