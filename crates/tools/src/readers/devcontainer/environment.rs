//! Reads a dev container's environment.

use serde_json::{Map, Value};

use crate::{
    findings::Findings,
    note::{Location, NoteKind, quoted},
    readers::json::brief,
};

/// The only variable that is substituted. The others are the host's, or unknown before the guest exists.
const BASENAME: &str = "${localWorkspaceFolderBasename}";

pub(super) fn read(source: Location, object: &Map<String, Value>, findings: &mut Findings) {
    // `remoteEnv`, which tools set for their own processes, takes precedence over `containerEnv`.
    for section in ["remoteEnv", "containerEnv"] {
        let variables = object.get(section).and_then(Value::as_object);
        for (name, value) in variables.into_iter().flatten() {
            match expanded(value, findings.basename.as_deref()) {
                Ok(value) => findings.variable(source, name, &value),
                Err(problem) => {
                    let message = format_args!("{section}: the variable {} {problem}", quoted(name));
                    findings.note(NoteKind::NotFollowed, source, message);
                }
            }
        }
    }
}

fn expanded(value: &Value, basename: Option<&str>) -> Result<String, String> {
    let Some(text) = value.as_str() else { return Err(format!("is {}, not a string", brief(value))) };
    let rest = if basename.is_some() { text.replace(BASENAME, "") } else { text.to_owned() };
    if rest.contains("${") {
        return Err(format!("has {}, which is not supported", quoted(text)));
    }
    Ok(basename.map_or(text.to_owned(), |basename| text.replace(BASENAME, basename)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_and_the_directory_name_are_used() {
        let mut findings = Findings::new(Some("my app".to_owned()));
        let object = serde_json::json!({
            "containerEnv": {"A": "1", "B": "x-${localWorkspaceFolderBasename}", "C": "${localEnv:HOME}", "D": null},
            "remoteEnv": {"A": "2", "P": "${containerEnv:PATH}:/x", "$": "1"},
        });
        read(Location::file("f"), object.as_object().unwrap(), &mut findings);
        let variables: Vec<_> =
            findings.variables.iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
        assert_eq!(variables, [("A", "2"), ("B", "x-my app")]);
        assert_eq!(
            findings.messages(),
            [
                "the variable \"$\": its name cannot be used: '$' at position 1 is not allowed: use letters, digits \
                 and _",
                "remoteEnv: the variable \"P\" has \"${containerEnv:PATH}:/x\", which is not supported",
                "the variable A: f sets another value and takes precedence",
                "containerEnv: the variable \"C\" has \"${localEnv:HOME}\", which is not supported",
                "containerEnv: the variable \"D\" is null, not a string",
            ]
        );
    }

    #[test]
    fn substituted_text_is_not_expanded_again() {
        let value = Value::from("$${localWorkspaceFolderBasename}{localWorkspaceFolderBasename}");
        assert!(expanded(&value, Some("a")).is_err());
        let value = Value::from(BASENAME);
        assert_eq!(expanded(&value, Some(BASENAME)).as_deref(), Ok(BASENAME));
        assert!(expanded(&value, None).is_err());
    }
}
