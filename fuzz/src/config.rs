//! Reads a configuration file and an environment variable, separated by a zero byte: errors have a bounded length.

use std::path::Path;

use banger_api::{
    Config, HostResources,
    config::{Layer, Owner},
};

pub(crate) fn run(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let bytes = parts.next().unwrap_or_default().to_vec();
    let Ok(word) = std::str::from_utf8(parts.next().unwrap_or_default()) else { return };
    let mut layers = Vec::new();
    for owner in [Owner::Project, Owner::User] {
        match Layer::from_file(owner, Path::new("/config.toml"), Ok(bytes.clone())) {
            Ok(layer) => layers.push(layer),
            // TOML's error messages may quote a line of the file.
            Err(error) => assert!(error.to_string().len() < 1000 + 2 * bytes.len()),
        }
    }
    layers.extend(Layer::from_env(|_| Some(word.into())));
    let config = Config::new(layers, HostResources::default());
    for key in config.entries() {
        assert!(!key.value.is_empty());
    }
}
