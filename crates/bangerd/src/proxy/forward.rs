//! Forwards a request to the guest, and its response to the client: streams without buffering, upgrades as a tunnel.

use std::{net::IpAddr, time::Duration};

use banger_engine::{Engine, GuestPort};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{self, HeaderName, HeaderValue},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional_with_sizes, time::timeout};

use super::{
    limits::{MAX_HEAD, MAX_HEADERS},
    page,
    target::{Target, target},
};

/// The body of a response: the guest's, or a page of the proxy's.
pub(super) type Body = Either<Incoming, Full<Bytes>>;

/// Timeout for a server in the guest to send the head of a response. A slow page may take minutes.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(600);

/// Bytes to copy at a time after an upgrade.
const CHUNK: usize = 64 << 10;

/// Headers for one connection only (RFC 9110, section 7.6.1), which the proxy does not pass on.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Returns the response to a request of a client at `from`.
pub(super) async fn respond(
    engine: &Engine,
    request: Request<Incoming>,
    from: IpAddr,
    own_port: u16,
) -> Response<Body> {
    let host = host_of(&request).unwrap_or_default();
    let target = match target(&host, own_port) {
        Ok(target) => target,
        Err(error) => return page::invalid_host(error, own_port).map(Either::Right),
    };
    let guest = match connect(engine, &target).await {
        Ok(guest) => guest,
        Err(page) => return page.map(Either::Right),
    };
    match forward(guest, request, &host, from).await {
        Ok(response) => response.map(Either::Left),
        Err(error) => {
            tracing::debug!(vm = %target.vm, port = target.port, %error, "a request failed in the guest");
            page::not_http(&target).map(Either::Right)
        }
    }
}

/// Returns the request's host: of its target if that is a whole URL, else of its header.
fn host_of(request: &Request<Incoming>) -> Option<String> {
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    authority.or_else(|| {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = hosts.next()?.to_str().ok()?.to_owned();
        hosts.next().is_none().then_some(host)
    })
}

async fn connect(engine: &Engine, target: &Target) -> Result<GuestPort, Response<Full<Bytes>>> {
    let vms = engine.vms.list().map_err(|error| page::unreachable(target, &error))?;
    // By its exact name: an address must not lead to another VM later.
    let Some(vm) = vms.into_iter().find(|vm| vm.name == target.vm) else { return Err(page::no_vm(target)) };
    if vm.state != banger_api::VmState::Running {
        return Err(page::not_running(target, vm.state));
    }
    let connected = engine.vms.connect_port(vm.id.as_str(), target.port).await;
    connected.map_err(|error| page::unreachable(target, &error))
}

/// Sends the request to the guest.
async fn forward(
    guest: GuestPort,
    mut request: Request<Incoming>,
    host: &str,
    from: IpAddr,
) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let mut http = http1::Builder::new();
    http.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let (mut sender, connection) = http.handshake::<_, Incoming>(TokioIo::new(guest)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a server in a guest ended");
        }
    });
    let client_upgrade =
        upgrade_of(request.headers()).map(|protocol| (protocol, hyper::upgrade::on(&mut request)));
    let (mut head, body) = request.into_parts();
    if let Some(path) = head.uri.path_and_query() {
        head.uri = path.as_str().parse()?;
    }
    remove_hop_by_hop(&mut head.headers);
    if let Some((protocol, _)) = &client_upgrade {
        set_upgrade(&mut head.headers, protocol);
    }
    let host = HeaderValue::from_str(host)?;
    head.headers.insert(FORWARDED_FOR, HeaderValue::from_str(&from.to_string())?);
    head.headers.insert(FORWARDED_HOST, host.clone());
    head.headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    head.headers.insert(header::HOST, host);
    let sent = sender.send_request(Request::from_parts(head, body));
    let mut response = timeout(RESPONSE_TIMEOUT, sent).await??;
    let guest_upgrade =
        upgrade_of(response.headers()).filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS);
    remove_hop_by_hop(response.headers_mut());
    match (client_upgrade, guest_upgrade) {
        (Some((_, client)), Some(protocol)) => {
            set_upgrade(response.headers_mut(), &protocol);
            let guest = hyper::upgrade::on(&mut response);
            tokio::spawn(tunnel(client, guest));
        }
        (_, None) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            return Err("it switches to an unknown protocol".into());
        }
        (None, Some(_)) => return Err("it switches the protocol without a request".into()),
        _ => {}
    }
    Ok(response)
}

/// Returns the protocol that a message switches to, if it does.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut options = connection.flat_map(|value| value.split(','));
    let upgrades = options.any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| upgrades).cloned()
}

fn set_upgrade(headers: &mut HeaderMap, protocol: &HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol.clone());
}

/// Removes the headers that are for one connection only, also those that `Connection` names.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Joins both connections after an upgrade.
async fn tunnel(client: OnUpgrade, guest: OnUpgrade) {
    let joined = async {
        let (client, guest) = tokio::try_join!(client, guest)?;
        let (mut client, mut guest) = (TokioIo::new(client), TokioIo::new(guest));
        copy_bidirectional_with_sizes(&mut client, &mut guest, CHUNK, CHUNK).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    if let Err(error) = joined.await {
        tracing::debug!(%error, "an upgraded connection broke");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let parse =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in list.iter().map(parse) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn headers_of_one_connection_are_removed() {
        let mut all = headers(&[
            ("connection", "keep-alive, X-Own"),
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("accept", "text/html"),
        ]);
        remove_hop_by_hop(&mut all);
        assert_eq!(all, headers(&[("accept", "text/html")]));
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let upgrade = |list: &[(&str, &str)]| upgrade_of(&headers(list));
        let websocket = Some(HeaderValue::from_static("websocket"));
        assert_eq!(upgrade(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]), websocket);
        assert_eq!(upgrade(&[("connection", "upgrade")]), None);
        assert_eq!(upgrade(&[("upgrade", "websocket")]), None);
        assert_eq!(upgrade(&[("connection", "upgraded"), ("upgrade", "websocket")]), None);
    }
}
