//! Decides which requests are allowed: a pure function of a VM's state, the work in progress, and the request.

use banger_api::VmState;

/// A request to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Start,
    Stop,
    Restart,
    Kill,
    Pause,
    Resume,
    /// Change what applies at the next start.
    Set,
    /// Change the egress policy, which applies at once.
    SetEgress,
    /// Publish ports, or stop publishing them.
    Publish,
    /// Create an image from its disks.
    Commit,
    /// Compare it with its store record.
    Verify,
    Delete {
        force: bool,
    },
}

/// Work in progress on a VM; one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Start,
    Stop,
    Restart,
    /// Short work: kill, pause, resume, set, publish, or verify.
    Short,
    Commit,
    Delete,
}

impl Work {
    /// Returns the kind of work that a request causes.
    pub(super) fn for_request(request: Request) -> Self {
        match request {
            Request::Start => Self::Start,
            Request::Stop => Self::Stop,
            Request::Restart => Self::Restart,
            Request::Kill
            | Request::Pause
            | Request::Resume
            | Request::Set
            | Request::SetEgress
            | Request::Publish
            | Request::Verify => Self::Short,
            Request::Commit => Self::Commit,
            Request::Delete { .. } => Self::Delete,
        }
    }
}

/// Decision on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Run it now.
    Run,
    /// Queue it until the current work ends, then decide again.
    Wait,
    /// Cancel the current work, wait for its undo, then decide again.
    Interrupt,
    /// Nothing to do: the VM is in that state already.
    Nothing,
    /// Refuse it for this reason.
    Refuse(Refusal),
}

/// Reason why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// This work is in progress and must end first.
    Busy(Work),
    /// The VM must be running.
    NotRunning,
    /// The VM must be down.
    Running,
    /// The VM must be resumed first.
    Paused,
    /// A deletion of the VM failed.
    PartlyDeleted,
}

/// Decides on `request` for a VM in `state` with work `current` in progress.
pub(super) fn decide(state: VmState, current: Option<Work>, request: Request) -> Decision {
    match current {
        Some(work) => decide_busy(work, request),
        None => decide_idle(state, request),
    }
}

fn decide_idle(state: VmState, request: Request) -> Decision {
    use Decision::{Nothing, Refuse, Run};
    use VmState::{Created, Error, Paused, Running, Starting, Stopped, Stopping};
    match (request, state) {
        (Request::Start, Running)
        | (Request::Resume, Running)
        | (Request::Pause, Paused)
        | (Request::Stop | Request::Kill, Created | Stopped | Error) => Nothing,
        (Request::Start, Paused) => Refuse(Refusal::Paused),
        (Request::Pause | Request::Resume, Created | Stopped | Error | Starting | Stopping) => {
            Refuse(Refusal::NotRunning)
        }
        (Request::Set | Request::Commit | Request::Delete { force: false }, Running | Paused)
        | (Request::Commit, Starting | Stopping) => Refuse(Refusal::Running),
        // An earlier bangerd left the VM starting or stopping, without work in progress: the request runs from there.
        _ => Run,
    }
}

