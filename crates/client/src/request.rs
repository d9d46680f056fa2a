//! Requests to a guest's agent with a single response, each over its own connection.

use std::time::{Duration, Instant};

use banger_api::ApiError;
use banger_proto::{Greeting, Inspection, Listener, Reply, Request};

use crate::{
    Client,
    exec::dial,
    protocol::{answer_in_time, request_error},
};

/// Maximum number of a guest's disks: banger attaches two.
const MAX_DISKS: usize = 8;

/// A response of an agent.
#[derive(Debug, Clone)]
pub struct AgentResponse<T> {
    /// The agent's greeting.
    pub greeting: Greeting,
    /// Time from the request to the response.
    pub round_trip: Duration,
    /// The response.
    pub response: T,
}

/// Checks that the agent of VM `reference` responds.
///
/// # Errors
/// Returns an error if it cannot be reached, or does not respond in time.
pub async fn ping(client: &Client, reference: &str) -> Result<AgentResponse<()>, ApiError> {
    let is_pong = |reply| if reply == Reply::Pong { Ok(()) } else { Err(reply) };
    send_request(client, reference, Request::Ping, is_pong).await
}

/// Returns the state of the guest in VM `reference`.
///
/// # Errors
/// Returns an error if its agent cannot be reached, does not respond in time, or is too old.
pub async fn inspect(client: &Client, reference: &str) -> Result<AgentResponse<Inspection>, ApiError> {
    let inspection =
        |reply| if let Reply::Inspected(inspection) = reply { Ok(inspection) } else { Err(reply) };
    let mut answer = send_request(client, reference, Request::Inspect, inspection).await?;
    answer.response.disks.truncate(MAX_DISKS);
    Ok(answer)
}

/// Returns the listeners in the guest of VM `reference`, by port.
///
/// # Errors
/// Returns an error if its agent cannot be reached, does not respond in time, or is too old.
pub async fn ports(client: &Client, reference: &str) -> Result<Vec<Listener>, ApiError> {
    let listeners = |reply| if let Reply::Ports { listeners } = reply { Ok(listeners) } else { Err(reply) };
    Ok(send_request(client, reference, Request::Ports, listeners).await?.response)
}

async fn send_request<T>(
    client: &Client,
    reference: &str,
    request: Request,
    parse: impl FnOnce(Reply) -> Result<T, Reply>,
) -> Result<AgentResponse<T>, ApiError> {
    let (greeting, mut input, mut output) = dial(client, reference).await?;
    let start = Instant::now();
    let reply = answer_in_time(reference, async {
        input.send_message(&request).await?;
        output.read_reply().await
    });
    let response = parse(reply.await?).map_err(|other| request_error(reference, other))?;
    Ok(AgentResponse { greeting, round_trip: start.elapsed(), response })
}
