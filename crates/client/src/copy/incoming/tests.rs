use std::{fs, future::pending};

use banger_files::{Entry, Item, Writer};
use banger_proto::{Frame, MAX_DATA, Reply, Stream};
use bytes::BytesMut;

use super::*;

/// A file as the stream of an agent.
fn file(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes).unwrap();
    writer.item(&Item::File(Entry { name: name.into(), mode: 0o644, seconds: 1, nanoseconds: 0 })).unwrap();
    writer.data(b"text").unwrap();
    writer.end_file(true).unwrap();
    writer.item(&Item::End).unwrap();
    bytes
}

fn stdout(bytes: Vec<u8>) -> Frame {
    Frame::Data(Stream::Stdout, bytes.into())
}

fn exit(code: u8) -> Frame {
    Frame::control(&Reply::Exited { status: ExitStatus::Code(code) }).unwrap()
}

/// Receives these frames as the copy of `/srv/report.txt`.
async fn copy(frames: &[Frame], to: Destination) -> Result<(), ApiError> {
    let mut bytes = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    let request = CopyRequest::new(Path::new("/srv/report.txt"), false);
    let (output, stop) = (ExecOutput::new(&bytes[..]), pin!(pending()));
    receive("box", output, request, to, &mut |_| (), stop).await
}

#[tokio::test]
async fn the_guest_does_not_choose_the_file_on_the_host() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".bashrc"), "mine").unwrap();
    copy(&[stdout(file(".bashrc")), exit(0)], Destination::Files(dir.path().into())).await.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join(".bashrc")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(dir.path().join("report.txt")).unwrap(), "text");
}

#[tokio::test]
async fn answers_that_do_not_belong_to_a_copy_are_errors() {
    let copied = || stdout(file("report.txt"));
    let end = || Frame::end(Stream::Stdout);
    let acknowledged = Frame::control(&Reply::Acknowledged { bytes: 1 }).unwrap();
    for (frames, message) in [
        (vec![copied(), stdout(b"more".into()), exit(0)], "data after its end"),
        (vec![stdout([file("a"), file("b")].concat()), exit(0)], "data after its end"),
        (vec![copied(), acknowledged, exit(0)], "acknowledged data that was not sent"),
        (vec![copied(), Frame::control(&Reply::Pong).unwrap(), exit(0)], "unexpected reply \"pong\""),
        (vec![copied(), end()], "connection to the guest broke"),
        (vec![end(), exit(0)], "the stream ended early"),
        (vec![stdout(b"bng\x01\x05".into()), exit(0)], "unexpected end marker"),
    ] {
        for to_output in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let to = match to_output {
                true => Destination::Output(tempfile::tempfile().unwrap()),
                false => Destination::Files(dir.path().join("new")),
            };
            let error = copy(&frames, to).await.unwrap_err();
            assert!(error.kind == ErrorKind::Guest && error.message.contains(message), "{message}: {error}");
        }
    }
}

#[tokio::test]
async fn the_agents_reason_explains_an_incomplete_stream() {
    let reason = Frame::Data(Stream::Stderr, Bytes::from_static(b"cannot read it\n"));
    for stream in [b"bng\x01\x05".to_vec(), file("a"), file("a")[..9].to_vec()] {
        let dir = tempfile::tempdir().unwrap();
        let frames = [stdout(stream), reason.clone(), exit(1)];
        let error = copy(&frames, Destination::Files(dir.path().join("new"))).await.unwrap_err();
        assert!(error.message.starts_with("in VM box: the guest reports: cannot read it"), "{error}");
    }
}

#[tokio::test]
async fn endless_messages_end_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let noise = Frame::Data(Stream::Stderr, vec![b'x'; MAX_DATA].into());
    let frames: Vec<_> = std::iter::repeat_n(noise, 65).chain([stdout(file("a")), exit(0)]).collect();
    let error = copy(&frames, Destination::Files(dir.path().join("new"))).await.unwrap_err();
    assert!(error.message.contains("it sent more than 64 MiB of messages"), "{error}");
}
