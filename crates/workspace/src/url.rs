//! URLs of remotes, which may contain credentials.

/// Returns the URL without the credentials in it.
///
/// Only ssh keeps a user name, such as `git`: elsewhere it may be a token. Query strings may have tokens too.
pub(crate) fn without_credentials(url: &[u8]) -> Vec<u8> {
    // `HELPER::URL` names a remote helper.
    if let Some(end) = find(url, b"::").filter(|end| url.iter().take(*end).all(is_scheme_byte)) {
        let (helper, rest) = url.split_at(end + 2);
        return [helper, &without_credentials(rest)].concat();
    }
    let Some(end) = find(url, b"://").filter(|end| url.iter().take(*end).all(is_scheme_byte)) else {
        // A path, or `git@HOST:PATH`, which has no place for a password.
        return url.to_vec();
    };
    let scheme = url.get(..end).unwrap_or_default().to_ascii_lowercase();
    let (prefix, rest) = url.split_at(end + 3);
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user_info, host) = match authority.iter().rposition(|byte| *byte == b'@') {
        Some(at) => (authority.get(..at).unwrap_or_default(), authority.get(at + 1..).unwrap_or_default()),
        None => (&[][..], authority),
    };
    let user = user_info.split(|byte| *byte == b':').next().unwrap_or_default();
    let user = match scheme.as_slice() {
        b"ssh" | b"git+ssh" | b"ssh+git" if !user.is_empty() => [user, b"@"].concat(),
        _ => Vec::new(),
    };
    let path = match scheme.as_slice() {
        b"file" => path,
        _ => path.split(|byte| b"?#".contains(byte)).next().unwrap_or_default(),
    };
    [prefix, &user, host, path].concat()
}

/// Returns whether the text of a configuration file contains credentials.
pub(crate) fn has_credentials(config: &[u8]) -> bool {
    let is_separator = |byte: &u8| byte.is_ascii_whitespace() || b"\"=".contains(byte);
    let mut words = config.split(is_separator);
    words.any(|word| word.eq_ignore_ascii_case(b"extraheader") || without_credentials(word) != word)
}

fn is_scheme_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(byte)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_removed_from_urls_of_every_form() {
        for (url, sent) in [
            ("https://user:TOKEN@host/a/b.git", "https://host/a/b.git"),
            ("https://TOKEN@host/a", "https://host/a"),
            ("https://user@host:8443/a", "https://host:8443/a"),
            ("HTTPS://user:TO:KEN@host", "HTTPS://host"),
            ("http://user:TO@KEN@[::1]:80/a@b", "http://[::1]:80/a@b"),
            ("https://host/a?private_token=TOKEN", "https://host/a"),
            ("https://u:TOKEN@host?token=TOKEN#TOKEN", "https://host"),
            ("ftps://u:TOKEN@host/a", "ftps://host/a"),
            ("ssh://git@host/a", "ssh://git@host/a"),
            ("ssh://git:TOKEN@host:22/a", "ssh://git@host:22/a"),
            ("git+ssh://:TOKEN@host/a", "git+ssh://host/a"),
            ("git://TOKEN@host/a", "git://host/a"),
            ("foreign::https://u:TOKEN@host/a", "foreign::https://host/a"),
            ("a::b::custom://u:TOKEN@host/a", "a::b::custom://host/a"),
            ("git@host:a/b.git", "git@host:a/b.git"),
            ("host:a/b@c?d", "host:a/b@c?d"),
            ("https://host/a/b.git", "https://host/a/b.git"),
            ("/home/u:x@y/a?b#c", "/home/u:x@y/a?b#c"),
            ("../a://b@c", "../a://b@c"),
            ("file:///home/u:x@y/a?b#c", "file:///home/u:x@y/a?b#c"),
            ("", ""),
        ] {
            let result = without_credentials(url.as_bytes());
            assert_eq!(String::from_utf8_lossy(&result), sent, "{url}");
            assert_eq!(without_credentials(&result), result);
        }
    }

    #[test]
    fn credentials_in_a_configuration_are_found() {
        for text in [
            "[remote \"origin\"]\n\turl = https://user:TOKEN@host/a\n",
            "[remote \"other\"]\n\tpushurl=\"https://TOKEN@host/a\"\n",
            "[url \"https://u:TOKEN@host/\"]\n\tinsteadOf = https://host/\n",
            "[http \"https://host/\"]\n\textraHeader = AUTHORIZATION: basic TOKEN\n",
        ] {
            assert!(has_credentials(text.as_bytes()), "{text}");
        }
        assert!(!has_credentials(b"[remote \"origin\"]\n\turl = git@host:a\n\tfetch = +refs/*:refs/x/*\n"));
    }
}
