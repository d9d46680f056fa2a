//! The file in which a VM's gateway records flows: a JSON line each. It is written as a whole, under a lock, so that a
//! reader never sees a part; and read again by the gateway of the VM's next start.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::Path,
};

use banger_api::Flow;

/// Maximum length of the file, in bytes: twice what the maximum number of flows needs with the longest names.
pub(crate) const MAX_LENGTH: u64 = 4 << 20;

/// Opens the record at `path`, for the gateway to inherit. Creates an empty one if there is none.
///
/// # Errors
/// Returns an error if it is not possible.
pub fn open_for_gateway(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Reads the flows in the record at `path`; none if it does not exist. Waits while the gateway writes it. Blocks.
///
/// # Errors
/// Returns an error if it cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Flow>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    file.lock_shared()?;
    flows(&file)
}

/// Reads the flows in an open record. Lines that are none, as after a power loss, are left out.
pub(crate) fn flows(mut file: &File) -> io::Result<Vec<Flow>> {
    file.seek(SeekFrom::Start(0))?;
    let mut flows = Vec::new();
    for line in BufReader::new(io::Read::take(file, MAX_LENGTH)).split(b'\n') {
        flows.extend(serde_json::from_slice::<Flow>(&line?).ok());
    }
    Ok(flows)
}

/// Replaces the flows in an open record. Returns false if somebody reads them, so that it must be tried again.
pub(crate) fn replace(mut file: &File, flows: &[Flow]) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Ok(false),
        Err(std::fs::TryLockError::Error(error)) => return Err(error),
    }
    let written = (|| {
        let mut text = Vec::new();
        for flow in flows {
            serde_json::to_writer(&mut text, flow)?;
            text.push(b'\n');
        }
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&text)?;
        file.set_len(text.len() as u64)
    })();
    file.unlock()?;
    written.map(|()| true)
}

#[cfg(test)]
mod tests {
    use banger_api::{FlowProtocol, FlowVerdict};
    use jiff::Timestamp;

    use super::*;

    fn flow(count: u64) -> Flow {
        let (first_at, last_at) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let name = Some("pypi.org".to_owned());
        let (verdict, protocol) = (FlowVerdict::Allowed, FlowProtocol::Tcp);
        let (address, port, process, pid) = (None, Some(443), None, None);
        Flow { verdict, protocol, name, address, port, process, pid, count, first_at, last_at }
    }

    #[test]
    fn a_record_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows");
        assert!(read(&path).unwrap().is_empty());
        let file = open_for_gateway(&path).unwrap();
        for flows in [vec![flow(1), flow(2)], vec![flow(30)], vec![]] {
            assert!(replace(&file, &flows).unwrap());
            assert_eq!((read(&path).unwrap(), super::flows(&file).unwrap()), (flows.clone(), flows));
        }
        let reader = File::open(&path).unwrap();
        reader.lock_shared().unwrap();
        assert!(!replace(&file, &[flow(1)]).unwrap());
        drop(reader);
        std::fs::write(&path, "{\"verdict\":\"allo\n\n").unwrap();
        assert!(read(&path).unwrap().is_empty());
    }
}
