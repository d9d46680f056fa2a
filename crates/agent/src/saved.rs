//! What a restarted server of the agent must still know: the image's variables, which the host sends once.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, Write},
};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::console::log;

/// A file in memory that each server inherits, or none.
#[derive(Debug, Default)]
pub(crate) struct Saved(Option<File>);

impl Saved {
    /// Creates an empty file for the servers, which inherit it.
    pub(crate) fn create() -> io::Result<File> {
        Ok(memfd_create("banger-agent", MemfdFlags::CLOEXEC)?.into())
    }

    /// Uses the file that this process has inherited as its standard input.
    pub(crate) fn inherited() -> io::Result<Self> {
        Ok(Self(Some(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?.into())))
    }

    /// Returns the variables that an earlier server has saved.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let mut bytes = Vec::new();
        let read = self.0.as_ref().map(|mut file| file.rewind().and_then(|()| file.read_to_end(&mut bytes)));
        match read {
            // Empty until a server has saved something.
            Some(Ok(1..)) => serde_json::from_slice(&bytes).unwrap_or_default(),
            _ => BTreeMap::new(),
        }
    }

    /// Saves the variables for the servers after this one.
    pub(crate) fn save(&self, variables: &BTreeMap<String, String>) {
        let Some(mut file) = self.0.as_ref() else { return };
        let saved = serde_json::to_vec(variables).map_err(io::Error::from).and_then(|bytes| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&bytes)
        });
        if let Err(error) = saved {
            log(&format!("cannot save the image's variables: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_survive_the_server_that_saved_them() {
        let file = Saved::create().unwrap();
        let server = || Saved(Some(file.try_clone().unwrap()));
        assert!(server().variables().is_empty());
        for value in ["a long value of the first time", "short"] {
            let variables: BTreeMap<_, _> = [("NAME".to_owned(), value.to_owned())].into();
            server().save(&variables);
            assert_eq!(server().variables(), variables);
        }
        assert!(Saved::default().variables().is_empty());
    }
}
