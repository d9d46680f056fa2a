//! Error pages: small, without scripts, with all values escaped.

use banger_api::{ApiError, ErrorKind, VmState};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode, header};

use super::target::{InvalidHost, Target};

/// Returns the page for a request whose `Host` names no port of a VM.
pub(super) fn invalid_host(error: InvalidHost, own_port: u16) -> Response<Full<Bytes>> {
    let why = match error {
        InvalidHost::Form => "This address does not name a port of a VM.",
        InvalidHost::Port => "The first part of this address is not a port: 1 to 65535.",
        InvalidHost::Name => "The second part of this address is not a VM's name.",
    };
    let help = format!(
        "Use <code>http://PORT.VM.localhost:{own_port}/</code>, such as \
         <code>http://3000.box.localhost:{own_port}/</code>."
    );
    page(StatusCode::NOT_FOUND, why, &help)
}

/// Returns the page for a VM that does not exist.
pub(super) fn no_vm(target: &Target) -> Response<Full<Bytes>> {
    let why = format!("There is no VM {}.", target.vm);
    page(StatusCode::NOT_FOUND, &why, "<code>banger ps -a</code> lists all VMs.")
}

/// Returns the page for a VM that does not run.
pub(super) fn not_running(target: &Target, state: VmState) -> Response<Full<Bytes>> {
    let vm = &target.vm;
    let command = if state == VmState::Paused { "resume" } else { "start" };
    let help = format!("<code>banger vm {command} {vm}</code>, then reload this page.");
    page(StatusCode::BAD_GATEWAY, &format!("VM {vm} is {state}."), &help)
}

/// Returns the page for a guest that cannot be reached.
pub(super) fn unreachable(target: &Target, error: &ApiError) -> Response<Full<Bytes>> {
    let Target { vm, port } = target;
    let why = match error.kind {
        // What the guest itself says.
        _ if error.from_guest => format!("Nothing in VM {vm} listens on port {port}."),
        ErrorKind::NotFound => format!("There is no VM {vm}."),
        _ => format!("VM {vm} cannot be reached: {}", error.message),
    };
    let help = format!("<code>banger vm ports {vm}</code> lists what listens there.");
    page(StatusCode::BAD_GATEWAY, &why, &help)
}

/// Returns the page for a server in the guest whose response is not HTTP.
pub(super) fn not_http(target: &Target) -> Response<Full<Bytes>> {
    let Target { vm, port } = target;
    let why = format!("Port {port} of VM {vm} did not answer with HTTP.");
    let help = format!("Other protocols: <code>banger vm publish {vm} {port}</code>");
    page(StatusCode::BAD_GATEWAY, &why, &help)
}

/// Returns a page with a text, and a help in HTML.
fn page(status: StatusCode, why: &str, help: &str) -> Response<Full<Bytes>> {
    let body = format!(
        "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><title>banger</title>\
         <body style=\"font-family: sans-serif; margin: 3em\"><h1>{status}</h1><p>{}</p><p>{help}</p>\n",
        escape(why)
    );
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    headers.insert(header::CONTENT_SECURITY_POLICY, header::HeaderValue::from_static(policy));
    response
}

/// Escapes a text for HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn values_are_escaped() {
        let target = Target { vm: "box".parse().unwrap(), port: 80 };
        let error = ApiError::new(ErrorKind::Guest, "<script>alert('1')</script> & \"more\"");
        let response = unreachable(&target, &error);
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let escaped = "VM box cannot be reached: &lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;more&quot;";
        assert!(body.contains(escaped) && !body.contains("<script"), "{body}");
    }
}
