//! Answers that were given under an idempotency key, kept for those who ask
//! again: 24 hours, within a cap, the oldest first to go.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tepui_types::{Principal, Timestamp};

use crate::command::Command;
use crate::envelope::Envelope;
use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::limits;

/// A kept answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Log index of the command that it answered.
    pub index: u64,
    /// When.
    pub time: Timestamp,
    /// What was asked, as a digest.
    pub asked: [u8; 16],
    /// The answer.
    pub outcome: Accepted,
}

/// Who asked, under which key.
type Caller = (Principal, String);

/// The table.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    by_caller: OrdMap<Caller, Arc<Answer>>,
    by_age: OrdMap<u64, Caller>,
    bytes: usize,
}

impl Answers {
    /// The answer that this caller has had under this key.
    pub fn find(&self, envelope: &Envelope) -> Option<Outcome> {
        let key = envelope.idempotency_key.as_ref()?;
        let caller = (envelope.principal.clone(), key.clone());
        let answer = self.by_caller.get(&caller)?;
        if answer.asked == asked(&envelope.body) {
            Some(Ok(answer.outcome.clone()))
        } else {
            Some(Err(Rejection::KeyReused))
        }
    }

    /// Keeps an answer. Rejections changed nothing and are found anew.
    pub fn remember(
        &mut self,
        envelope: &Envelope,
        index: u64,
        time: Timestamp,
        outcome: &Outcome,
    ) {
        let (Some(key), Ok(outcome)) = (&envelope.idempotency_key, outcome) else {
            return;
        };
        let answer = Answer {
            index,
            time,
            asked: asked(&envelope.body),
            outcome: outcome.clone(),
        };
        self.insert((envelope.principal.clone(), key.clone()), answer);
    }

    fn insert(&mut self, caller: Caller, answer: Answer) {
        self.bytes += size(&caller, &answer);
        self.by_age.insert(answer.index, caller.clone());
        self.by_caller.insert(caller, Arc::new(answer));
    }

    /// Drops what is too old or too much.
    pub fn expire(&mut self, now: Timestamp) {
        while let Some((index, caller)) = self.by_age.get_min().cloned() {
            let Some(answer) = self.by_caller.get(&caller) else {
                return;
            };
            let is_old = now.millis_since(answer.time) > limits::ANSWER_MS;
            let is_over = self.by_age.len() > limits::ANSWERS || self.bytes > limits::ANSWERS_BYTES;
            if !(is_old || is_over) {
                return;
            }
            self.bytes = self.bytes.saturating_sub(size(&caller, answer));
            self.by_age.remove(&index);
            self.by_caller.remove(&caller);
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Caller, &Arc<Answer>)> {
        self.by_caller.iter()
    }
}

impl FromIterator<(Caller, Answer)> for Answers {
    fn from_iter<I: IntoIterator<Item = (Caller, Answer)>>(answers: I) -> Self {
        let mut table = Self::default();
        for (caller, answer) in answers {
            table.insert(caller, answer);
        }
        table
    }
}

/// What was asked. A framework's turn is what the framework made of a request;
/// the host compares the request itself, here only the framework counts.
fn asked(body: &Command) -> [u8; 16] {
    let bytes = match body {
        Command::Turn(turn) => tepui_types::envelope::encode(1, &turn.framework),
        body => tepui_types::envelope::encode(2, body),
    };
    let mut half = [0; 16];
    half.copy_from_slice(&Sha256::digest(bytes)[..16]);
    half
}

fn size(caller: &Caller, answer: &Answer) -> usize {
    let body = match &answer.outcome {
        Accepted::Turn {
            answer: Some(answer),
        } => {
            let headers = answer
                .headers
                .iter()
                .map(|(name, value)| name.len() + value.len());
            answer.body.len() + headers.sum::<usize>()
        }
        _ => 0,
    };
    // Tables, digest and the rest of the record, roughly.
    const RECORD: usize = 256;
    RECORD + 2 * caller.1.len() + body
}
