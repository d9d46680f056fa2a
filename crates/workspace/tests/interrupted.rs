//! Transfers that were interrupted at any point, and what the next command then finds.
#![allow(clippy::unwrap_used)] // tests

mod common;

use std::fs;

use banger_files::{Unpacked, change, place};
use banger_workspace::{Mode, Options, Record, Upload, WorkspaceError};

use common::{OPTIONS, World, git};

fn world() -> World {
    let world = World::new();
    world.write("file", "one\n");
    world.write("dir/other", "other\n");
    world.commit_all("first");
    world
}

/// Sends the repository; the process is killed when everything is in place and before that is recorded.
fn send_and_die(world: &World) -> Record {
    let upload = Upload::full(world.snapshot(&OPTIONS).unwrap(), b"/root/repo");
    let record = upload.record_before().unwrap().sending();
    let mut stream = Vec::new();
    upload.write(&mut stream).unwrap();
    place(&*stream, &world.guest(), &mut Unpacked::default()).unwrap();
    common::time_of_placing();
    record
}

/// Sends the host's changes; the process is killed when `bytes` of the stream have arrived.
fn change_and_die(world: &World, record: Record, bytes: impl Fn(usize) -> usize) -> Record {
    let listed = world.listing().unwrap();
    let upload = Upload::changes(world.snapshot(&OPTIONS).unwrap(), record, &listed, &Default::default());
    let upload = upload.unwrap().unwrap();
    let record = upload.record_before().unwrap().sending();
    let mut stream = Vec::new();
    upload.write(&mut stream).unwrap();
    let result = change(&stream[..bytes(stream.len())], &world.guest(), &mut Unpacked::default()).is_ok();
    assert_eq!(result, bytes(stream.len()) == stream.len());
    common::time_of_placing();
    record
}

#[test]
fn work_in_a_workspace_whose_first_transfer_was_not_recorded_is_pulled() {
    let world = world();
    let mut record = send_and_die(&world);
    fs::write(world.guest().join("file"), "work\n").unwrap();
    assert!(!record.is_unchanged(&world.listing().unwrap()));
    let pulled = world.pull(&mut record).unwrap();
    assert!(pulled.uncommitted, "{pulled:?}");
    let work = git(&world.host(), &["show", "refs/banger/box/uncommitted:file"]);
    assert_eq!(work, "work\n");
}

#[test]
fn a_first_transfer_that_was_not_recorded_is_completed_by_the_next() {
    let world = world();
    let record = send_and_die(&world);
    let (record, _) = world.send_again(record, &OPTIONS).unwrap();
    assert!(!record.is_sending());
    assert!(record.is_unchanged(&world.listing().unwrap()));
    assert_eq!(git(&world.guest(), &["status", "--porcelain"]), "");
    let (_, sent) = world.send_again(record, &OPTIONS).unwrap();
    assert_eq!(sent, 0, "a complete workspace was sent again");
}

#[test]
fn the_next_transfer_never_overwrites_work_after_an_unrecorded_transfer() {
    let world = world();
    let record = send_and_die(&world);
    fs::write(world.guest().join("file"), "work\n").unwrap();
    git(&world.guest(), &["checkout", "-q", "-b", "mine"]);
    let error = world.send_again(record, &OPTIONS).unwrap_err();
    let WorkspaceError::Conflicts(paths) = error else { panic!("{error}") };
    assert!(paths.contains(&b"file".to_vec()) && paths.contains(&b".git/HEAD".to_vec()), "{paths:?}");
    assert_eq!(fs::read(world.guest().join("file")).unwrap(), b"work\n");
}

#[test]
fn changes_that_were_interrupted_at_any_byte_can_be_sent_again() {
    let fractions: &[fn(usize) -> usize] = &[|_| 0, |all| all / 3, |all| all / 2, |all| all - 1, |all| all];
    for part in fractions {
        let world = world();
        let record = world.send(&OPTIONS).unwrap();
        world.write("file", "two\n");
        world.commit_all("second");
        world.write("dir/new", "new\n");
        git(&world.host(), &["add", "."]);
        let record = change_and_die(&world, record, part);
        let (record, _) = world.send_again(record, &OPTIONS).unwrap();
        assert!(!record.is_sending() && record.is_unchanged(&world.listing().unwrap()));
        assert_eq!(git(&world.guest(), &["status", "--porcelain"]), "A  dir/new\n");
        assert_eq!(git(&world.guest(), &["log", "--format=%s"]), "second\nfirst\n");
    }
}

#[test]
fn a_push_that_was_not_recorded_is_completed_by_the_next() {
    let world = world();
    let mut record = world.send(&OPTIONS).unwrap();
    world.commit_all("second");
    let metadata = Options { mode: Mode::Metadata, ..OPTIONS };
    let upload = Upload::commits(world.snapshot(&metadata).unwrap(), record).unwrap().unwrap();
    record = upload.record_before().unwrap().sending();
    let mut stream = Vec::new();
    upload.write(&mut stream).unwrap();
    change(&*stream, &world.guest(), &mut Unpacked::default()).unwrap();
    let record = world.push(record).unwrap().unwrap();
    assert!(!record.is_sending());
    assert!(world.push(record).unwrap().is_none(), "a complete push was sent again");
    assert_eq!(git(&world.guest(), &["log", "--format=%s", "host/main"]), "second\nfirst\n");
}
