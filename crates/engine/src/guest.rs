//! The daemon's connection to the agent in a guest: configuration at start, power-off at stop, inspection.
//!
//! The guest is hostile: everything it sends is bounded in size and time.

use std::{fmt::Display, time::Duration};

use banger_api::{ApiError, ErrorKind, GuestText};
use banger_proto::{
    Connection, Decoder, Frame, GENERATION_OF_CONNECTIONS, Greeting, Inspection, MAX_GREETING, MAX_REPLY,
    Reply, Request,
};
use banger_vmm::GuestStream;
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{error::EngineError, store::Handle};

/// Timeout for an answer from a running guest. A guest without KVM needs a second or two, and longer on a busy host.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum length of a description of malformed data, in bytes.
const MAX_PROBLEM: usize = 300;

/// First agent generation that supports `Inspect`.
const INSPECT_GENERATION: u32 = 2;

/// Asks the guest of a running VM for its load, memory and network use. Returns `None` if its agent is too old.
pub(crate) async fn inspect(handle: &Handle) -> Result<Option<Inspection>, EngineError> {
    let (mut agent, greeting) =
        Agent::handshake(banger_vmm::connect(&handle.guest, handle.agent_port).await?).await?;
    if greeting.generation < INSPECT_GENERATION {
        return Ok(None);
    }
    match agent.request(&Request::Inspect).await? {
        Reply::Inspected(inspection) => Ok(Some(inspection)),
        other => Err(unexpected(&other)),
    }
}

/// Asks the guest of a running VM which processes used which destinations. Returns none if its agent is too old.
pub(crate) async fn connections(handle: &Handle) -> Result<Vec<Connection>, EngineError> {
    let (mut agent, greeting) =
        Agent::handshake(banger_vmm::connect(&handle.guest, handle.agent_port).await?).await?;
    if greeting.generation < GENERATION_OF_CONNECTIONS {
        return Ok(Vec::new());
    }
    match agent.request(&Request::Connections).await? {
        Reply::Connections { connections } => Ok(connections),
        other => Err(unexpected(&other)),
    }
}

/// Returns the error for a reply that does not answer the request. The reply's content may be of any length.
pub(crate) fn unexpected(reply: &Reply) -> EngineError {
    protocol_error(&format_args!("unexpected reply {:?}", reply.name()))
}

/// A connection to the agent.
#[derive(Debug)]
pub(crate) struct Agent {
    stream: GuestStream,
    decoder: Decoder,
}

impl Agent {
    /// Receives the greeting on a new connection.
    pub(crate) async fn handshake(stream: GuestStream) -> Result<(Self, Greeting), EngineError> {
        let mut agent = Self { stream, decoder: Decoder::default() };
        let greeting = agent.receive().await?.parse_within(MAX_GREETING);
        Ok((agent, greeting.map_err(|error| protocol_error(&error))?))
    }

    /// Sends a request on a new connection without waiting for the greeting, to save time. Returns the reply.
    pub(crate) async fn ask(
        stream: GuestStream,
        request: &Request,
    ) -> Result<(Self, Greeting, Reply), EngineError> {
        let mut agent = Self { stream, decoder: Decoder::default() };
        agent.send(request).await?;
        let greeting = agent.receive().await?.parse_within(MAX_GREETING);
        let greeting = greeting.map_err(|error| protocol_error(&error))?;
        let reply = agent.reply().await?;
        Ok((agent, greeting, reply))
    }

    /// Returns the stream, and the bytes that were received after the last message.
    pub(crate) fn into_parts(mut self) -> (GuestStream, BytesMut) {
        let rest = self.decoder.buffer().split();
        (self.stream, rest)
    }

    /// Sends a request and waits for the reply.
    pub(crate) async fn request(&mut self, request: &Request) -> Result<Reply, EngineError> {
        self.send(request).await?;
        self.reply().await
    }

