//! The authentication that a registry asks for: the `WWW-Authenticate` header (RFC 9110, 11.6.1).

/// An authentication scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// The user name and secret themselves.
    Basic,
    /// A token from a token server.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Returns the best challenge in the header's values: bearer before basic. Other schemes are skipped.
pub(super) fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for value in values {
        for (scheme, parameters) in challenges(value) {
            let get = |name: &str| {
                let named = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                named.map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("basic") {
                basic.get_or_insert(Challenge::Basic);
            } else if scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = get("realm")
            {
                return Some(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
            }
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

/// Parses the schemes and their parameters. The list ends at the first syntax error.
fn challenges(value: &str) -> Vec<(String, Parameters)> {
    let mut all: Vec<(String, Parameters)> = Vec::new();
    let mut rest = value.trim_start_matches([' ', '\t', ',']);
    while let Some((word, after)) = token(rest) {
        let trimmed = after.trim_start();
        rest = match (trimmed.strip_prefix('='), all.last_mut()) {
            (Some(text), Some((_, parameters))) => {
                let Some((value, after)) = parameter(text.trim_start()) else { break };
                parameters.push((word.to_owned(), value));
                after
            }
            (Some(_), None) => break,
            (None, _) => {
                all.push((word.to_owned(), Vec::new()));
                trimmed
            }
        }
        .trim_start_matches([' ', '\t', ',']);
    }
    all
}

/// Parses a parameter's value: a token or a quoted string.
fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) })
    }

    #[test]
    fn challenges_of_registries_are_parsed() {
        for (value, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
                bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/alpine:pull"),
                ),
            ),
            (r#"bearer REALM="a\"b" , service=x,error="invalid_token""#, bearer("a\"b", Some("x"), None)),
            (r#"Basic realm="x", Bearer realm="y""#, bearer("y", None, None)),
            (r#"Negotiate, Basic realm="Registry Realm""#, Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (r#"Bearer service="x""#, None),
            (r#"Bearer realm="x"#, None),
            ("realm=x", None),
            ("", None),
        ] {
            assert_eq!(parse([value]), expected, "{value}");
        }
        assert_eq!(parse(["Basic realm=x", "Bearer realm=y"]), bearer("y", None, None));
    }

    proptest! {
        #[test]
        fn parsing_any_text_never_panics(
            text in "([Bb]earer|Basic|realm|service|[a-z=\", \\\\]){0,20}|\\PC{0,60}",
        ) {
            let _ = parse([text.as_str()]);
        }

        #[test]
        fn quoted_strings_are_unescaped(realm in "[ -~]{1,30}") {
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(parse([format!("Bearer realm=\"{quoted}\"").as_str()]), bearer(&realm, None, None));
        }
    }
}
