//! This process's standard input on its way to a task: read by one thread for as long as the process
//! lives, whatever becomes of connections and tasks meanwhile.
//!
//! A piece that was sent is kept until the other side says that it was taken, and is sent again on
//! the next connection until then; none is ever lost in between, or sent to two tasks. Each connection
//! is told where in the input it begins, so that what was taken, and nobody could say so, is not taken
//! twice. What was taken is the task's, whether that has read it or not.

use std::collections::VecDeque;

use tepui_types::wire::stream::INPUT_WINDOW;
use tokio::sync::mpsc;

use crate::client::ClientError;
use crate::terminal::{self, LeaveKeys};

/// What comes in.
#[derive(Debug)]
pub struct Stdin {
    /// None until something is to be read.
    input: Option<mpsc::Receiver<Vec<u8>>>,
    /// What was read and not taken, the oldest first; an empty one is the end.
    pieces: VecDeque<Vec<u8>>,
    /// How many of them were sent on this connection.
    sent: usize,
    /// How many were taken, ever on this connection.
    taken: u64,
    /// By what it is known; drawn when that is first asked for.
    source: Option<u128>,
    /// Where the oldest of them begins, in bytes; the end counts as one.
    at: u64,
    /// Whether there will be no more.
    has_ended: bool,
}

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// To be sent; empty for the end.
    Piece(Vec<u8>),
    /// The keys were typed that leave the task.
    Left,
}

impl Stdin {
    /// Reads nothing yet.
    pub fn new() -> Self {
        Self {
            input: None,
            pieces: VecDeque::new(),
            sent: 0,
            taken: 0,
            source: None,
            at: 0,
            has_ended: false,
        }
    }

    /// By what this input is known on all of its connections.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn source(&mut self) -> Result<u128, ClientError> {
        if let Some(source) = self.source {
            return Ok(source);
        }
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(ClientError::Random)?;
        let source = u128::from_ne_bytes(bytes);
        self.source = Some(source);
        Ok(source)
    }

    /// What is next; waits while there is nothing, or too much that was not taken. Loses nothing when
    /// it is dropped: until [`Stdin::on_sent`] it gives the same again.
    pub async fn next(&mut self, keys: &mut Option<LeaveKeys>) -> Next {
        loop {
            if let Some(piece) = self.pieces.get(self.sent) {
                return Next::Piece(piece.clone());
            }
            if self.has_ended || self.waiting() >= INPUT_WINDOW {
                return std::future::pending().await;
            }
            let input = self.input.get_or_insert_with(terminal::input);
            let Some(typed) = input.recv().await else {
                self.has_ended = true;
                self.pieces.push_back(Vec::new());
                continue;
            };
            let passed = match keys {
                Some(keys) => keys.pass(&typed),
                None => Some(typed),
            };
            match passed {
                Some(piece) if piece.is_empty() => {}
                Some(piece) => self.pieces.push_back(piece),
                None => return Next::Left,
            }
        }
    }

    /// What [`Stdin::next`] gave was sent.
    pub fn on_sent(&mut self) {
        self.sent += 1;
    }

    /// So many were taken since the connection began.
    pub fn on_taken(&mut self, taken: u64) {
        let more = usize::try_from(taken.saturating_sub(self.taken)).unwrap_or(usize::MAX);
        let more = more.min(self.sent);
        let lengths = self.pieces.drain(..more).map(|piece| piece.len().max(1));
        self.at += lengths.sum::<usize>() as u64;
        self.sent -= more;
        self.taken = self.taken.max(taken);
    }

    /// All that was sent counts as taken: nobody says more of it.
    pub fn settle(&mut self) {
        self.on_taken(self.taken.saturating_add(self.sent as u64));
    }

    /// There is another connection: what was not taken is sent again, and begins there.
    pub fn on_connection(&mut self) -> u64 {
        (self.sent, self.taken) = (0, 0);
        self.at
    }

    /// There is another task: it is told the end, too.
    pub fn on_task(&mut self) {
        self.on_connection();
        if self.has_ended && self.pieces.is_empty() {
            self.pieces.push_back(Vec::new());
        }
    }

    /// Bytes that were read and not taken.
    pub fn waiting(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// One that reads these pieces and then the end.
    fn of(pieces: &[&str]) -> Stdin {
        let (sender, input) = mpsc::channel(pieces.len());
        for piece in pieces {
            sender.try_send(piece.as_bytes().to_vec()).unwrap();
        }
        Stdin {
            input: Some(input),
            ..Stdin::new()
        }
    }

    async fn sent(stdin: &mut Stdin) -> String {
        let Next::Piece(piece) = stdin.next(&mut None).await else {
            panic!("nobody leaves");
        };
        stdin.on_sent();
        String::from_utf8(piece).unwrap()
    }

    #[tokio::test]
    async fn what_was_not_taken_is_sent_again_and_the_rest_is_not() {
        let mut stdin = of(&["one", "two", "three"]);
        assert_eq!(sent(&mut stdin).await, "one");
        assert_eq!(sent(&mut stdin).await, "two");
        stdin.on_taken(1);
        stdin.on_connection();
        assert_eq!(sent(&mut stdin).await, "two");
        // Said twice, and of the connection before.
        stdin.on_taken(1);
        stdin.on_taken(1);
        assert_eq!(sent(&mut stdin).await, "three");
        assert_eq!(sent(&mut stdin).await, "");
        assert_eq!(stdin.on_connection(), 6);
        assert_eq!(sent(&mut stdin).await, "three");
        stdin.on_taken(9);
        assert_eq!((stdin.waiting(), stdin.on_connection()), (0, 11));
    }

    #[tokio::test]
    async fn each_task_is_told_the_end_and_each_piece_goes_to_one() {
        let mut stdin = of(&["one"]);
        assert_eq!(sent(&mut stdin).await, "one");
        assert_eq!(sent(&mut stdin).await, "");
        stdin.on_taken(2);
        stdin.on_task();
        assert_eq!(sent(&mut stdin).await, "");
        stdin.on_task();
        assert_eq!(sent(&mut stdin).await, "");
        // Once alone.
        assert!(stdin.next(&mut None).now_or_never().is_none());
    }

    #[tokio::test]
    async fn too_much_that_was_not_taken_is_waited_for() {
        let (sender, input) = mpsc::channel(2);
        let mut stdin = Stdin {
            input: Some(input),
            ..Stdin::new()
        };
        for _ in 0..2 {
            sender.try_send(vec![b'x'; INPUT_WINDOW]).unwrap();
        }
        assert_eq!(sent(&mut stdin).await.len(), INPUT_WINDOW);
        assert!(stdin.next(&mut None).now_or_never().is_none());
        stdin.on_taken(1);
        assert_eq!(sent(&mut stdin).await.len(), INPUT_WINDOW);
    }

    #[tokio::test]
    async fn who_leaves_sends_nothing_of_the_keys() {
        let mut stdin = of(&["a\x10", "\x11"]);
        let mut keys = Some(LeaveKeys::default());
        assert_eq!(stdin.next(&mut keys).await, Next::Piece(b"a".to_vec()));
        stdin.on_sent();
        assert_eq!(stdin.next(&mut keys).await, Next::Left);
    }
}
