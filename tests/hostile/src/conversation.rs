//! A case: command lines, and what the guest answers to each.

use std::fmt;

use rustix::process::Signal;

use crate::Command;

/// Maximum number of bytes that are shown of a message.
const MAX_SHOWN: usize = 160;

/// Command lines that run one after another in the same sandbox.
#[derive(Debug, Clone)]
pub struct Case {
    /// The command lines.
    pub steps: Vec<Step>,
}

/// A command line, and what the guest says while it runs.
#[derive(Debug, Clone)]
pub struct Step {
    /// The command line.
    pub command: Command,
    /// What the guest does, for each connection in order. Further connections are closed at once.
    pub conversations: Vec<Conversation>,
    /// What the daemon reports as the VM's last error, which quotes the guest's console.
    pub last_error: Option<String>,
}

/// What the guest does with one connection. At the end it closes the connection.
#[derive(Debug, Clone, Default)]
pub struct Conversation(pub Vec<Action>);

/// One thing that the guest does.
#[derive(Clone, PartialEq, Eq)]
pub enum Action {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Sends the same bytes again and again, until so many bytes are sent or the client disconnects.
    SendRepeatedly(Vec<u8>, u64),
    /// Waits for the client's request, which should contain these words. Their absence changes nothing here;
    /// [`Harness::unreached`](crate::Harness::unreached) reports it.
    AwaitRequest(&'static str),
    /// Accepts standard input to its end, and acknowledges it.
    AwaitInput,
    /// Waits until standard input contains these bytes. If it ends without them, or if the client waits too, the
    /// conversation ends.
    AwaitBytes(&'static [u8]),
    /// Sends nothing more. The client's clock advances until it disconnects.
    StaySilent,
    /// Sends nothing more, while the user presses Ctrl-C (or sends another signal) again and again: what the guest
    /// has sent before counts as a reaction until the client has read it.
    StaySilentUntil(Signal),
}

impl Conversation {
    /// Returns the words of the request that it answers.
    #[must_use]
    pub fn request(&self) -> &'static str {
        let mut words = self.0.iter().filter_map(|action| match action {
            Action::AwaitRequest(words) => Some(*words),
            _ => None,
        });
        words.next().unwrap_or_default()
    }
}

impl Step {
    /// Creates a step whose daemon reports no error.
    #[must_use]
    pub fn new(command: Command, conversations: Vec<Conversation>) -> Self {
        Self { command, conversations, last_error: None }
    }

    /// Returns whether the user interrupts the command.
    pub(crate) fn is_interrupted(&self) -> bool {
        let actions = self.conversations.iter().flat_map(|conversation| &conversation.0);
        actions.into_iter().any(|action| matches!(action, Action::StaySilentUntil(_)))
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(bytes) => write!(f, "Send({} bytes: {})", bytes.len(), shown(bytes)),
            Self::SendRepeatedly(bytes, total) => {
                write!(f, "SendRepeatedly({total} bytes: {})", shown(bytes))
            }
            Self::AwaitRequest(words) => write!(f, "AwaitRequest({words})"),
            Self::AwaitInput => f.write_str("AwaitInput"),
            Self::AwaitBytes(bytes) => write!(f, "AwaitBytes({})", shown(bytes)),
            Self::StaySilent => f.write_str("StaySilent"),
            Self::StaySilentUntil(signal) => write!(f, "StaySilentUntil({signal:?})"),
        }
    }
}

/// Returns the beginning of `bytes` as text without control characters.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let more = if bytes.len() > MAX_SHOWN { "…" } else { "" };
    format!("\"{}\"{more}", bytes[..bytes.len().min(MAX_SHOWN)].escape_ascii())
}
