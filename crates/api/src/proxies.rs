//! Proxies of a guest's sessions: environment variables, with the host's loopback translated.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HostPorts;

/// Variables with the URL of a proxy. Programs differ in the form that they read.
const PROXIES: [[&str; 2]; 3] =
    [["HTTP_PROXY", "http_proxy"], ["HTTPS_PROXY", "https_proxy"], ["ALL_PROXY", "all_proxy"]];

/// Variables with the hosts that need no proxy.
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Hosts that a guest reaches without a proxy: its own, and the services of the host.
const DIRECT: [&str; 4] = [HostPorts::NAME, "localhost", "127.0.0.1", "::1"];

/// Maximum length of a variable's value, in bytes.
const MAX_VALUE: usize = 8192;

/// Which proxies the sessions of VMs use. Its text has no password.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum HttpProxy {
    /// None.
    #[default]
    None,
    /// Those of the user's environment, such as `HTTPS_PROXY`.
    Host,
    /// This one.
    Url(ProxyUrl),
}

/// The URL of a proxy, which may have a password.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(String);

/// Error for a proxy that cannot be used. It does not quote the value, which may have a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProxy {
    /// A setting is neither a keyword nor a URL.
    #[error("a proxy is host, none, or a URL such as http://proxy.example:3128: {0}")]
    Setting(&'static str),
    /// A variable has no usable URL.
    #[error("{name} is not the URL of a proxy: {why}")]
    Variable {
        /// Its name.
        name: String,
        /// The reason.
        why: &'static str,
    },
    /// A variable is not for proxies.
    #[error("{0:?} is not a variable for proxies")]
    Name(String),
}

/// The parts of a proxy's URL.
struct Parts<'a> {
    scheme: Option<&'a str>,
    /// User and password.
    user: Option<&'a str>,
    host: &'a str,
    port: Option<u16>,
    /// The path.
    rest: &'a str,
}

impl<'a> Parts<'a> {
    fn parse(url: &'a str) -> Result<Self, &'static str> {
        if url.len() > MAX_VALUE {
            return Err("it is too long");
        }
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("it has a space or a control character");
        }
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, url),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let rest = rest.strip_prefix(authority).unwrap_or_default();
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let (host, port) = match address.strip_prefix('[').and_then(|address| address.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or("its port is not valid")?)),
            None => address.rsplit_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return Err("it has no host");
        }
        let port = match port.map(str::parse) {
            None => None,
            Some(Ok(port @ 1..)) => Some(port),
            Some(_) => return Err("its port is not valid"),
        };
        Ok(Self { scheme, user, host, port, rest })
    }

    /// Returns whether a guest would look for the proxy in itself.
    fn is_loopback(&self) -> bool {
        let address: Result<IpAddr, _> = self.host.parse();
        self.host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    }

    /// Returns the URL for a guest.
    fn for_guest(&self, url: &str) -> Result<String, &'static str> {
        if !self.is_loopback() {
            return Ok(url.to_owned());
        }
        if !matches!(self.host.to_ascii_lowercase().as_str(), "localhost" | "127.0.0.1" | "::1") {
            return Err("a VM reaches no other address of the host's loopback than 127.0.0.1 and ::1");
        }
        let port = self.port.ok_or("it is on the host's loopback and has no port")?;
        let scheme = self.scheme.map(|scheme| format!("{scheme}://")).unwrap_or_default();
        let user = self.user.map(|user| format!("{user}@")).unwrap_or_default();
        Ok(format!("{scheme}{user}{}:{port}{}", HostPorts::NAME, self.rest))
    }
}

impl HttpProxy {
    /// Returns whether it has a password, or another secret in its place.
    pub fn has_password(&self) -> bool {
        let Self::Url(url) = self else { return false };
        Parts::parse(&url.0).is_ok_and(|parts| parts.user.is_some())
    }
}

impl FromStr for HttpProxy {
    type Err = InvalidProxy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            url => match Parts::parse(url).map_err(InvalidProxy::Setting)?.scheme {
                Some("http" | "https" | "socks4" | "socks4a" | "socks5" | "socks5h") => {
                    Ok(Self::Url(ProxyUrl(url.to_owned())))
                }
                _ => Err(InvalidProxy::Setting("it has no scheme such as http")),
            },
        }
    }
}

impl fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Host => f.pad("host"),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ProxyUrl {
    /// Writes the URL without its user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Parts::parse(&self.0).ok().and_then(|parts| parts.user) {
            Some(user) => f.pad(&self.0.replacen(user, "***", 1)),
            None => f.pad(&self.0),
        }
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Environment variables for proxies, for every session of a guest: secrets of the user.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
#[schemars(with = "BTreeMap<String, String>")]
pub struct ProxyVariables(BTreeMap<String, String>);

