//! Tests of the store's file: whatever is at its path, no data is lost.

use std::os::unix::fs::PermissionsExt;

use banger_api::{SetVm, Vmm};
use rusqlite::params;

use super::*;

/// Returns a directory, and the path of a store in it.
fn temp_store() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    (dir, path)
}

/// Returns every file beside `path` with its bytes.
fn files(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).unwrap_or_default())).collect();
    files.sort();
    files
}

/// Creates a store of schema `version` with an image, a kernel and a stopped VM.
fn with_rows(path: &Path, version: usize) {
    let mut connection = connect(path).unwrap();
    migrate(&mut connection, &MIGRATIONS[..version]).unwrap();
    let rows = "INSERT INTO images (id, name, size, entries, source, created_at)
            VALUES ('a1', 'image', 1, 1, 'tar', '2026-01-01T00:00:00Z');
        INSERT INTO kernels (id, name, release, modules, pvh, source, created_at)
            VALUES ('b1', 'kernel', '6.1', 0, 1, 'deb', '2026-01-01T00:00:00Z');";
    connection.execute_batch(rows).unwrap();
    let vm = "INSERT INTO vms (id, name, state, image_id, kernel_id, vcpu, memory, system_overlay_size, disk_size, rm,
        cid, created_at) VALUES (?, 'box', 'stopped', 'a1', 'b1', 1, 1, 1, 1, 0, 3, '2026-01-01T00:00:00Z')";
    connection.execute(vm, params!["0123456789abcdef"]).unwrap();
    let ids = "UPDATE images SET id = '00000000000000a1'; UPDATE kernels SET id = '00000000000000b1';
        UPDATE vms SET image_id = '00000000000000a1', kernel_id = '00000000000000b1';";
    connection.pragma_update(None, "foreign_keys", false).unwrap();
    connection.execute_batch(ids).unwrap();
}

#[test]
fn an_invalid_store_file_is_an_error_and_keeps_its_bytes() {
    let (_dir, path) = temp_store();
    fs::write(&path, vec![0x5a; 8192]).unwrap();
    let before = files(&path);
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Unreadable { .. }), "{error}");
    assert_eq!(ApiError::from(error).remedy, Some(Remedy::MoveStoreAside { path: path.clone() }));
    assert!(
        matches!(Store::open_read_only(&path), Err(StoreError::Unreadable { path: reported, .. }) if reported == path)
    );
    assert_eq!(files(&path), before);
}

#[test]
fn a_truncated_store_is_refused_and_left_unchanged() {
    for kept in [100, 512, 4096, 3 * 4096, 5 * 4096 + 17] {
        let (_dir, path) = temp_store();
        with_rows(&path, MIGRATIONS.len());
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..kept]).unwrap();
        let before = files(&path);
        assert!(matches!(Store::open_read_only(&path), Err(StoreError::Unreadable { .. })), "{kept} bytes");
        assert!(matches!(Store::open(&path), Err(StoreError::Unreadable { .. })), "{kept} bytes");
        assert_eq!(files(&path), before, "{kept} bytes");
    }
}

#[test]
fn an_emptied_store_is_refused_and_keeps_its_write_ahead_log() {
    let (_dir, path) = temp_store();
    let kept = tempfile::tempdir().unwrap();
    let store = Store::open(&path).unwrap();
    for suffix in ["", "-wal"] {
        fs::copy(companion_path(&path, suffix), kept.path().join(format!("store.db{suffix}"))).unwrap();
    }
    drop(store);
    // As after a power loss before the checkpoint: the file is empty, the log holds everything.
    let path = kept.path().join("store.db");
    assert!(fs::metadata(companion_path(&path, "-wal")).unwrap().len() > 0);
    fs::write(&path, "").unwrap();
    let before = files(&path);
    assert!(matches!(Store::open(&path), Err(StoreError::Unreadable { .. })));
    assert_eq!(files(&path), before);
}

#[test]
fn an_empty_file_is_opened_as_a_new_store() {
    let (_dir, path) = temp_store();
    fs::write(&path, "").unwrap();
    assert!(Store::open(&path).unwrap().vms().unwrap().is_empty());
}

#[test]
fn another_programs_database_is_refused() {
    let (_dir, path) = temp_store();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = files(&path);
    assert!(Store::open(&path).unwrap_err().to_string().contains("another program"));
    assert_eq!(files(&path), before);
}

#[test]
fn a_directory_at_the_stores_path_is_an_error() {
    let (_dir, path) = temp_store();
    fs::create_dir(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Unreadable { .. })));
    assert!(Store::open_read_only(&path).is_err());
    assert!(path.is_dir());
}

