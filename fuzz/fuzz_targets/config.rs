//! A configuration file's bytes, and a variable's text: a configuration or an error of bounded length.
#![no_main]

use std::path::Path;

use banger_api::{
    Config, HostSize,
    config::{Layer, Owner},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, String)| {
    let (bytes, word) = input;
    let mut layers = Vec::new();
    for owner in [Owner::Project, Owner::User] {
        match Layer::of_file(owner, Path::new("/config.toml"), Ok(bytes.clone())) {
            Ok(layer) => layers.push(layer),
            // TOML's own words may quote a line of the file.
            Err(error) => assert!(error.to_string().len() < 1000 + 2 * bytes.len()),
        }
    }
    layers.extend(Layer::of_variables(|_| Some(word.clone().into())));
    let config = Config::new(layers, HostSize::default());
    for key in config.shown() {
        assert!(!key.value.is_empty());
    }
});
