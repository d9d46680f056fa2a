//! Runs cases, and checks every promise after each command.

use std::{path::PathBuf, time::Duration};

use banger_proto::{ExitStatus, Frame, Reply, Stream};

use crate::{
    Action, Case, Client, Command, Conversation, Sandbox, Step, Violation, Workspace,
    check::{MAX_MEMORY, violations},
    client::{Process, Run, run_in_process},
    daemon::{Daemon, Progress},
    encode::{frame, greeting, reply},
    limits::{GUARD, PATIENCE},
    workspace::placed_at,
};

/// The same as [`PATIENCE`] for a client that starts no programs, where a fuzzer wants many cases.
const IN_PROCESS_PATIENCE: Duration = Duration::from_millis(50);

/// Runs cases, one after another, in one sandbox.
#[derive(Debug)]
pub struct Harness {
    client: Client,
    sandbox: Sandbox,
    daemon: Daemon,
    /// Time after which a client that sends nothing waits.
    patience: Duration,
    /// A worker, or the program that runs.
    process: Option<Process>,
    workspace: Workspace,
    max_memory: usize,
    /// Paths in the sandbox that the last case has changed.
    changed: Vec<PathBuf>,
    /// A conversation of the last case that was not carried out.
    unreached: Option<String>,
}

impl Harness {
    /// Creates a sandbox for `client`, in which the user has sent a repository to the VM.
    ///
    /// # Panics
    /// Panics if that is not possible.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let patience = if matches!(client, Client::InProcess(_)) { IN_PROCESS_PATIENCE } else { PATIENCE };
        Self::create(client, patience)
    }

    /// Creates a sandbox for cases in which client and guest never wait for each other, so that a busy host does not
    /// end their conversations.
    ///
    /// # Panics
    /// Panics if that is not possible.
    #[must_use]
    pub fn patient(client: Client) -> Self {
        Self::create(client, GUARD)
    }

    fn create(client: Client, patience: Duration) -> Self {
        let sandbox = match &client {
            Client::InProcess(_) => Sandbox::of_this_process(),
            _ => Sandbox::create(),
        };
        let daemon = Daemon::start(&sandbox.dirs().socket());
        let (process, workspace) = (None, Workspace::default());
        let (changed, unreached) = (Vec::new(), None);
        let max_memory = MAX_MEMORY;
        // While the repository is sent, neither side is silent, however busy the host is.
        let mut harness = Self {
            client,
            sandbox,
            daemon,
            patience: GUARD,
            process,
            workspace,
            max_memory,
            changed,
            unreached,
        };
        let run = harness.run(&Step::new(Command::Prepare, vec![place()]));
        let errors = String::from_utf8_lossy(&run.stderr);
        let scratch = tempfile::tempdir().unwrap();
        assert!(!harness.daemon.input().is_empty(), "the repository was not sent: {errors}");
        harness.workspace = Workspace::read(&harness.daemon.input(), scratch.path());
        harness.sandbox.commit_more();
        // In a process with a sandbox's environment, it is in the sandbox.
        drop(scratch);
        harness.sandbox.keep();
        harness.patience = patience;
        harness
    }

    /// Sets the memory that commands may allocate from now on, in bytes; without a limit, the usual one.
    pub fn set_max_memory(&mut self, limit: Option<usize>) {
        self.max_memory = limit.unwrap_or(MAX_MEMORY);
    }

    /// Returns the workspace as the guest knows it.
    #[must_use]
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Returns the sandbox.
    #[must_use]
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Runs `case` to its end or to the first violation, then restores the sandbox.
    pub fn run_case(&mut self, case: &Case) -> Vec<Violation> {
        let mut before = self.sandbox.pristine().clone();
        let mut found = Vec::new();
        self.unreached = None;
        for step in &case.steps {
            let run = self.run(step);
            self.unreached = self.unreached.take().or_else(|| unreached(step, &self.daemon.begun()));
            let after = self.sandbox.snapshot(&before);
            found = violations(step, &run, self.max_memory, (&before, &after));
            before = after;
            if !found.is_empty() {
                break;
            }
        }
        self.changed = before.differences(self.sandbox.pristine());
        self.sandbox.restore(&before);
        found
    }

    /// Returns the first conversation of the last case that the client has not let the guest carry out, or that has
    /// answered another request: its lies were not tested.
    #[must_use]
    pub fn unreached(&self) -> Option<&str> {
        self.unreached.as_deref()
    }

    /// Returns the paths in the sandbox that the last case has changed.
    #[must_use]
    pub fn changed(&self) -> &[PathBuf] {
        &self.changed
    }

    /// Returns the client's requests in the last step, in words.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.daemon.begun().into_iter().filter_map(|progress| progress.request).collect()
    }

    /// Runs one step, without any check.
    fn run(&mut self, step: &Step) -> Run {
        let step = self.without_impossible_actions(step);
        self.daemon.prepare(&step, self.patience);
        let mut run = match &self.client {
            Client::InProcess(entry) => run_in_process(*entry, &step),
            Client::Program(program) => {
                self.process = Some(Process::program(program, &step.command.arguments(), &self.sandbox));
                self.run_process(&step)
            }
            Client::Worker => {
                // A signal must find a process that has never handled one.
                if self.process.is_none() || step.is_interrupted() {
                    self.process = None;
                    self.process = Some(Process::worker(&self.sandbox));
                }
                self.run_process(&step)
            }
        };
        let (bytes_sent, failure) = self.daemon.finish();
        run.bytes_sent = bytes_sent;
        // A client that had to be killed has no other failure.
        run.failure = failure.or(run.failure);
        run
    }

    fn run_process(&mut self, step: &Step) -> Run {
        let mut run = Run::default();
        if let Some(process) = &mut self.process {
            self.daemon.attach(process.remote());
            let lives = process.run(step, &self.daemon, &mut run);
            if !lives || step.is_interrupted() {
                self.process = None;
            }
        }
        run
    }

    /// Returns `step` with connections closed where the client cannot be made to see time pass, or a signal.
    fn without_impossible_actions(&self, step: &Step) -> Step {
        let is_possible = |action: &Action| match (action, &self.client) {
            (Action::StaySilent, client) => matches!(client, Client::Worker),
            (Action::StaySilentUntil(_), client) => !matches!(client, Client::InProcess(_)),
            _ => true,
        };
        let mut step = step.clone();
        step.conversations.iter_mut().for_each(|conversation| conversation.0.retain(is_possible));
        step
    }
}