impl ProxyVariables {
    /// Returns the variables for a guest. `lookup` returns the user's own. Both forms of each are set, in upper and in
    /// lower case; a proxy of the host's loopback is one of [`HostPorts::NAME`].
    ///
    /// # Errors
    /// Returns an error for a variable that is not the URL of a proxy.
    pub fn collect(
        setting: &HttpProxy,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, InvalidProxy> {
        let own = |names: [&'static str; 2]| {
            let values = names.map(|name| lookup(name).filter(|value| !value.is_empty()));
            let [upper, lower] = names;
            match values {
                [Some(a), Some(b)] => vec![(upper, a), (lower, b)],
                [Some(value), None] | [None, Some(value)] => vec![(upper, value.clone()), (lower, value)],
                [None, None] => Vec::new(),
            }
        };
        let proxies: Vec<(&str, String)> = match setting {
            HttpProxy::None => Vec::new(),
            HttpProxy::Host => PROXIES.into_iter().flat_map(own).collect(),
            HttpProxy::Url(ProxyUrl(url)) => {
                let [http, https, all] = PROXIES;
                let names = if url.starts_with("socks") { [all].concat() } else { [http, https].concat() };
                names.into_iter().map(|name| (name, url.clone())).collect()
            }
        };
        let mut variables = BTreeMap::new();
        for (name, url) in proxies {
            let invalid = |why| InvalidProxy::Variable { name: name.to_owned(), why };
            let translated = Parts::parse(&url).and_then(|parts| parts.for_guest(&url)).map_err(invalid)?;
            variables.insert(name.to_owned(), translated);
        }
        if !variables.is_empty() {
            let [upper, lower] = NO_PROXY;
            let hosts = own(NO_PROXY);
            for name in [upper, lower] {
                let hosts = hosts.iter().find(|(own, _)| *own == name).map_or("", |(_, hosts)| hosts);
                variables.insert(name.to_owned(), direct(hosts));
            }
        }
        Self::try_from(variables)
    }

    /// Returns the ports of the host at which the guest needs services.
    pub fn host_ports(&self) -> Vec<u16> {
        let mut ports: Vec<_> = self.proxies().filter_map(|(_, _, port)| port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Returns the variables, as `NAME=VALUE`, without the proxies on ports of the host that are not `allowed`.
    pub fn for_session(&self, allowed: &HostPorts) -> Vec<String> {
        let is_allowed = |port: Option<u16>| port.is_none_or(|port| allowed.ports().contains(&port));
        let proxies = self.proxies().filter(|(.., port)| is_allowed(*port));
        let proxies: Vec<_> = proxies.map(|(name, url, _)| format!("{name}={url}")).collect();
        let direct = NO_PROXY.into_iter().filter(|_| !proxies.is_empty());
        let direct = direct.filter_map(|name| Some(format!("{name}={}", self.0.get(name)?)));
        let direct: Vec<_> = direct.collect();
        [proxies, direct].concat()
    }

    /// Returns the names and URLs of the proxies, and their ports if they are services of the host.
    fn proxies(&self) -> impl Iterator<Item = (&str, &str, Option<u16>)> {
        let proxies = self.0.iter().filter(|(name, _)| !NO_PROXY.contains(&name.as_str()));
        proxies.map(|(name, url)| {
            let parts =
                Parts::parse(url).ok().filter(|parts| parts.host.eq_ignore_ascii_case(HostPorts::NAME));
            (name.as_str(), url.as_str(), parts.and_then(|parts| parts.port))
        })
    }
}

/// Returns the user's list of hosts without a proxy, and the guest's.
fn direct(hosts: &str) -> String {
    if hosts.trim() == "*" {
        return "*".to_owned();
    }
    let mut all: Vec<_> = hosts.split([',', ' ']).filter(|host| !host.is_empty()).collect();
    all.extend(DIRECT.iter().filter(|host| !hosts.split([',', ' ']).any(|own| own == **host)));
    all.join(",")
}

impl TryFrom<BTreeMap<String, String>> for ProxyVariables {
    type Error = InvalidProxy;

    fn try_from(variables: BTreeMap<String, String>) -> Result<Self, Self::Error> {
        for (name, value) in &variables {
            let invalid = |why| InvalidProxy::Variable { name: name.clone(), why };
            if NO_PROXY.contains(&name.as_str()) {
                if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
                    return Err(invalid("it is too long, or has a control character"));
                }
            } else if PROXIES.as_flattened().contains(&name.as_str()) {
                Parts::parse(value).map_err(invalid)?;
            } else {
                return Err(InvalidProxy::Name(name.chars().take(64).collect()));
            }
        }
        Ok(Self(variables))
    }
}

impl From<ProxyVariables> for BTreeMap<String, String> {
    fn from(variables: ProxyVariables) -> Self {
        variables.0
    }
}

impl fmt::Debug for ProxyVariables {
    /// Writes the names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the variables for a guest of a user with these.
    fn collect(setting: &str, own: &[(&str, &str)]) -> Result<Vec<String>, InvalidProxy> {
        let lookup =
            |name: &str| own.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        let variables = ProxyVariables::collect(&setting.parse()?, lookup)?;
        let allowed = HostPorts::new(variables.host_ports()).unwrap();
        Ok(variables.for_session(&allowed))
    }

    const DIRECT: &str = "host.banger.internal,localhost,127.0.0.1,::1";

    #[test]
    fn a_users_proxies_are_set_in_both_forms_and_translated_from_the_loopback() {
        assert_eq!(collect("none", &[("HTTP_PROXY", "http://p:1")]).unwrap(), [""; 0]);
        assert_eq!(collect("host", &[("NO_PROXY", "corp.example")]).unwrap(), [""; 0]);
        let own = [
            ("https_proxy", "http://me:p%40ss@localhost:3128/x"),
            ("ALL_PROXY", "socks5h://[::1]:1080"),
            ("HTTP_PROXY", "http://proxy.example"),
            ("http_proxy", "127.0.0.1:8080"),
            ("no_proxy", "corp.example, localhost"),
        ];
        let direct = "corp.example,localhost,host.banger.internal,127.0.0.1,::1";
        assert_eq!(
            collect("host", &own).unwrap(),
            [
                "ALL_PROXY=socks5h://host.banger.internal:1080".to_owned(),
                "HTTPS_PROXY=http://me:p%40ss@host.banger.internal:3128/x".to_owned(),
                "HTTP_PROXY=http://proxy.example".to_owned(),
                "all_proxy=socks5h://host.banger.internal:1080".to_owned(),
                "http_proxy=host.banger.internal:8080".to_owned(),
                "https_proxy=http://me:p%40ss@host.banger.internal:3128/x".to_owned(),
                format!("NO_PROXY={direct}"),
                format!("no_proxy={direct}"),
            ]
        );
    }

    #[test]
    fn a_configured_proxy_is_set_in_place_of_the_users() {
        let own = [("HTTP_PROXY", "http://other:1"), ("NO_PROXY", "*")];
        let expected = ["HTTPS_PROXY", "HTTP_PROXY", "http_proxy", "https_proxy"];
        let mut expected = expected.map(|name| format!("{name}=http://p:1")).to_vec();
        expected.extend(["NO_PROXY=*".to_owned(), "no_proxy=*".to_owned()]);
        assert_eq!(collect("http://p:1", &own).unwrap(), expected);
        let socks = collect("socks5://p:1", &[]).unwrap();
        assert_eq!(
            socks,
            ["ALL_PROXY=socks5://p:1", "all_proxy=socks5://p:1"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("NO_PROXY={DIRECT}"), format!("no_proxy={DIRECT}")])
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_proxy_on_a_port_that_is_not_allowed_is_left_out() {
        let lookup = |name: &str| match name {
            "http_proxy" => Some("http://127.0.0.1:3128".to_owned()),
            "https_proxy" => Some("http://localhost:3129".to_owned()),
            _ => None,
        };
        let variables = ProxyVariables::collect(&HttpProxy::Host, lookup).unwrap();
        assert_eq!(variables.host_ports(), [3128, 3129]);
        let session = variables.for_session(&HostPorts::new([3129]).unwrap());
        let names: Vec<_> = session.iter().filter_map(|variable| variable.split('=').next()).collect();
        assert_eq!(names, ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"]);
        assert!(variables.for_session(&HostPorts::default()).is_empty());
    }

    #[test]
    fn errors_and_texts_have_no_password() {
        let secret = "s3cret";
        for bad in ["http://me:s3cret@", "http://me:s3cret@p:0", "http://me:s3cret@p:x", "ftp://me:s3cret@p"]
        {
            let error = bad.parse::<HttpProxy>().unwrap_err().to_string();
            assert!(!error.contains(secret), "{error}");
        }
        for bad in ["http://me:s3cret@127.0.0.2:1", "http://me:s3cret@localhost", "http://me:s3cret@a b"] {
            let error = collect("host", &[("HTTP_PROXY", bad)]).unwrap_err().to_string();
            assert!(error.starts_with("HTTP_PROXY is not the URL") && !error.contains(secret), "{error}");
        }
        let setting: HttpProxy = "http://me:s3cret@p:1".parse().unwrap();
        assert_eq!(setting.to_string(), "http://***@p:1");
        assert!(setting.has_password() && !HttpProxy::Host.has_password());
        let variables = ProxyVariables::collect(&setting, |_| None).unwrap();
        assert!(!format!("{setting:?} {variables:?}").contains(secret));
    }

    #[test]
    fn only_variables_for_proxies_are_accepted() {
        let parse = |json: &str| serde_json::from_str::<ProxyVariables>(json);
        assert_eq!(parse("{}").unwrap(), ProxyVariables::default());
        for bad in
            [r#"{"PATH":"/x"}"#, r#"{"http_proxy":"a\nb"}"#, r#"{"http_proxy":""}"#, r#"{"NO_PROXY":"a\n"}"#]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let long = format!(r#"{{"http_proxy":"http://{}"}}"#, "a".repeat(MAX_VALUE));
        assert!(parse(&long).is_err());
    }
}
