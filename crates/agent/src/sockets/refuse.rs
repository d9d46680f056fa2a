//! Refuses a request.

use banger_proto::Reply;

use crate::{connection::Outgoing, failure::Failure};

/// Sends `failure` as the last reply.
pub(super) async fn refuse(failure: Failure, mut outgoing: Outgoing) {
    // The host may have closed the connection.
    let _ = outgoing.send_message(&Reply::from(failure)).await;
    outgoing.finish().await;
}