    /// Waits for a further reply, for as long as it takes.
    pub(crate) async fn next_reply(&mut self) -> Result<Reply, EngineError> {
        let reply = self.receive_at_any_time().await?.parse_within(MAX_REPLY);
        reply.map_err(|error| protocol_error(&error))
    }

    async fn send(&mut self, request: &Request) -> Result<(), EngineError> {
        let mut bytes = BytesMut::new();
        Frame::control(request).map_err(|error| protocol_error(&error))?.encode(&mut bytes);
        timeout(REPLY_TIMEOUT, self.stream.write_all(&bytes))
            .await
            .map_err(|_| timeout_error())?
            .map_err(|error| connection_error(&error))
    }

    async fn reply(&mut self) -> Result<Reply, EngineError> {
        let reply = self.receive().await?.parse_within(MAX_REPLY);
        match reply.map_err(|error| protocol_error(&error))? {
            Reply::Failed { message, .. } => {
                Err(ApiError::from_guest(ErrorKind::Guest, &GuestText::new(&message)).into())
            }
            reply => Ok(reply),
        }
    }

    async fn receive(&mut self) -> Result<Frame, EngineError> {
        timeout(REPLY_TIMEOUT, self.receive_at_any_time()).await.map_err(|_| timeout_error())?
    }

    async fn receive_at_any_time(&mut self) -> Result<Frame, EngineError> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|error| protocol_error(&error))? {
                return Ok(frame);
            }
            let received = self.stream.read_buf(self.decoder.buffer()).await;
            if received.map_err(|error| connection_error(&error))? == 0 {
                return Err(connection_error(&std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

fn protocol_error(problem: &impl Display) -> EngineError {
    // It may quote the guest's data.
    let problem = GuestText::bounded(&problem.to_string(), MAX_PROBLEM);
    EngineError::Guest(format!("the guest does not follow the agent's protocol: {problem}"))
}

fn connection_error(error: &std::io::Error) -> EngineError {
    EngineError::Guest(format!("the connection to the guest agent broke: {error}"))
}

fn timeout_error() -> EngineError {
    EngineError::Guest(format!("the guest agent did not answer within {} s", REPLY_TIMEOUT.as_secs()))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    /// Returns the error of an inspection by an agent that sends these messages.
    async fn inspect_error(greeting: &Greeting, reply: &Reply) -> String {
        let mut bytes = BytesMut::new();
        Frame::control(greeting).unwrap().encode(&mut bytes);
        Frame::control(reply).unwrap().encode(&mut bytes);
        let (host, mut guest) = UnixStream::pair().unwrap();
        let answer = async {
            // The host may close the connection before it has read all.
            let _ = guest.write_all(&bytes).await;
            guest
        };
        let inspect = async {
            let (mut agent, _) = Agent::handshake(GuestStream::Hybrid(host)).await?;
            match agent.request(&Request::Inspect).await? {
                Reply::Inspected(_) => Ok(()),
                other => Err(unexpected(&other)),
            }
        };
        let (result, _guest): (Result<(), EngineError>, _) = tokio::join!(inspect, answer);
        result.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn long_and_unexpected_answers_are_rejected_without_their_content() {
        let greeting = |version: usize| Greeting {
            generation: 5,
            version: "v".repeat(version),
            boot_id: String::new(),
            boot: Vec::new(),
            init: None,
        };
        let listening = |path: usize| Reply::Listening {
            at: banger_proto::Endpoint::Tcp { host: "h".repeat(path), port: 1 },
        };
        for (greeting, reply, expected) in [
            (greeting(MAX_GREETING), Reply::Pong, "over the limit of 16384"),
            (greeting(1), listening(MAX_REPLY), "over the limit of 262144"),
            (greeting(1), listening(1000), "unexpected reply \"listening\""),
        ] {
            let error = inspect_error(&greeting, &reply).await;
            assert!(error.ends_with(expected) && error.len() < 200, "{error}");
        }
    }
}
