//! Requests to a guest's agent with a single response, each over its own connection.

use std::time::{Duration, Instant};

use banger_api::{ApiError, ErrorKind, Remedy, SubjectKind};
use banger_proto::{Greeting, Inspection, Listener, Reply, Request};
use tokio::time::timeout;

use crate::{
    Client,
    exec::{dial, refused},
};

/// Timeout for an agent's response, including the 30 s that its guest may take to accept the connection.
const LIMIT: Duration = Duration::from_secs(60);

/// A response of an agent.
#[derive(Debug, Clone)]
pub struct Answered<T> {
    /// The agent's greeting.
    pub greeting: Greeting,
    /// Time from the request to the response.
    pub took: Duration,
    /// The response.
    pub answer: T,
}

/// Checks that the agent of VM `reference` responds.
///
/// # Errors
/// Returns an error if it cannot be reached, or does not respond in time.
pub async fn ping(client: &Client, reference: &str) -> Result<Answered<()>, ApiError> {
    let is_pong = |reply| if reply == Reply::Pong { Ok(()) } else { Err(reply) };
    ask(client, reference, Request::Ping, is_pong).await
}

/// Returns the state of the guest in VM `reference`.
///
/// # Errors
/// Returns an error if its agent cannot be reached, does not respond in time, or is too old.
pub async fn inspect(client: &Client, reference: &str) -> Result<Answered<Inspection>, ApiError> {
    let inspection =
        |reply| if let Reply::Inspected(inspection) = reply { Ok(inspection) } else { Err(reply) };
    ask(client, reference, Request::Inspect, inspection).await
}

/// Returns the listeners in the guest of VM `reference`, by port.
///
/// # Errors
/// Returns an error if its agent cannot be reached, does not respond in time, or is too old.
pub async fn ports(client: &Client, reference: &str) -> Result<Vec<Listener>, ApiError> {
    let listeners = |reply| if let Reply::Ports { listeners } = reply { Ok(listeners) } else { Err(reply) };
    Ok(ask(client, reference, Request::Ports, listeners).await?.answer)
}

async fn ask<T>(
    client: &Client,
    reference: &str,
    request: Request,
    answer: impl FnOnce(Reply) -> Result<T, Reply>,
) -> Result<Answered<T>, ApiError> {
    let asked = async {
        let (greeting, mut input, mut output) = dial(client, reference).await?;
        let began = Instant::now();
        input.say(&request).await?;
        let reply: Reply = output.message().await?;
        let took = began.elapsed();
        let answer = answer(reply).map_err(|other| refused(reference, other))?;
        Ok(Answered { greeting, took, answer })
    };
    timeout(LIMIT, asked).await.unwrap_or_else(|_| {
        Err(ApiError::new(
            ErrorKind::Timeout,
            format!("the agent of VM {reference} has not answered in {} s", LIMIT.as_secs()),
        )
        .about(SubjectKind::Vm, reference)
        .remedy(Remedy::ReadLogs))
    })
}
