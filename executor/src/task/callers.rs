//! Who sends something to the task's input, and waits until it is taken. Pure.
//!
//! A piece waits here until the command's input has room for it, and then its caller is told: a command
//! that does not read holds up its callers, and nobody else. They are served in turn, for none sends
//! another piece before that. Of each input it is known how far it was taken, so that what is sent
//! again after a broken connection is not written twice.

use std::collections::VecDeque;

use tepui_types::wire::executor::TaskInput;
use tepui_types::wire::stream::MAX_CHUNK;

/// Pieces that may wait: one of each stream that an agent serves at once, for all of its executors
/// together.
const MOST_WAITING: usize = 256;
/// Inputs of which it is known how far they were taken: as many. Of more, those that were heard last.
const MOST_SOURCES: usize = 256;

/// What a command's input takes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet: it has not begun.
    Later,
    /// Nothing any more: it reads nothing, or has closed its input.
    Never,
}

/// A piece that leaves here, whose caller is to be told.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    /// Who.
    pub caller: u128,
    /// What is to be written, nothing for the input's end; none if it was before, or never can be.
    pub bytes: Option<Vec<u8>>,
}

/// Those of one task.
#[derive(Debug, Default)]
pub struct Callers {
    /// In the order in which they came.
    waiting: VecDeque<TaskInput>,
    /// How far each input was taken; the one that was heard last is the last.
    sources: VecDeque<(u128, u64)>,
}

