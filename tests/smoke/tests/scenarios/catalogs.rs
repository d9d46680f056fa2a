//! Bundles that move between hosts, and catalogs that list them: the user's own, and a team's at a URL.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use banger_smoke::{FileServer, Forwarding, Host, Proxy, run, scenario, static_busybox, tar_of};
use serde_json::Value;

/// Random bytes in a bundle, which do not compress, so that its download takes more than one breaking connection.
const NOISE: u64 = 6 << 20;

/// A bundle and its reported checksum.
struct Bundle {
    path: PathBuf,
    sha256: String,
}

/// Creates an image `box` on a host of its own, and a bundle of it in a directory.
fn bundle(dir: &Path) -> Result<Bundle> {
    let host = Host::new()?;
    let (tar, mut noise) = (host.path("box.tar"), Vec::new());
    fs::File::open("/dev/urandom")?.take(NOISE).read_to_end(&mut noise)?;
    let files: [(&str, &[u8]); 3] =
        [("bin/busybox", &static_busybox()?), ("etc/motd", b"from a bundle"), ("srv/noise", &noise)];
    tar_of(&tar, &files, &[("bin/sh", "busybox")])?;
    host.ok(&["image", "import", "box", &tar.display().to_string()])?;
    let path = dir.join("box.tar.zst");
    let report = host.json(&["image", "bundle", "box", &path.display().to_string()])?;
    assert_eq!(report["path"], path.display().to_string());
    assert_eq!(report["size"], fs::metadata(&path)?.len());
    let sha256 = report["sha256"].as_str().context("sha256")?;
    let sha256 = sha256.strip_prefix("sha256:").unwrap_or(sha256).to_owned();
    let sums = dir.join("sums");
    fs::write(&sums, format!("{sha256}  {}\n", path.display()))?;
    run(Command::new("sha256sum").args(["--check", "--quiet"]).arg(&sums))?;
    host.banger(&["image", "bundle", "box", &path.display().to_string()])?
        .fails(1, &["already exists", "--force"])?;
    let again = dir.join("again.tar.zst");
    host.ok(&["image", "bundle", "box", &again.display().to_string()])?;
    ensure!(fs::read(&again)? == fs::read(&path)?, "the same image produced a different bundle");
    Ok(Bundle { path, sha256 })
}

/// Returns the catalog's entry of this name.
fn available(host: &Host, name: &str) -> Result<Value> {
    let entries = host.json(&["image", "list", "--available"])?;
    let entry = entries.as_array().into_iter().flatten().find(|entry| entry["name"] == name);
    Ok(entry.cloned().unwrap_or_default())
}

fn entry(name: &str, description: &str, sources: &str) -> String {
    format!(
        "[[image]]\nname = '{name}'\ndescription = '{description}'\ndistro = 'busybox'\nsize = '10M'\n\
         source = [{sources}]\n"
    )
}

#[scenario(Here)]
fn another_host_pulls_a_bundle_from_a_file_or_url() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bundle = bundle(dir.path())?;
    let path = bundle.path.display().to_string();
    let listed = Command::new("tar").args(["--zstd", "-tf", &path]).output()?;
    assert_eq!(String::from_utf8(listed.stdout)?, "manifest.json\nrootfs.ext4\n");

    let host = Host::new()?;
    assert_eq!(host.ok(&["image", "pull", &path])?, "box\n");
    host.banger(&["image", "pull", &path])?.fails(1, &["image box already exists", "--name"])?;
    let wrong = "0".repeat(64);
    let refused = host.banger(&["image", "pull", &path, "--name", "other", "--sha256", &wrong])?;
    refused.fails(1, &[&bundle.sha256, &wrong])?;

    // From a server whose connections break: bytes that have arrived are not downloaded again.
    let server = FileServer::start(dir.path())?;
    let proxy = Proxy::start(server.address(), Forwarding::BreakAfter(4 << 20))?;
    let url = format!("http://{}/box.tar.zst", proxy.address());
    host.ok(&["image", "pull", &url, "--name", "far", "--sha256", &bundle.sha256])?;
    let size = fs::metadata(&bundle.path)?.len();
    ensure!(proxy.forwarded() < size + (1 << 20), "{} of {size} bytes", proxy.forwarded());
    let refused = host.banger(&["image", "pull", &server.url("none.tar.zst")])?;
    refused.fails(1, &["cannot download", "does not have /none.tar.zst"])?;
    host.banger(&["image", "pull", "http://10.0.0.1/box.tar.zst"])?.fails(1, &["plain_http"])?;
    assert_eq!(fs::read_dir(host.path("state/banger/images"))?.count(), 3, "the template's, box and far");

    let output =
        host.ok(&["vm", "run", "--rm", "--image", "far", "--", "/bin/busybox", "cat", "/etc/motd"])?;
    assert_eq!(output, "from a bundle");
    host.nothing_left()
}

