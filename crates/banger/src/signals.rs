//! Signals, which have one owner in this process: a thread that starts before anything else.
//!
//! Outside of all phases, INT, TERM and HUP end banger at once, even if its other threads are blocked. A phase has
//! another rule:
//!
//! - A [cancellable](cancellable) phase undoes what it does; then the command ends. The next signal ends banger at
//!   once.
//! - A [session](forward) passes all signals on to a program.
//!
//! What is done afterwards, such as saving a VM's work before the VM is deleted, is a cancellable phase
//! [of its own](cleanup). A signal that no phase has reacted to ends banger with its last phase, so that none is lost.
//!
//! A HUP that was ignored when banger started stays ignored, because the user has asked for that (`nohup`). Other
//! ignored signals are handled: a shell ignores INT for commands in the background, and their sender still means them.
//!
//! The rest of this page is the manual's.
#![doc = include_str!("../../../docs/src/reference/signals.md")]

use std::{
    fs, io,
    process::exit,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError, mpsc::sync_channel},
    thread,
};

use rustix::process::Signal;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{error::CommandError, raw_mode, ui};

/// The signals that cancel a phase.
const CANCELLING: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

/// Signals that only a session handles; otherwise they end banger.
const OTHERS: [Signal; 3] = [Signal::QUIT, Signal::USR1, Signal::USR2];

static STATE: Mutex<State> =
    Mutex::new(State { phases: 0, reported: false, hung_up: false, session: None, last_words: None });

/// The signal that cancels the current phases.
static CANCELLED_BY: LazyLock<watch::Sender<Option<Signal>>> = LazyLock::new(|| watch::Sender::new(None));

/// The phases that are in force.
struct State {
    /// Number of cancellable phases.
    phases: usize,
    /// Whether a phase has returned an error because of the signal that cancels.
    reported: bool,
    /// Whether a HUP has been handled.
    hung_up: bool,
    /// Receives all signals during a session.
    session: Option<mpsc::UnboundedSender<Signal>>,
    /// Message for the user if a signal ends banger at once.
    last_words: Option<String>,
}

/// Starts the owner, and returns once it receives signals.
pub(crate) fn install() -> io::Result<()> {
    let (started, start) = sync_channel(1);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        own(|result| {
            // The receiver waits for exactly this.
            let _ = started.send(result);
        })
    })?;
    start.recv().unwrap_or_else(|_| Err(io::Error::other("the thread for signals has ended")))
}

fn own(report: impl FnOnce(io::Result<()>)) {
    let runtime = match Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(Err(error)),
    };
    runtime.block_on(async {
        let ignored = ignored_signals();
        for kind in CANCELLING.into_iter().chain(OTHERS) {
            if kind == Signal::HUP && ignored & (1 << (kind.as_raw() - 1)) != 0 {
                continue;
            }
            let mut stream = match signal(SignalKind::from_raw(kind.as_raw())) {
                Ok(stream) => stream,
                Err(error) => return report(Err(error)),
            };
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    handle(kind);
                }
            });
        }
        report(Ok(()));
        std::future::pending::<()>().await;
    });
}

/// Returns the set of signals that this process ignores, as a bit mask.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

fn handle(signal: Signal) {
    let mut state = state();
    if let Some(session) = &state.session
        && session.send(signal).is_ok()
    {
        return;
    }
    if state.phases > 0 && CANCELLING.contains(&signal) {
        if signal == Signal::HUP && state.hung_up {
            return;
        }
        state.hung_up |= signal == Signal::HUP;
        if CANCELLED_BY.borrow().is_none() {
            CANCELLED_BY.send_replace(Some(signal));
            return;
        }
    }
    end(signal, state.last_words.take());
}

/// Ends this process, whatever its other threads do.
fn end(signal: Signal, last_words: Option<String>) -> ! {
    raw_mode::restore();
    if let Some(words) = last_words {
        ui::last_words(&words);
    }
    exit(CommandError::interrupted(signal).status.into())
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A phase that INT, TERM and HUP cancel, until it is dropped. Phases may contain others.
#[derive(Debug)]
pub(crate) struct Cancellable {
    by: watch::Receiver<Option<Signal>>,
    has_last_words: bool,
}

/// Begins a phase that a signal cancels. A signal that has cancelled an earlier phase cancels this one too, so that the
/// command ends.
pub(crate) fn cancellable() -> Cancellable {
    state().phases += 1;
    Cancellable { by: CANCELLED_BY.subscribe(), has_last_words: false }
}

/// Begins a phase after the command has ended, also if a signal has ended it: only a further signal cancels this one.
pub(crate) fn cleanup() -> Cancellable {
    let mut state = state();
    if state.reported {
        state.reported = false;
        CANCELLED_BY.send_replace(None);
    }
    drop(state);
    cancellable()
}

/// Returns the failure of a phase that `signal` has cancelled.
pub(crate) fn interrupted(signal: Signal) -> CommandError {
    let mut state = state();
    state.reported = true;
    state.hung_up |= signal == Signal::HUP;
    CommandError::interrupted(signal)
}

impl Cancellable {
    /// Waits for the signal that cancels this phase. The caller then ends it with [`interrupted`].
    pub(crate) async fn cancelled(&self) -> Signal {
        let mut by = self.by.clone();
        match by.wait_for(Option::is_some).await.map(|signal| *signal) {
            Ok(Some(signal)) => signal,
            // The sender is never dropped.
            _ => std::future::pending().await,
        }
    }

    /// Returns the signal that has cancelled this phase, if one has.
    pub(crate) fn is_cancelled(&self) -> Option<Signal> {
        *self.by.borrow()
    }

    /// Does `work`, which is dropped when a signal cancels this phase.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, CommandError> {
        tokio::select! {
            biased;
            signal = self.cancelled() => Err(interrupted(signal)),
            done = work => Ok(done),
        }
    }

    /// Sets the message for the user if a signal ends banger at once during this phase: what remains, and how to
    /// continue.
    pub(crate) fn set_last_words(&mut self, words: impl Into<String>) {
        self.has_last_words = true;
        state().last_words = Some(words.into());
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        let mut state = state();
        state.phases -= 1;
        let last_words = state.last_words.take_if(|_| self.has_last_words);
        // A phase may have ended before it noticed the signal.
        if let Some(signal) = *CANCELLED_BY.borrow()
            && state.phases == 0
            && !state.reported
        {
            end(signal, last_words);
        }
    }
}

/// A session with a program that receives all signals, until it is dropped.
#[derive(Debug)]
pub(crate) struct Forwarded {
    signals: mpsc::UnboundedReceiver<Signal>,
}

/// Begins a session.
pub(crate) fn forward() -> Forwarded {
    let (sender, signals) = mpsc::unbounded_channel();
    state().session = Some(sender);
    Forwarded { signals }
}

impl Forwarded {
    /// Returns a session that receives what the test sends.
    #[cfg(test)]
    pub(crate) fn for_test() -> (mpsc::UnboundedSender<Signal>, Self) {
        let (sender, signals) = mpsc::unbounded_channel();
        (sender, Self { signals })
    }

    /// Returns the next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        match self.signals.recv().await {
            Some(signal) => signal,
            // The sender is dropped after this.
            None => std::future::pending().await,
        }
    }

    /// Records that the terminal is closed: a HUP that follows reports the same.
    pub(crate) fn hang_up(&mut self) {
        state().hung_up = true;
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        state().session = None;
        // Signals that the program did not get are for banger.
        while let Ok(signal) = self.signals.try_recv() {
            handle(signal);
        }
    }
}