#[test]
fn a_read_only_store_file_is_refused_on_open() {
    let (_dir, path) = temp_store();
    drop(Store::open(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let opened = Store::open(&path);
    // File modes do not restrict root.
    if rustix::process::geteuid().is_root() {
        opened.unwrap();
    } else {
        assert!(matches!(opened, Err(StoreError::Unwritable(_))), "{opened:?}");
    }
}

#[test]
fn a_store_with_a_later_schema_is_refused_and_left_unchanged() {
    let (_dir, path) = temp_store();
    drop(Store::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = files(&path);
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("99"), "{error}");
    assert_eq!(ApiError::from(error).kind, ErrorKind::VersionSkew);
    assert_eq!(files(&path), before);
}

#[test]
fn opening_twice_migrates_once() {
    let (_dir, path) = temp_store();
    drop(Store::open(&path).unwrap());
    let store = Store::open(&path).unwrap();
    assert!(store.vms().unwrap().is_empty());
}

#[test]
fn a_store_of_any_earlier_schema_keeps_its_rows() {
    for version in 1..=MIGRATIONS.len() {
        let (_dir, path) = temp_store();
        with_rows(&path, version);
        let read_only = Store::open_read_only(&path).unwrap().unwrap();
        let store = Store::open(&path).unwrap();
        for vms in [read_only.vms().unwrap(), store.vms().unwrap()] {
            let [vm] = vms.as_slice() else { panic!("{vms:?}") };
            assert_eq!(
                (vm.name.as_str(), vm.image.as_str(), vm.egress.to_string().as_str()),
                ("box", "image", "open")
            );
        }
        let version: usize =
            store.connection().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, MIGRATIONS.len());
    }
}

#[test]
fn the_vmm_of_the_last_run_survives_a_migration_and_a_stop() {
    let (_dir, path) = temp_store();
    with_rows(&path, 4);
    let handle =
        r#"{"vmm":"qemu","accel":"tcg","pid":1,"control":"/c","guest":{"vsock":{"cid":3}},"network":"n"}"#;
    let run = "UPDATE vms SET state = 'running', handle = ?";
    Connection::open(&path).unwrap().execute(run, [handle]).unwrap();
    let store = Store::open(&path).unwrap();
    let ran_with = || {
        let vm = store.vms().unwrap().remove(0);
        (vm.vmm, vm.ran_with.map(|ran| ran.to_string()))
    };
    assert_eq!(ran_with(), (None, Some("qemu without KVM, in software".to_owned())));
    let vm = store.vms().unwrap().remove(0);
    // The row names no port.
    assert_eq!(vm.handle.as_ref().unwrap().agent_port, 1024);
    let handle = Handle { accel: banger_api::Accel::Kvm, ..vm.handle.unwrap() };
    store.set_vm_running(&vm.id, vm.created_at, &handle).unwrap();
    store.set_vm_down(&vm.id, None).unwrap();
    assert_eq!(ran_with(), (None, Some("qemu with KVM".to_owned())));
    let set = |vmm| SetVm { vcpu: Some(2), vmm, ..SetVm::default() };
    store.set_vm_hardware(&vm.id, &set(None)).unwrap();
    assert_eq!(ran_with(), (None, Some("qemu with KVM".to_owned())));
    store.set_vm_hardware(&vm.id, &set(Some(Vmm::Firecracker))).unwrap();
    assert_eq!(ran_with(), (Some(Vmm::Firecracker), None));
}

#[test]
fn a_failed_migration_leaves_the_previous_version() {
    let (_dir, path) = temp_store();
    let mut connection = connect(&path).unwrap();
    migrate(&mut connection, MIGRATIONS).unwrap();
    let good: &[&str] = &["CREATE TABLE good (x INTEGER) STRICT;"];
    let bad: &[&str] = &["CREATE TABLE half (x INTEGER) STRICT; nonsense"];
    for _ in 0..2 {
        migrate(&mut connection, &[MIGRATIONS, good, bad].concat()).unwrap_err();
        let found: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(found, MIGRATIONS.len() + 1);
        let created = "SELECT group_concat(name) FROM sqlite_schema WHERE name IN ('good', 'half')";
        assert_eq!(connection.query_row(created, [], |row| row.get::<_, String>(0)).unwrap(), "good");
    }
}

#[test]
fn every_connection_has_the_same_settings() {
    let (_dir, path) = temp_store();
    for _ in 0..2 {
        let store = Store::open(&path).unwrap();
        let copy = Store::open_read_only(&path).unwrap().unwrap();
        for connection in [store.connection(), copy.connection()] {
            let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
            let number =
                |name: &str| -> i64 { connection.pragma_query_value(None, name, |row| row.get(0)).unwrap() };
            assert_eq!((mode.as_str(), number("synchronous"), number("foreign_keys")), ("wal", 2, 1));
            assert_eq!(u128::try_from(number("busy_timeout")).unwrap(), BUSY_TIMEOUT.as_millis());
        }
    }
}

#[test]
fn opening_a_store_read_only_creates_and_changes_no_files() {
    let (_dir, path) = temp_store();
    assert!(Store::open_read_only(&path).unwrap().is_none());
    assert_eq!(files(&path), []);

    with_rows(&path, MIGRATIONS.len());
    let before = files(&path);
    assert_eq!(before.len(), 1, "the store is a single file");
    let read_only = Store::open_read_only(&path).unwrap().unwrap();
    assert_eq!(read_only.vms().unwrap().len(), 1);
    let id = "0123456789abcdef".parse().unwrap();
    assert!(read_only.delete_vm(&id).is_err(), "the copy is read-only");
    assert_eq!(files(&path), before);

    // A daemon has it open, and its last write is only in the log.
    let store = Store::open(&path).unwrap();
    store.delete_vm(&id).unwrap();
    let open = files(&path);
    assert!(Store::open_read_only(&path).unwrap().unwrap().vms().unwrap().is_empty());
    assert_eq!(files(&path), open);
}

#[test]
fn writes_outside_a_step_are_refused() {
    let (_dir, path) = temp_store();
    with_rows(&path, MIGRATIONS.len());
    let store = Store::open(&path).unwrap();
    let id = "0123456789abcdef".parse().unwrap();
    store.set_vm_down(&id, Some("why")).unwrap();
    let direct = store.connection().execute("DELETE FROM vms", []).unwrap_err();
    assert_eq!(direct.sqlite_error_code(), Some(rusqlite::ErrorCode::ReadOnly));
    assert_eq!(store.vm(&id).unwrap().unwrap().last_error.as_deref(), Some("why"));
}

#[test]
fn the_reason_of_a_failure_is_bounded_and_harmless() {
    let (_dir, path) = temp_store();
    with_rows(&path, MIGRATIONS.len());
    let id = "0123456789abcdef".parse().unwrap();
    let reason = format!("its VMM exited\n\x1b[2J\u{202e}{}", "\"".repeat(1 << 20));
    let last_error = |store: &Store| store.vm(&id).unwrap().unwrap().last_error.unwrap();
    let store = Store::open(&path).unwrap();
    store.set_vm_down(&id, Some(&reason)).unwrap();
    let stored = last_error(&store);
    assert!(
        stored.starts_with("its VMM exited\n^[[2J<U+202E>\"") && stored.len() == 4096,
        "{}",
        stored.len()
    );
    drop(store);
    // An earlier build stored all of it.
    let direct = rusqlite::Connection::open(&path).unwrap();
    direct.execute("UPDATE vms SET last_error = ?", [&reason]).unwrap();
    drop(direct);
    assert_eq!(last_error(&Store::open(&path).unwrap()), stored);
}

#[test]
fn a_new_image_replaces_only_an_unused_built_image() {
    let (_dir, path) = temp_store();
    with_rows(&path, MIGRATIONS.len());
    let store = Store::open(&path).unwrap();
    let used = store.images().unwrap().remove(0);
    let key = Some(banger_api::Digest::sha256([7; 32]));
    let image = |id: u8, name: &str, build_key| ImageRecord {
        id: banger_api::Id::from_random([id; 8]),
        name: name.parse().unwrap(),
        build_key,
        ..used.clone()
    };
    let (built, next) = (image(1, "built", key), image(2, "built", key));
    store.insert_image(&built).unwrap();
    assert!(matches!(store.insert_image(&next), Err(StoreError::NameTaken(_))));
    store.insert_image_replacing(&next, &built.id).unwrap();
    // An image that a VM uses, and an image that no build created, are kept.
    let third = image(3, "image", key);
    assert!(matches!(store.insert_image_replacing(&third, &used.id), Err(StoreError::NameTaken(_))));
    store.rename_image(&used, &"other".parse().unwrap()).unwrap();
    assert!(matches!(store.rename_image(&next, &"other".parse().unwrap()), Err(StoreError::NameTaken(_))));
    let names: Vec<_> = store.images().unwrap().into_iter().map(|image| image.name.to_string()).collect();
    assert_eq!(names, ["built", "other"]);
    assert_eq!(store.vms().unwrap()[0].image, "other");
    let (events, _) = store.event_log().recent_and_follow();
    let kinds: Vec<_> =
        events.into_iter().map(|event| serde_json::to_value(event.kind).unwrap()["kind"].clone()).collect();
    assert_eq!(kinds, ["image_created", "image_deleted", "image_created", "image_renamed"]);
}