/// Returns what of `step` the guest has not begun, given what it has `begun`. An endless answer may end early.
fn unreached(step: &Step, begun: &[Progress]) -> Option<String> {
    step.conversations.iter().enumerate().find_map(|(number, conversation)| {
        let Conversation(actions) = conversation;
        let Some(Progress { request, actions: count }) = begun.get(number) else {
            return Some(format!("conversation {number} of {:?} has not begun", step.command));
        };
        let endless = actions.iter().position(|action| matches!(action, Action::SendRepeatedly(..)));
        let expected = endless.map_or(actions.len(), |at| at + 1);
        let is_answer = request.as_deref().unwrap_or_default().contains(conversation.request());
        (*count < expected || !is_answer).then(|| {
            let reached = format!("conversation {number} of {:?} has reached action {count}", step.command);
            format!("{reached} after the request {request:?}: {:?}", actions.get(..*count).unwrap_or(actions))
        })
    })
}

/// Returns the conversation in which an honest guest accepts a workspace.
fn place() -> Conversation {
    Conversation(vec![
        Action::Send(greeting("1")),
        Action::AwaitRequest("Place"),
        Action::Send(reply(&Reply::Started { pid: 1 })),
        Action::AwaitInput,
        Action::Send(frame(&Frame::Data(Stream::Stdout, placed_at().to_vec().into()))),
        Action::Send(reply(&Reply::Exited { status: ExitStatus::Code(0) })),
    ])
}
