//! Questions to a guest's agent: one a connection, one answer.

use std::time::{Duration, Instant};

use banger_api::{ApiError, ErrorKind, Remedy, SubjectKind};
use banger_proto::{Greeting, Inspection, Listener, Reply, Request};
use tokio::time::timeout;

use crate::{
    Client,
    exec::{dial, refused},
};

/// How long an agent may take to answer, with the 30 s that its guest may take to accept the connection.
const LIMIT: Duration = Duration::from_secs(60);

/// An answer of an agent's.
#[derive(Debug, Clone)]
pub struct Answered<T> {
    /// How the agent greeted.
    pub greeting: Greeting,
    /// Between the question and the answer.
    pub took: Duration,
    /// The answer.
    pub answer: T,
}

/// Asks the agent of VM `reference` whether it is there.
///
/// # Errors
/// When it cannot be reached, or does not answer in time.
pub async fn ping(client: &Client, reference: &str) -> Result<Answered<()>, ApiError> {
    let is_pong = |reply| if reply == Reply::Pong { Ok(()) } else { Err(reply) };
    ask(client, reference, Request::Ping, is_pong).await
}

/// How the guest of VM `reference` is doing.
///
/// # Errors
/// When its agent cannot be reached, does not answer in time, or is too old.
pub async fn inspect(client: &Client, reference: &str) -> Result<Answered<Inspection>, ApiError> {
    let inspection =
        |reply| if let Reply::Inspected(inspection) = reply { Ok(inspection) } else { Err(reply) };
    ask(client, reference, Request::Inspect, inspection).await
}

/// What listens in the guest of VM `reference`, by port.
///
/// # Errors
/// When its agent cannot be reached, does not answer in time, or is too old.
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
