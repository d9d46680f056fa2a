//! The API for other clients: its OpenAPI document, and a client in Python that is built from it.

use std::path::Path;

use anyhow::Result;
use banger_smoke::{Host, Running, scenario};

#[scenario(Here)]
fn a_client_of_the_openapi_document_creates_uses_and_deletes_a_vm() -> Result<()> {
    let host = Host::tiny()?;
    host.ok(&["ps"])?;
    let mut client = host.python()?;
    client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/client.py"));
    client.arg(host.path("run/banger/bangerd.sock")).arg("tiny");
    let output = Running::start(client, "the Python client".to_owned())?.finish(b"")?.success()?;
    assert!(
        output.contains("OpenAPI 3.1.0") && output.ends_with("created, used and deleted a VM\n"),
        "{output}"
    );
    host.nothing_left()
}
