//! Chooses one version per tool from all requests.

use super::{
    findings::{Findings, RequestedTool},
    note::NoteKind,
    plan::Tool,
};

/// Tools that others run on. They are installed first.
const RUNTIMES: &[&str] = &["node", "python", "java", "ruby", "go", "rust", "erlang", "php", "dotnet"];

/// Returns the first request for each tool. Later requests that it does not satisfy are noted.
pub(super) fn tools(findings: &mut Findings) -> Vec<Tool> {
    let mut winners: Vec<RequestedTool> = Vec::new();
    for request in std::mem::take(&mut findings.requests) {
        match winners.iter().find(|winner| winner.name == request.name) {
            None => winners.push(request),
            Some(winner) if agree(winner, &request) => {}
            Some(winner) => {
                let message = format!(
                    "{} {} ({}) is overridden by {} from {}",
                    request.name, request.version, request.reason, winner.version, winner.source
                );
                findings.note(NoteKind::Overruled, request.source, message);
            }
        }
    }
    // The sort is stable: otherwise the order of the files is kept.
    winners.sort_by_key(|winner| !RUNTIMES.contains(&winner.name.as_str()));
    winners.into_iter().map(tool).collect()
}

fn agree(winner: &RequestedTool, other: &RequestedTool) -> bool {
    winner.version == other.version
        || other.range.as_ref().is_some_and(|range| range.allows(winner.version.as_str()))
}

fn tool(request: RequestedTool) -> Tool {
    let RequestedTool { name, version, source, reason, components, targets, range: _ } = request;
    Tool { name, version, source, reason, components, targets }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::Location;

    fn chosen(requests: &[(&'static str, &str, &str)]) -> (Vec<String>, Vec<String>) {
        let mut findings = Findings::default();
        for (file, name, version) in requests {
            findings.request(Location::file(file), name, version);
        }
        let tools = tools(&mut findings);
        (tools.iter().map(|tool| format!("{} {}", tool.name, tool.version)).collect(), findings.messages())
    }

    #[test]
    fn the_first_request_wins_and_conflicting_ones_are_noted() {
        let (tools, notes) = chosen(&[
            ("a", "node", "20"),
            ("b", "nodejs", "18"),
            ("c", "go", "1.22"),
            ("d", "node", "20.1.0"),
        ]);
        assert_eq!(tools, ["node 20", "go 1.22"]);
        assert_eq!(
            notes,
            [
                "node 18 (as written) is overridden by 20 from a",
                "node 20.1.0 (as written) is overridden by 20 from a"
            ]
        );
    }

    #[test]
    fn requests_that_the_winner_satisfies_are_not_noted() {
        let (tools, notes) = chosen(&[
            ("a", "node", "20.11.1"),
            ("b", "node", ">=18"),
            ("c", "node", "20"),
            ("d", "java", "temurin-21"),
            ("e", "java", "temurin-21"),
        ]);
        assert_eq!((tools, notes), (vec!["node 20.11.1".to_owned(), "java temurin-21".to_owned()], vec![]));
    }

    #[test]
    fn runtimes_come_before_other_tools() {
        let (tools, _) =
            chosen(&[("a", "pnpm", "9"), ("a", "jq", "1"), ("b", "python", "3"), ("c", "node", "20")]);
        assert_eq!(tools, ["python 3", "node 20", "pnpm 9", "jq 1"]);
    }
}
