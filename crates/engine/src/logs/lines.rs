//! Filters for the lines of a log.

use std::collections::HashSet;

use banger_api::Id;
use jiff::Timestamp;
use serde::Deserialize;

/// Maximum length of an examined line, in bytes. A longer line is cut at this length.
const LINE_MAX: usize = 64 << 10;

/// Prefix of the agent's lines on a console.
const AGENT_PREFIX: &[u8] = b"banger-agent: ";

/// Selects lines of a log.
#[derive(Debug)]
pub(crate) enum LineFilter {
    /// All bytes, including an unfinished line.
    All,
    /// Lines that the agent wrote to the console.
    Agent,
    /// Lines of the daemon's log.
    Entries(EntryFilter),
}

/// Entries of the daemon's log: lines of JSON.
#[derive(Debug, Default)]
pub(crate) struct EntryFilter {
    /// Only entries about this VM.
    pub(crate) vm: Option<VmFilter>,
    /// Only entries written since then.
    pub(crate) since: Option<Timestamp>,
}

/// A VM in the daemon's log: named by its id or name, or by an operation on it.
#[derive(Debug)]
pub(crate) struct VmFilter {
    pub(crate) id: Id,
    pub(crate) name: String,
    /// Earlier entries are about another VM of that name.
    pub(crate) created_at: Timestamp,
    pub(crate) operations: HashSet<String>,
}

/// The fields of an entry that the filter uses.
#[derive(Debug, Deserialize)]
struct Entry {
    timestamp: Timestamp,
    fields: Fields,
}

#[derive(Debug, Deserialize)]
struct Fields {
    vm: Option<String>,
    operation: Option<String>,
}

/// Selects lines from a stream of bytes.
#[derive(Debug)]
pub(super) struct LineSelector {
    filter: LineFilter,
    partial_line: Vec<u8>,
}

impl LineSelector {
    pub(super) fn new(filter: LineFilter) -> Self {
        Self { filter, partial_line: Vec::new() }
    }

    /// Returns the selected lines that end in `chunk`.
    pub(super) fn select(&mut self, chunk: Vec<u8>) -> Vec<u8> {
        if matches!(self.filter, LineFilter::All) {
            return chunk;
        }
        let mut selected = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let remaining = LINE_MAX.saturating_sub(self.partial_line.len());
            self.partial_line.extend_from_slice(piece.get(..piece.len().min(remaining)).unwrap_or_default());
            if piece.ends_with(b"\n") {
                if !self.partial_line.ends_with(b"\n") {
                    self.partial_line.push(b'\n');
                }
                if self.filter.matches(&self.partial_line) {
                    selected.extend_from_slice(&self.partial_line);
                }
                self.partial_line.clear();
            }
        }
        selected
    }
}

impl LineFilter {
    fn matches(&mut self, line: &[u8]) -> bool {
        match self {
            Self::All => true,
            // A carriage return may be left over from the line before.
            Self::Agent => line.strip_prefix(b"\r").unwrap_or(line).starts_with(AGENT_PREFIX),
            Self::Entries(entries) => {
                let entry = serde_json::from_slice::<Entry>(line);
                entry.is_ok_and(|entry| entries.matches(&entry))
            }
        }
    }
}

impl EntryFilter {
    fn matches(&mut self, entry: &Entry) -> bool {
        // Checked for entries that are too old as well: they name the operations of later entries.
        let matches_vm = self.vm.as_mut().is_none_or(|vm| vm.matches(entry));
        matches_vm && self.since.is_none_or(|since| entry.timestamp >= since)
    }
}

impl VmFilter {
    fn matches(&mut self, entry: &Entry) -> bool {
        let Fields { vm, operation } = &entry.fields;
        let named = vm.as_deref().is_some_and(|vm| vm == self.id.as_str() || vm == self.name);
        if named && entry.timestamp >= self.created_at {
            self.operations.extend(operation.clone());
            return true;
        }
        operation.as_ref().is_some_and(|operation| self.operations.contains(operation))
    }
}

/// Returns the last `count` lines of `text`.
pub(super) fn last_lines(text: &[u8], count: usize) -> &[u8] {
    let whole = text.strip_suffix(b"\n").unwrap_or(text);
    let Some(nth) = count.checked_sub(1) else { return &[] };
    match whole.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').nth(nth) {
        Some((end, _)) => text.get(end + 1..).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lines selected from `text`, and checks that the size of the parts does not matter.
    fn selected(filter: impl Fn() -> LineFilter, text: &str) -> String {
        let select = |size: usize| {
            let mut selector = LineSelector::new(filter());
            let chunks = text.as_bytes().chunks(size).flat_map(|chunk| selector.select(chunk.to_vec()));
            String::from_utf8(chunks.collect()).unwrap()
        };
        let all = select(text.len());
        assert_eq!((select(1), select(7)), (all.clone(), all.clone()));
        all
    }

    #[test]
    fn the_agent_filter_selects_the_agents_console_lines() {
        let console =
            "boot\r\nbanger-agent: one\r\nnot banger-agent: two\nbanger-agent: three\nbanger-agent: begun";
        assert_eq!(selected(|| LineFilter::Agent, console), "banger-agent: one\r\nbanger-agent: three\n");
        assert_eq!(selected(|| LineFilter::All, console), console);
    }

    #[test]
    fn the_buffer_for_an_unfinished_line_is_limited() {
        let mut selector = LineSelector::new(LineFilter::Agent);
        assert!(selector.select(b"banger-agent: ".to_vec()).is_empty());
        for _ in 0..100 {
            assert!(selector.select(vec![b'x'; 10_000]).is_empty());
            assert!(selector.partial_line.len() <= LINE_MAX);
        }
        assert_eq!(selector.select(b"\nrest".to_vec()).len(), LINE_MAX + 1);
    }

    fn entry(second: u32, fields: &str) -> String {
        format!(
            "{{\"timestamp\":\"2026-11-25T10:00:{second:02}.5Z\",\"level\":\"INFO\",\"fields\":{{{fields}}}}}\n"
        )
    }

    fn vm() -> Option<VmFilter> {
        Some(VmFilter {
            id: Id::from_random([1; 8]),
            name: "box".to_owned(),
            created_at: "2026-11-25T10:00:02Z".parse().unwrap(),
            operations: HashSet::new(),
        })
    }

    #[test]
    fn daemon_entries_are_selected_by_vm_name_id_or_operation() {
        let log = [
            entry(1, r#""message":"an earlier VM of this name","vm":"box""#),
            entry(2, r#""message":"by name","vm":"box""#),
            entry(3, r#""message":"by id","vm":"0101010101010101","operation":"aa""#),
            entry(4, r#""message":"another VM","vm":"other""#),
            entry(5, r#""message":"by operation","operation":"aa""#),
            entry(6, r#""message":"another operation","operation":"bb""#),
            "not JSON\n".to_owned(),
        ];
        let filter = |since| move || LineFilter::Entries(EntryFilter { vm: vm(), since });
        assert_eq!(selected(filter(None), &log.concat()), [&*log[1], &log[2], &log[4]].concat());
        let since = Some("2026-11-25T10:00:04Z".parse().unwrap());
        assert_eq!(selected(filter(since), &log.concat()), log[4]);
    }

    #[test]
    fn last_lines_returns_at_most_the_requested_number_of_lines() {
        for (text, count, expected) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\n", 9, "a\nb\n"),
            ("a\nb\n", 0, ""),
            ("\n\n", 1, "\n"),
            ("", 3, ""),
        ] {
            assert_eq!(last_lines(text.as_bytes(), count), expected.as_bytes(), "{text:?} {count}");
        }
    }
}
