//! Signed catalogs at URLs: a mirror can neither bring back an older one, nor serve one for another URL.

use std::{fs, net::SocketAddr, process::Command as Process};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::{
    driver::Command,
    host::Host,
    http::{self, Answer},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("catalogs::an_older_catalog_is_rejected_without_the_cache", an_older_catalog_is_rejected),
        trial("catalogs::a_catalog_is_used_only_at_its_own_urls", a_catalog_is_used_only_at_its_own_urls),
        trial("catalogs::a_signature_needs_a_timestamp", a_signature_needs_a_timestamp),
    ]
}

/// A host, a team's key, and a server of files.
pub(crate) struct Team {
    pub(crate) host: Host,
    server: SocketAddr,
    public_key: String,
}

impl Team {
    pub(crate) fn new() -> Result<Self> {
        let host = Host::new()?;
        let [public, secret] = ["team.pub", "team.key"].map(|name| host.path(name));
        run(Process::new("minisign").args(["-G", "-W", "-p"]).arg(&public).arg("-s").arg(secret))?;
        let public_key = fs::read_to_string(public)?.lines().nth(1).context("no key")?.to_owned();
        fs::create_dir(host.path("served"))?;
        let served = host.path("served");
        let server = http::serve(move |path| match fs::read(served.join(path.trim_start_matches('/'))) {
            Ok(body) => Answer { status: "200 OK", headers: String::new(), body },
            Err(_) => Answer::not_found(),
        })?;
        Ok(Self { host, server, public_key })
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.server)
    }

    /// Signs and serves a catalog of one image, whose description says when it was signed.
    pub(crate) fn publish(&self, name: &str, urls: &[&str], signed_at: &str) -> Result<()> {
        let urls: Vec<_> = urls.iter().map(|name| self.url(name)).collect();
        let text = format!(
            "urls = {urls:?}\n[[image]]\nname = 'team/box'\ndescription = '{signed_at}'\ndistro = 'debian'\n\
             size = '1G'\nsource = [{{ oci = '127.0.0.1:1/box:1' }}]\n"
        );
        let path = self.host.path("served").join(name);
        fs::write(&path, text)?;
        let mut sign = Process::new("minisign");
        run(sign
            .arg("-S")
            .arg("-s")
            .arg(self.host.path("team.key"))
            .arg("-m")
            .arg(path)
            .args(["-t", signed_at]))
    }

    pub(crate) fn configure(&self, name: &str) -> Result<()> {
        let (url, key) = (self.url(name), &self.public_key);
        let config = format!("[[catalog]]\nurl = '{url}'\nkey = '{key}'\n");
        Ok(fs::write(self.host.path("config/config.toml"), config)?)
    }

    /// Downloads the catalog, and returns the description of its image, if one is known.
    pub(crate) fn refresh(&mut self) -> Result<Option<String>> {
        self.host.send_ok(Command::RefreshCatalogs)?;
        let images = self.host.send_ok(Command::AvailableImages)?;
        let images = images.as_array().context("images")?;
        let image = images.iter().find(|image| image["name"] == "team/box");
        Ok(image.and_then(|image| image["description"].as_str()).map(str::to_owned))
    }
}

fn an_older_catalog_is_rejected() -> Result<()> {
    let mut team = Team::new()?;
    team.configure("catalog.toml")?;
    let publish =
        |team: &Team, at| team.publish("catalog.toml", &["catalog.toml"], &format!("timestamp:{at}"));
    let is = |found: Option<String>, at: Option<u64>| {
        ensure!(found == at.map(|at| format!("timestamp:{at}")), "{found:?}, expected {at:?}");
        Ok(())
    };
    publish(&team, 1000)?;
    is(team.refresh()?, Some(1000))?;
    team.host.link("cache/catalogs", "older")?;
    publish(&team, 2000)?;
    is(team.refresh()?, Some(2000))?;
    publish(&team, 1999)?;
    is(team.refresh()?, Some(2000))?;
    // Without the copy, and with an older one.
    team.host.remove_all(&["cache/catalogs"])?;
    is(team.refresh()?, None)?;
    team.host.kill_daemon()?;
    fs::rename(team.host.path("older"), team.host.path("cache/catalogs"))?;
    is(team.refresh()?, None)?;
    publish(&team, 2000)?;
    is(team.refresh()?, Some(2000))
}

fn a_catalog_is_used_only_at_its_own_urls() -> Result<()> {
    let mut team = Team::new()?;
    let mut publish_at = 1000..;
    let mut used = |served: &str, urls: &[&str]| {
        let signed_at = format!("timestamp:{}", publish_at.next().unwrap_or_default());
        team.publish(served, urls, &signed_at)?;
        team.configure(served)?;
        team.refresh().map(|found| found == Some(signed_at))
    };
    ensure!(used("stable.toml", &["stable.toml"])?);
    ensure!(used("mirror.toml", &["stable.toml", "mirror.toml"])?);
    for urls in [&["testing.toml"][..], &["stable.tom"], &["stable.toml/"], &["x/stable.toml"], &[]] {
        let error = used("stable.toml", urls).err().context("another URL's catalog is used")?;
        ensure!(format!("{error:#}").contains("urls"), "{error:#}");
    }
    Ok(())
}

/// Without a timestamp, an older catalog would not be recognised.
fn a_signature_needs_a_timestamp() -> Result<()> {
    let mut team = Team::new()?;
    team.configure("catalog.toml")?;
    for comment in ["file:catalog.toml", "timestamp:", "timestamp:soon", "timestamp:-1", "x:timestamp:1"] {
        team.publish("catalog.toml", &["catalog.toml"], comment)?;
        let error = team.refresh().err().context("a signature without a timestamp is accepted")?;
        ensure!(format!("{error:#}").contains("timestamp"), "{error:#}");
    }
    Ok(())
}

fn run(command: &mut Process) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
