//! The daemon's connection to the agent in a guest: configuration at start, power-off at stop, inspection.
//!
//! The guest is hostile: everything it sends is bounded in size and time.

use std::time::Duration;

use banger_proto::{AGENT_PORT, Decoder, Frame, Greeting, Inspection, Reply, Request};
use banger_vmm::GuestStream;
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{error::EngineError, store::Handle};

/// Timeout for an answer from a running guest. A guest without KVM needs a second or two, and longer on a busy host.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// First agent generation that supports `Inspect`.
const INSPECT_GENERATION: u32 = 2;

/// Asks the guest of a running VM for its load, memory and network use. Returns `None` if its agent is too old.
pub(super) async fn inspect(handle: &Handle) -> Result<Option<Inspection>, EngineError> {
    let (mut agent, greeting) =
        Agent::handshake(banger_vmm::connect(&handle.guest, AGENT_PORT).await?).await?;
    if greeting.generation < INSPECT_GENERATION {
        return Ok(None);
    }
    match agent.request(&Request::Inspect).await? {
        Reply::Inspected(inspection) => Ok(Some(inspection)),
        other => Err(EngineError::Guest(format!("the guest answered inspect with {other:?}"))),
    }
}

/// A connection to the agent.
#[derive(Debug)]
pub(super) struct Agent {
    stream: GuestStream,
    decoder: Decoder,
}

impl Agent {
    /// Receives the greeting on a new connection.
    pub(super) async fn handshake(stream: GuestStream) -> Result<(Self, Greeting), EngineError> {
        let mut agent = Self { stream, decoder: Decoder::default() };
        let greeting = agent.receive().await?;
        let greeting = greeting.parse().map_err(|error| protocol_error(&error))?;
        Ok((agent, greeting))
    }

    /// Sends a request and waits for the reply.
    pub(super) async fn request(&mut self, request: &Request) -> Result<Reply, EngineError> {
        let mut bytes = BytesMut::new();
        Frame::control(request).map_err(|error| protocol_error(&error))?.encode(&mut bytes);
        timeout(REPLY_TIMEOUT, self.stream.write_all(&bytes))
            .await
            .map_err(|_| timeout_error())?
            .map_err(|error| connection_error(&error))?;
        match self.receive().await?.parse().map_err(|error| protocol_error(&error))? {
            Reply::Failed { message, .. } => Err(EngineError::Guest(format!("the guest refused: {message}"))),
            reply => Ok(reply),
        }
    }

    async fn receive(&mut self) -> Result<Frame, EngineError> {
        timeout(REPLY_TIMEOUT, async {
            loop {
                if let Some(frame) = self.decoder.next_frame().map_err(|error| protocol_error(&error))? {
                    return Ok(frame);
                }
                if self
                    .stream
                    .read_buf(self.decoder.buffer())
                    .await
                    .map_err(|error| connection_error(&error))?
                    == 0
                {
                    return Err(connection_error(&std::io::ErrorKind::UnexpectedEof.into()));
                }
            }
        })
        .await
        .map_err(|_| timeout_error())?
    }
}

fn protocol_error(error: &banger_proto::FrameError) -> EngineError {
    EngineError::Guest(format!("the guest does not follow the agent's protocol: {error}"))
}

fn connection_error(error: &std::io::Error) -> EngineError {
    EngineError::Guest(format!("the connection to the guest agent broke: {error}"))
}

fn timeout_error() -> EngineError {
    EngineError::Guest(format!("the guest agent did not answer within {} s", REPLY_TIMEOUT.as_secs()))
}
