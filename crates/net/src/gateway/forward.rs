//! Passes a guest's DNS requests to the host's resolvers, and the answers back.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use super::{
    dns::{self, Action},
    state::State,
};

/// Timeout for a resolver's answer. A guest's own resolver gives up after 5 s, and asks again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Time after which a TCP connection without a request is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum number of requests over UDP that wait for an answer. Further ones are dropped, as by a full link.
const MAX_PENDING: usize = 128;

/// Maximum number of TCP connections of a guest.
const MAX_CONNECTIONS: usize = 32;

/// Maximum length of a message over UDP, in bytes: twice what clients ask for at most. A longer answer is cut, and then
/// not valid; a resolver marks it as too long for UDP before that.
const MAX_DATAGRAM: usize = 8192;

/// Answers requests over UDP.
pub(super) async fn serve_udp(socket: Arc<UdpSocket>, state: Arc<State>) {
    let pending = Arc::new(Semaphore::new(MAX_PENDING));
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let Ok((length, guest)) = socket.recv_from(&mut buffer).await else {
            // An error of an earlier answer, such as that the guest has closed its port.
            continue;
        };
        let Ok(permit) = pending.clone().try_acquire_owned() else { continue };
        let request = buffer.get(..length).unwrap_or_default().to_vec();
        let (socket, state) = (socket.clone(), state.clone());
        tokio::spawn(async move {
            if let Some(answer) = answer(&request, &state, over_udp).await {
                // The guest asks again if it did not arrive.
                let _ = socket.send_to(&answer, guest).await;
            }
            drop(permit);
        });
    }
}

/// Returns the answer to a request, which `ask` gets from a resolver; `None` to send nothing.
async fn answer(
    request: &[u8],
    state: &State,
    ask: impl AsyncFn(&[u8], &[SocketAddr]) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let question = match dns::decide(request, &state.services) {
        Action::Forward(question) => question,
        Action::Answer(answer) => return Some(answer),
        Action::Ignore => return None,
    };
    if !state.allows(question.name.as_ref()) {
        state.recorder.refuse(question.name.as_ref());
        return dns::no_such_name(request);
    }
    if question.has_hints && state.is_list() {
        return dns::no_data(request);
    }
    let Some(answer) = ask(request, &state.resolvers.current()).await else {
        return dns::server_failure(request);
    };
    let is_allowed = match &question.name {
        Some(name) => state.allow_addresses(name, &answer).await,
        None => true,
    };
    if is_allowed {
        return Some(answer);
    }
    state.recorder.refuse(question.name.as_ref());
    dns::no_such_name(request)
}

/// Asks each resolver in turn.
async fn over_udp(request: &[u8], resolvers: &[SocketAddr]) -> Option<Vec<u8>> {
    for resolver in resolvers {
        if let Ok(Ok(answer)) = timeout(ANSWER_TIMEOUT, exchange(request, *resolver)).await {
            return Some(answer);
        }
    }
    None
}

/// Asks a resolver from a port of its own, so that only its answers arrive.
async fn exchange(request: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match resolver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(request).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if dns::answers(request, answer) {
            return Ok(answer.to_vec());
        }
    }
}

/// Answers requests over TCP.
pub(super) async fn serve_tcp(listener: TcpListener, state: Arc<State>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // A connection that ended early, or no descriptors: others will be closed.
            tokio::task::yield_now().await;
            continue;
        };
        let state = state.clone();
        tokio::spawn(async move {
            // The guest sees the connection close.
            let _ = serve_stream(stream, &state).await;
            drop(permit);
        });
    }
}

async fn serve_stream(mut guest: TcpStream, state: &State) -> io::Result<()> {
    while let Some(request) = timeout(IDLE_TIMEOUT, read_message(&mut guest)).await?? {
        let Some(answer) = answer(&request, state, over_tcp).await else { return Ok(()) };
        timeout(IDLE_TIMEOUT, write_message(&mut guest, &answer)).await??;
    }
    Ok(())
}

async fn over_tcp(request: &[u8], resolvers: &[SocketAddr]) -> Option<Vec<u8>> {
    for resolver in resolvers {
        let exchange = async {
            let mut stream = TcpStream::connect(resolver).await?;
            write_message(&mut stream, request).await?;
            read_message(&mut stream).await
        };
        if let Ok(Ok(Some(answer))) = timeout(ANSWER_TIMEOUT, exchange).await
            && dns::answers(request, &answer)
        {
            return Some(answer);
        }
    }
    None
}

/// Reads a message with its length before it (RFC 1035, 4.2.2); `None` at the end.
async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(message);
    stream.write_all(&framed).await
}
