//! Signals by their SSH names and Linux numbers.

/// The signals in RFC 4254, and others that OpenSSH forwards.
const NAMES: [(i32, &str); 18] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (4, "ILL"),
    (6, "ABRT"),
    (8, "FPE"),
    (9, "KILL"),
    (10, "USR1"),
    (11, "SEGV"),
    (12, "USR2"),
    (13, "PIPE"),
    (14, "ALRM"),
    (15, "TERM"),
    (18, "CONT"),
    (19, "STOP"),
    (20, "TSTP"),
    (28, "WINCH"),
    (31, "SYS"),
];

/// Returns the Linux number of the signal `name`, if there is one.
pub(crate) fn number(name: &str) -> Option<i32> {
    NAMES.iter().find(|(_, known)| *known == name).map(|(number, _)| *number)
}

/// Returns the SSH name of a signal.
pub(crate) fn name(number: i32) -> String {
    match NAMES.iter().find(|(known, _)| *known == number) {
        Some((_, name)) => (*name).to_owned(),
        // RFC 4254's form for signals that it does not name.
        None => format!("{number}@linux"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_names_convert_back_to_their_numbers() {
        for signal in 1..=31 {
            let known = NAMES.iter().any(|(known, _)| *known == signal);
            assert_eq!(number(&name(signal)), known.then_some(signal));
        }
        assert_eq!((number("TERM"), number("NONSENSE")), (Some(15), None));
    }
}