impl Callers {
    /// Someone sends a piece.
    ///
    /// # Errors
    /// Gives back whom to tell that it is not taken: more waits than may.
    pub fn add(&mut self, input: TaskInput) -> Result<(), u128> {
        if input.bytes.len() > MAX_CHUNK || self.waiting.len() >= MOST_WAITING {
            return Err(input.caller);
        }
        self.waiting.push_back(input);
        Ok(())
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next piece, if there is room for it.
    pub fn next(&mut self, room: Room) -> Option<Passed> {
        let first = self.waiting.front()?;
        let taken = self.taken_of(first.source).unwrap_or(first.at);
        let known = taken.saturating_sub(first.at);
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        let is_known = known >= length(first);
        let fits = match room {
            // A terminal is told the end by two characters.
            Room::Bytes(bytes) => first.bytes.len().max(2) <= bytes,
            Room::Later => false,
            Room::Never => true,
        };
        if !fits && !is_known {
            return None;
        }
        let mut first = self.waiting.pop_front()?;
        let end = first.at.saturating_add(length(&first) as u64);
        self.note(first.source, end.max(taken));
        let bytes = (!is_known && room != Room::Never).then(|| first.bytes.split_off(known));
        Some(Passed {
            caller: first.caller,
            bytes,
        })
    }

    /// This one has gone.
    pub fn leave(&mut self, caller: u128) {
        self.waiting.retain(|piece| piece.caller != caller);
    }

    /// All have gone, with their agent. How far their inputs were taken is remembered.
    pub fn leave_all(&mut self) {
        self.waiting.clear();
    }

    /// The task has ended: whom to tell that nothing more is taken.
    pub fn end(&mut self) -> Vec<u128> {
        self.sources.clear();
        self.waiting.drain(..).map(|piece| piece.caller).collect()
    }

    fn taken_of(&self, source: u128) -> Option<u64> {
        let mut known = self.sources.iter();
        known.find(|(id, _)| *id == source).map(|(_, taken)| *taken)
    }

    fn note(&mut self, source: u128, taken: u64) {
        self.sources.retain(|(id, _)| *id != source);
        if self.sources.len() >= MOST_SOURCES {
            self.sources.pop_front();
        }
        self.sources.push_back((source, taken));
    }
}

/// How far it goes in its input.
fn length(piece: &TaskInput) -> usize {
    piece.bytes.len().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(caller: u128, source: u128, at: u64, text: &str) -> TaskInput {
        TaskInput {
            task: "f1.t.0".parse().unwrap(),
            bytes: text.as_bytes().to_vec(),
            caller,
            source,
            at,
        }
    }

    /// The next caller, and what is written.
    fn next(callers: &mut Callers, room: Room) -> Option<(u128, Option<String>)> {
        let passed = callers.next(room)?;
        let text = passed.bytes.map(|bytes| String::from_utf8(bytes).unwrap());
        Some((passed.caller, text))
    }

    #[test]
    fn a_piece_waits_for_room_and_callers_are_served_in_turn() {
        let mut callers = Callers::default();
        callers.add(piece(1, 1, 0, "long one")).unwrap();
        callers.add(piece(2, 2, 0, "two")).unwrap();
        assert_eq!(next(&mut callers, Room::Later), None);
        // A short one does not go before.
        assert_eq!(next(&mut callers, Room::Bytes(7)), None);
        let first = next(&mut callers, Room::Bytes(8));
        assert_eq!(first, Some((1, Some("long one".into()))));
        callers.add(piece(1, 1, 8, "more")).unwrap();
        let second = next(&mut callers, Room::Bytes(8));
        assert_eq!(second, Some((2, Some("two".into()))));
        callers.leave(1);
        assert!(callers.is_empty());
    }

    #[test]
    fn what_is_sent_again_is_not_written_again_and_so_its_end() {
        let mut callers = Callers::default();
        let room = Room::Bytes(100);
        callers.add(piece(1, 7, 5, "hello")).unwrap();
        assert_eq!(next(&mut callers, room), Some((1, Some("hello".into()))));
        callers.leave_all();
        // Known all, known in part, and told at once where it is known.
        callers.add(piece(2, 7, 5, "hel")).unwrap();
        assert_eq!(next(&mut callers, Room::Later), Some((2, None)));
        callers.add(piece(2, 7, 8, "lo you")).unwrap();
        assert_eq!(next(&mut callers, room), Some((2, Some(" you".into()))));
        callers.add(piece(2, 7, 14, "")).unwrap();
        assert_eq!(next(&mut callers, room), Some((2, Some(String::new()))));
        callers.add(piece(3, 7, 14, "")).unwrap();
        assert_eq!(next(&mut callers, room), Some((3, None)));
        // Of another input nothing is known.
        callers.add(piece(3, 8, 5, "hello")).unwrap();
        assert_eq!(next(&mut callers, room), Some((3, Some("hello".into()))));
    }

    #[test]
    fn where_nobody_reads_callers_are_told_at_once_and_too_much_is_refused() {
        let mut callers = Callers::default();
        callers.add(piece(1, 1, 0, "lost")).unwrap();
        assert_eq!(next(&mut callers, Room::Never), Some((1, None)));
        let large = "x".repeat(MAX_CHUNK);
        let held = (0..).take_while(|caller| callers.add(piece(*caller, 1, 0, &large)).is_ok());
        assert_eq!(held.count(), MOST_WAITING);
        assert_eq!(callers.end().len(), MOST_WAITING);
        let larger = "x".repeat(MAX_CHUNK + 1);
        assert_eq!(callers.add(piece(9, 1, 0, &larger)), Err(9));
    }

    #[test]
    fn of_many_inputs_those_are_known_that_were_heard_last() {
        let mut callers = Callers::default();
        for source in 0..=MOST_SOURCES as u128 {
            callers.add(piece(1, source, 0, "x")).unwrap();
            next(&mut callers, Room::Bytes(8)).unwrap();
        }
        callers.add(piece(1, 0, 0, "x")).unwrap();
        let again = next(&mut callers, Room::Bytes(8));
        assert_eq!(again, Some((1, Some("x".into()))));
        callers.add(piece(1, MOST_SOURCES as u128, 0, "x")).unwrap();
        assert_eq!(next(&mut callers, Room::Bytes(8)), Some((1, None)));
        assert_eq!(callers.sources.len(), MOST_SOURCES);
    }
}