fn decide_busy(work: Work, request: Request) -> Decision {
    use Decision::{Interrupt, Refuse, Wait};
    match (work, request) {
        (Work::Delete, _) => Refuse(Refusal::Busy(work)),
        (Work::Start | Work::Restart, Request::Stop | Request::Kill | Request::Delete { force: true })
        | (Work::Stop, Request::Kill | Request::Delete { force: true })
        | (Work::Commit, Request::Delete { force: true }) => Interrupt,
        (Work::Commit, Request::Delete { force: false }) => Refuse(Refusal::Busy(work)),
        (Work::Short | Work::Commit, _)
        | (Work::Start | Work::Restart | Work::Stop, Request::Publish | Request::SetEgress)
        | (Work::Start | Work::Restart, Request::Start | Request::Pause | Request::Resume)
        | (Work::Stop, Request::Start | Request::Stop | Request::Restart | Request::Commit) => Wait,
        _ => Refuse(Refusal::Busy(work)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const STATES: [VmState; 7] = [
        VmState::Created,
        VmState::Starting,
        VmState::Running,
        VmState::Paused,
        VmState::Stopping,
        VmState::Stopped,
        VmState::Error,
    ];
    const WORK: [Work; 6] = [Work::Start, Work::Stop, Work::Restart, Work::Short, Work::Commit, Work::Delete];

    fn requests() -> impl Strategy<Value = Request> {
        prop::sample::select(vec![
            Request::Start,
            Request::Stop,
            Request::Restart,
            Request::Kill,
            Request::Pause,
            Request::Resume,
            Request::Set,
            Request::SetEgress,
            Request::Publish,
            Request::Commit,
            Request::Verify,
            Request::Delete { force: false },
            Request::Delete { force: true },
        ])
    }

    #[test]
    fn a_forced_deletion_is_accepted_in_every_state_and_during_other_work() {
        let delete = Request::Delete { force: true };
        for state in STATES {
            assert_eq!(decide(state, None, delete), Decision::Run, "{state}");
        }
        for work in WORK.into_iter().filter(|work| *work != Work::Delete) {
            let decision = decide_busy(work, delete);
            assert!(matches!(decision, Decision::Interrupt | Decision::Wait), "{work:?}: {decision:?}");
        }
    }

    #[test]
    fn running_or_busy_vms_are_not_deleted_without_force() {
        let delete = Request::Delete { force: false };
        for state in [VmState::Running, VmState::Paused] {
            assert_eq!(decide(state, None, delete), Decision::Refuse(Refusal::Running));
        }
        for work in [Work::Start, Work::Stop, Work::Restart, Work::Commit] {
            assert_eq!(decide_busy(work, delete), Decision::Refuse(Refusal::Busy(work)));
        }
    }

    /// Model of a VM and its actor, with requests that arrive and work that ends in any order.
    #[derive(Debug)]
    struct Model {
        state: VmState,
        current: Option<(Work, Request, bool)>,
        waiting: VecDeque<Request>,
        answered: usize,
        deleted: bool,
    }

    impl Model {
        fn request(&mut self, request: Request) {
            if self.deleted {
                self.answered += 1;
                return;
            }
            match decide(self.state, self.current.map(|(work, ..)| work), request) {
                Decision::Run => {
                    assert!(self.current.is_none(), "two requests run at once");
                    self.begin(request);
                }
                Decision::Wait => {
                    assert!(self.current.is_some(), "a request waits while no work is in progress");
                    self.waiting.push_back(request);
                }
                Decision::Interrupt => {
                    if let Some((_, _, interrupted)) = &mut self.current {
                        *interrupted = true;
                    }
                    self.waiting.push_back(request);
                }
                Decision::Nothing | Decision::Refuse(_) => self.answered += 1,
            }
        }

        fn begin(&mut self, request: Request) {
            let work = match request {
                Request::Start => Work::Start,
                Request::Stop => Work::Stop,
                Request::Restart => Work::Restart,
                Request::Commit => Work::Commit,
                Request::Delete { .. } => Work::Delete,
                Request::Kill
                | Request::Pause
                | Request::Resume
                | Request::Set
                | Request::SetEgress
                | Request::Publish
                | Request::Verify => Work::Short,
            };
            self.state = match work {
                Work::Start => VmState::Starting,
                Work::Stop | Work::Restart => VmState::Stopping,
                Work::Short | Work::Commit | Work::Delete => self.state,
            };
            self.current = Some((work, request, false));
        }

        fn end(&mut self, success: bool) {
            let Some((_, request, interrupted)) = self.current.take() else { return };
            self.answered += 1;
            self.state = match request {
                Request::Start | Request::Restart if success && !interrupted => VmState::Running,
                Request::Start | Request::Restart => VmState::Error,
                Request::Stop | Request::Kill => VmState::Stopped,
                Request::Pause if success => VmState::Paused,
                Request::Resume if success => VmState::Running,
                Request::Pause
                | Request::Resume
                | Request::Set
                | Request::SetEgress
                | Request::Publish
                | Request::Commit
                | Request::Verify => self.state,
                Request::Delete { .. } => {
                    self.deleted = success;
                    self.state
                }
            };
            let mut waiting = std::mem::take(&mut self.waiting);
            while let Some(request) = waiting.pop_front() {
                self.request(request);
            }
        }
    }

    proptest! {
        #[test]
        fn every_request_is_answered_once_and_only_one_runs_at_a_time(
            first in prop::sample::select(STATES.to_vec()),
            steps in prop::collection::vec(prop_oneof![
                requests().prop_map(Some), Just(None)
            ], 0..60),
            ends in prop::collection::vec(any::<bool>(), 0..60),
        ) {
            let mut model = Model { state: first, current: None, waiting: VecDeque::new(), answered: 0, deleted: false };
            let mut ends = ends.into_iter();
            let mut sent = 0;
            for step in steps {
                match step {
                    Some(request) => {
                        sent += 1;
                        model.request(request);
                    }
                    None => model.end(ends.next().unwrap_or(true)),
                }
            }
            // A forced deletion always succeeds, after the requests queued before it.
            sent += 1;
            model.request(Request::Delete { force: true });
            for _ in 0..sent + 1 {
                model.end(true);
            }
            prop_assert!(model.deleted || model.current.is_none());
            prop_assert!(model.deleted);
            prop_assert_eq!(model.answered, sent);
        }
    }
}
