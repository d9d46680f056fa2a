//! HTTP servers on the loopback interface. Their threads end with the process.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use anyhow::Result;

/// An answer to a request.
pub(crate) struct Answer {
    pub(crate) status: &'static str,
    /// Lines, each with its end.
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn not_found() -> Self {
        Self { status: "404 Not Found", headers: String::new(), body: Vec::new() }
    }
}

/// Starts a server that answers requests for paths. Returns its address.
pub(crate) fn serve(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            // A killed daemon disconnects early.
            thread::spawn(move || drop(exchange(&*answer, &stream)));
        }
    });
    Ok(address)
}

fn exchange(answer: impl Fn(&str) -> Answer, mut stream: &TcpStream) -> Result<()> {
    let mut input = BufReader::new(stream);
    let mut request = String::new();
    input.read_line(&mut request)?;
    let mut header = String::new();
    while input.read_line(&mut header)? > 2 {
        header.clear();
    }
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Answer { status, headers, body } = answer(path);
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(&body)?;
    }
    stream.shutdown(Shutdown::Write)?;
    // Wait until the client disconnects.
    Ok(input.read_to_end(&mut Vec::new()).map(drop)?)
}
