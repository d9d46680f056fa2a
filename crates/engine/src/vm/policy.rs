//! What is allowed when: a pure function of a VM's state, what is being done to it, and what is asked.

use banger_api::VmState;

/// What is asked of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Start,
    Stop,
    Delete { force: bool },
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Do it.
    Run,
    /// Cancel what is being done, let it undo, then decide again.
    Interrupt,
    /// It is so already.
    Nothing,
    /// No: something else is being done, in words.
    Busy(&'static str),
}

/// Decides on `asked` for a VM in `state`.
pub(crate) fn decide(state: VmState, asked: Request) -> Decision {
    use Decision::{Busy, Interrupt, Nothing, Run};
    use VmState::{Created, Error, Paused, Running, Starting, Stopped, Stopping};
    match (asked, state) {
        (Request::Start, Created | Stopped | Error)
        | (Request::Stop, Running | Paused)
        | (Request::Delete { .. }, Created | Running | Paused | Stopped | Error) => Run,
        (Request::Start, Running | Paused) | (Request::Stop, Created | Stopped | Error) => Nothing,
        (Request::Stop, Starting) | (Request::Delete { force: true }, Starting | Stopping) => Interrupt,
        (_, Starting) => Busy("is being started"),
        (_, Stopping) => Busy("is being stopped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [VmState; 6] = [
        VmState::Created,
        VmState::Starting,
        VmState::Running,
        VmState::Stopping,
        VmState::Stopped,
        VmState::Error,
    ];

    #[test]
    fn force_always_gets_there() {
        for state in STATES {
            let decision = decide(state, Request::Delete { force: true });
            assert!(matches!(decision, Decision::Run | Decision::Interrupt), "{state}: {decision:?}");
        }
    }

    #[test]
    fn what_is_under_way_is_left_alone_without_force() {
        for state in [VmState::Starting, VmState::Stopping] {
            let decision = decide(state, Request::Delete { force: false });
            assert!(matches!(decision, Decision::Busy(_)), "{state}: {decision:?}");
        }
    }

    #[test]
    fn no_request_runs_beside_another() {
        for state in [VmState::Starting, VmState::Stopping] {
            for asked in [
                Request::Start,
                Request::Stop,
                Request::Delete { force: false },
                Request::Delete { force: true },
            ] {
                assert_ne!(decide(state, asked), Decision::Run, "{state}: {asked:?}");
            }
        }
    }
}
