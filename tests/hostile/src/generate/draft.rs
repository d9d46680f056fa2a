//! A conversation under construction.

use rustix::process::Signal;

use super::replies;
use crate::{Action, Conversation, choices::Choices, encode::reply};

/// Maximum number of bytes that a guest repeats, and of repetitions.
pub(super) const MAX_REPEATED: u64 = 4 << 20;
const MAX_REPETITIONS: u64 = 1000;

/// A conversation under construction: messages, of which some are lost, repeated or changed at the end.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) actions: Vec<Action>,
}

impl Draft {
    pub(super) fn send(&mut self, bytes: Vec<u8>) {
        self.actions.push(Action::Send(bytes));
    }

    /// Ends the conversation: with a mistake or none, and then in silence or by closing the connection.
    pub(super) fn finish(mut self, choices: &mut Choices<'_>, session: bool) -> Conversation {
        if choices.chance(25) {
            self.damage(choices);
        }
        let silence = match (choices.below(100), session) {
            (97.., _) => {
                Some(Action::StaySilentUntil(*choices.pick(&[Signal::INT, Signal::TERM, Signal::HUP])))
            }
            (90..97, false) => Some(Action::StaySilent),
            _ => None,
        };
        if let Some(silence) = silence {
            // Often before everything is said.
            let kept = choices.below(self.actions.len() + 1);
            self.actions.truncate(self.actions.len() - kept);
            self.actions.push(silence);
        }
        Conversation(self.actions)
    }

    fn damage(&mut self, choices: &mut Choices<'_>) {
        // The greeting has its own mistakes, and without it no request comes.
        let at = 2 + choices.below(self.actions.len() - 2);
        match choices.below(8) {
            0 => _ = self.actions.remove(at),
            1 => self.actions.insert(at, self.actions[at].clone()),
            2 => self.actions.truncate(at),
            3 => self.actions.insert(at, Action::Send(reply(&replies::any(choices)))),
            4 => self.actions.insert(at, Action::Send(replies::malformed(choices))),
            5 => {
                let bytes = match &self.actions[at] {
                    Action::Send(bytes) if !bytes.is_empty() => bytes.clone(),
                    _ => reply(&replies::any(choices)),
                };
                let total = MAX_REPEATED.min(bytes.len() as u64 * MAX_REPETITIONS);
                self.actions.insert(at, Action::SendRepeatedly(bytes, total));
            }
            6 => self.actions.push(Action::Send(choices.bytes(40))),
            _ => self.flip_bytes(choices, at),
        }
    }

    fn flip_bytes(&mut self, choices: &mut Choices<'_>, at: usize) {
        if let Action::Send(bytes) = &mut self.actions[at] {
            for _ in 0..=choices.below(4) {
                let at = choices.below(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = choices.number();
                }
            }
        }
    }
}