#[scenario(Here)]
fn sources_of_a_user_catalog_are_tried_in_order() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Bundle { sha256, .. } = bundle(dir.path())?;
    let server = FileServer::start(dir.path())?;
    let host = Host::new()?;
    let url = server.url("box.tar.zst");
    let sources = format!("{{ oci = '127.0.0.1:1/box:1' }}, {{ bundle = '{url}', sha256 = '{sha256}' }}");
    fs::create_dir_all(host.path("config/banger"))?;
    fs::write(host.path("config/banger/catalog.toml"), entry("team/box", "Ours", &sources))?;
    let listed = available(&host, "team/box")?;
    assert_eq!((&listed["here"], &listed["sources"]), (&false.into(), &serde_json::json!(["oci", "bundle"])));
    assert_eq!(available(&host, "alpine")?["distro"], "alpine");

    let run =
        ["vm", "run", "--rm", "--timing", "--image", "team/box", "--", "/bin/busybox", "cat", "/etc/motd"];
    let output = host.banger(&run)?;
    for text in ["trying the next source of team/box", "\nfetch image "] {
        ensure!(output.stderr.contains(text), "no {text:?} in {}", output.stderr);
    }
    assert_eq!(output.success()?, "from a bundle");
    assert_eq!(available(&host, "team/box")?["here"], true);
    assert_eq!(host.json(&["image", "show", "team/box"])?["source"], "catalog");

    // Commands that need the catalog report a mistake with its line; local images stay usable.
    fs::write(host.path("config/banger/catalog.toml"), "\n[[images]]\n")?;
    host.banger(&["image", "list", "--available"])?.fails(1, &["catalog.toml:2", "unknown field"])?;
    host.ok(&["vm", "create", "--no-start", "--image", "team/box"])?;
    Ok(())
}

#[scenario(Here)]
fn a_remote_catalog_is_used_only_with_a_valid_signature() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [catalog, public, secret] =
        ["catalog.toml", "team.pub", "team.key"].map(|name| dir.path().join(name));
    run(Command::new("minisign").args(["-G", "-W", "-p"]).arg(&public).arg("-s").arg(&secret))?;
    let sign = |options: &[&str]| {
        run(Command::new("minisign").arg("-S").arg("-s").arg(&secret).arg("-m").arg(&catalog).args(options))
    };
    let key = fs::read_to_string(&public)?.lines().nth(1).context("no key")?.to_owned();
    let server = FileServer::start(dir.path())?;
    let url = server.url("catalog.toml");
    let host = Host::new()?;
    fs::create_dir_all(host.path("config/banger"))?;
    let config = format!("[[catalog]]\nurl = '{url}'\nkey = '{key}'\n");
    fs::write(host.path("config/banger/config.toml"), config)?;

    let entries = entry("team/box", "Theirs", "{ oci = '127.0.0.1:1/box:1' }")
        + &entry("alpine", "Theirs", "{ oci = 'alpine' }");
    let text = format!("urls = ['{url}']\n{entries}");
    fs::write(&catalog, &text)?;
    host.banger(&["image", "list", "--available"])?.fails(1, &[&url, &key, "it is not signed"])?;
    // A catalog that the team signed for another URL.
    fs::write(&catalog, text.replace("/catalog.toml", "/testing.toml"))?;
    sign(&[])?;
    host.banger(&["image", "list", "--available"])?.fails(1, &[&url, &key, "testing.toml"])?;
    fs::write(&catalog, &text)?;
    sign(&[])?;
    assert_eq!(available(&host, "team/box")?["description"], "Theirs");
    assert_eq!(available(&host, "alpine")?["description"], "Theirs");
    fs::write(host.path("config/banger/catalog.toml"), entry("alpine", "Ours", "{ oci = 'alpine' }"))?;
    assert_eq!(available(&host, "alpine")?["description"], "Ours");
    let pulled = host.banger(&["image", "pull", "team/box"])?;
    pulled.fails(1, &["cannot reach 127.0.0.1:1"])?;

    // An older catalog from a mirror is rejected.
    fs::write(&catalog, text.replace("Theirs", "Withdrawn"))?;
    sign(&["-t", "timestamp:1"])?;
    let listed = host.banger(&["image", "list", "--available"])?;
    ensure!(listed.stderr.contains("has an older signature than its last version"), "{}", listed.stderr);
    ensure!(!listed.success()?.contains("Withdrawn"), "an older catalog is used");
    // Also without the cached copy.
    let copies = host.path("cache/banger/catalogs");
    fs::rename(&copies, host.path("copies"))?;
    let listed = host.ok(&["image", "list", "--available"])?;
    ensure!(!listed.contains("Withdrawn"), "an older catalog is used");
    fs::remove_dir_all(&copies)?;
    fs::rename(host.path("copies"), &copies)?;

    fs::write(&catalog, text.replace("box:1", "box:0"))?;
    host.banger(&["image", "list", "--available"])?.fails(1, &[&url, &key])?;
    host.banger(&["image", "pull", "no-such-image"])?.fails(1, &[&url, &key])?;
    let doctor = host.banger(&["doctor", "-o", "json"])?;
    ensure!(doctor.stdout.contains("signed catalog") && doctor.stdout.contains(&key), "{}", doctor.stdout);

    // The last verified copy is used when the server cannot be reached.
    drop(server);
    let listed = host.banger(&["image", "list", "--available"])?;
    ensure!(listed.stderr.contains("the cached copy is used"), "{}", listed.stderr);
    ensure!(listed.success()?.contains("Theirs"), "the cached copy is not used");

    // `prune` deletes the copy when its catalog is no longer configured.
    let pruned = || Ok::<_, anyhow::Error>(host.json(&["image", "cache", "prune"])?["kinds"][2].clone());
    assert_eq!(pruned()?["files"], 0);
    fs::write(host.path("config/banger/config.toml"), "")?;
    let removed = pruned()?;
    assert_eq!((&removed["kind"], &removed["files"]), (&"catalogs".into(), &1.into()));
    assert_eq!(pruned()?["files"], 0);
    host.nothing_left()
}
