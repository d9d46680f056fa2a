//! Chooses one version per tool from all requests.

use super::{
    findings::{Findings, RequestedTool},
    note::NoteKind,
    plan::Tool,
};

/// Tools that others run on. They are installed first.
const RUNTIMES: &[&str] = &["node", "python", "java", "ruby", "go", "rust", "erlang", "php", "dotnet"];

/// Returns the first request for each tool. Later requests that it does not satisfy are noted.
pub(super) fn tools(found: &mut Findings) -> Vec<Tool> {
    let mut winners: Vec<RequestedTool> = Vec::new();
    for asked in std::mem::take(&mut found.asked) {
        match winners.iter().find(|winner| winner.name == asked.name) {
            None => winners.push(asked),
            Some(winner) if agree(winner, &asked) => {}
            Some(winner) => {
                let message = format!(
                    "{} {} ({}) is overridden by {} from {}",
                    asked.name, asked.version, asked.reason, winner.version, winner.source
                );
                found.note(NoteKind::Overruled, asked.source, message);
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

fn tool(asked: RequestedTool) -> Tool {
    let RequestedTool { name, version, source, reason, components, targets, range: _ } = asked;
    Tool { name, version, source, reason, components, targets }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::Place;

    fn chosen(asked: &[(&'static str, &str, &str)]) -> (Vec<String>, Vec<String>) {
        let mut found = Findings::default();
        for (file, name, version) in asked {
            found.ask(Place::file(file), name, version);
        }
        let tools = tools(&mut found);
        (tools.iter().map(|tool| format!("{} {}", tool.name, tool.version)).collect(), found.messages())
    }

    #[test]
    fn the_first_wins_and_those_that_disagree_are_noted() {
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
    fn a_range_that_the_winner_is_in_says_nothing_else() {
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
    fn what_others_run_on_comes_first() {
        let (tools, _) =
            chosen(&[("a", "pnpm", "9"), ("a", "jq", "1"), ("b", "python", "3"), ("c", "node", "20")]);
        assert_eq!(tools, ["python 3", "node 20", "pnpm 9", "jq 1"]);
    }
}
