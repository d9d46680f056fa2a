//! An HTTP server on the loopback interface for the files of a directory, with range requests.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Result;

/// A server of files. Dropping it stops the server.
#[derive(Debug)]
pub struct FileServer {
    address: SocketAddr,
    closed: Arc<AtomicBool>,
}

impl FileServer {
    /// Serves the files of a directory.
    ///
    /// # Errors
    /// Returns an error if it cannot listen on a socket.
    pub fn start(dir: &Path) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let closed = Arc::new(AtomicBool::new(false));
        let (dir, done) = (dir.to_owned(), closed.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if done.load(Ordering::SeqCst) {
                    return;
                }
                let dir = dir.clone();
                // An error means that the client closed the connection.
                thread::spawn(move || drop(serve(&client, &dir)));
            }
        });
        Ok(Self { address, closed })
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns a file's URL.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        // Wakes up the listener, so that it sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut client: &TcpStream, dir: &Path) -> io::Result<()> {
    let (mut path, mut from) = (PathBuf::new(), None);
    for line in BufReader::new(client).lines() {
        let line = line?;
        if let Some(rest) = line.strip_prefix("GET /") {
            path = dir.join(rest.split(' ').next().unwrap_or_default());
        } else if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse::<usize>().ok();
        } else if line.is_empty() {
            break;
        }
    }
    let Ok(bytes) = fs::read(path) else {
        return client.write_all(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    };
    let size = bytes.len();
    let part = &bytes[from.unwrap_or_default().min(size)..];
    let status = match from {
        None => "200 OK".to_owned(),
        Some(from) => format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{size}", size - 1),
    };
    let length = part.len();
    write!(client, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")?;
    client.write_all(part)
}
