//! Whose turn it is: who wants a thread, by what right, and who waits in line for one.
//!
//! Pure. A future that was woken counts until it has nothing more to do, so that a thread is kept for
//! those with the better right, however they are queued elsewhere. Those who are owed time run at once.
//! What these leave is for those within their guarantees, and what these leave for those beyond; each
//! kind in the order of asking. So however many spin, who comes before them finds a thread; and one
//! that nobody has a right to is used all the same.

use std::collections::VecDeque;

use slab::Slab;

/// By what right a task has a thread; the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// It has had no more than what is its own.
    Owed,
    /// It has had more for a moment, and is within its guarantee over a longer time.
    Within,
    /// It takes what is spare.
    Beyond,
}

/// How many rights there are.
const RIGHTS: usize = 3;

/// Futures and the threads that they want. `T` wakes one.
#[derive(Debug)]
pub struct Line<T> {
    threads: usize,
    seats: Slab<Seat<T>>,
    /// Of each right, those that want to run, or do.
    wanting: [usize; RIGHTS],
    /// Of each right, those that run.
    running: [usize; RIGHTS],
    /// Of each right, those that wait in line, by number; none of those that are owed.
    waiting: [VecDeque<(u64, usize)>; RIGHTS],
    next: u64,
}

/// One future's.
#[derive(Debug)]
struct Seat<T> {
    /// No other's, ever.
    number: u64,
    waker: T,
    state: State,
    right: Right,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It wants nothing.
    Idle,
    /// It was woken, and did not ask yet.
    Woken,
    /// It has asked, and stands in line; `called` once it is woken to ask again.
    Waiting { number: u64, called: bool },
    /// It runs, and was woken `again` meanwhile.
    Running { again: bool },
}

/// Which future's seat. It outlives that, as wakers do, and then is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatId {
    at: usize,
    number: u64,
}

impl<T: Clone> Line<T> {
    /// Nobody yet.
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            seats: Slab::new(),
            wanting: [0; RIGHTS],
            running: [0; RIGHTS],
            waiting: Default::default(),
            next: 0,
        }
    }

    /// Another future, which wants nothing.
    pub fn enter(&mut self, waker: T) -> SeatId {
        let number = self.number();
        let at = self.seats.insert(Seat {
            number,
            waker,
            state: State::Idle,
            right: Right::Beyond,
        });
        SeatId { at, number }
    }

    /// It is gone. Gives whom to wake.
    pub fn exit(&mut self, id: SeatId) -> Option<T> {
        self.change(id, State::Idle, Right::Beyond);
        if self.seat(id).is_some() {
            self.seats.remove(id.at);
        }
        self.call()
    }

    /// It was woken. True if others are to yield, for it finds no thread.
    pub fn woken(&mut self, id: SeatId, right: impl FnOnce() -> Right) -> bool {
        match self.seat(id) {
            Some(Seat {
                state: State::Running { again },
                ..
            }) => *again = true,
            Some(Seat {
                state: State::Idle, ..
            }) => {
                let right = right();
                self.change(id, State::Woken, right);
                return self.lacks_thread(right);
            }
            _ => {}
        }
        false
    }

    /// It asks to run. False if it has to wait, until it is woken.
    pub fn ask(&mut self, id: SeatId, right: Right) -> bool {
        let own = match self.seat(id) {
            Some(Seat {
                state: State::Waiting { number, .. },
                right: had,
                ..
            }) if *had == right => Some(*number),
            _ => None,
        };
        let first = self.waiting[right as usize].front();
        let is_first = first.is_none_or(|(number, _)| own == Some(*number));
        // What it counted for itself is not what it waits for.
        self.change(id, State::Idle, right);
        if right == Right::Owed || (is_first && self.has_room(right)) {
            self.change(id, State::Running { again: false }, right);
            return true;
        }
        let number = own.unwrap_or_else(|| self.number());
        self.change(
            id,
            State::Waiting {
                number,
                called: false,
            },
            right,
        );
        false
    }

    /// It has yielded, and has this right by now. True if it is owed its thread and goes on at once: then
    /// nobody else has a better use for that.
    pub fn goes_on(&mut self, id: SeatId, right: impl FnOnce() -> Right) -> bool {
        let others = self.wanting[Right::Owed as usize] - self.running[Right::Owed as usize];
        let Some(seat) = self.seat(id) else {
            return false;
        };
        let has_yielded = seat.state == State::Running { again: true };
        let goes_on = has_yielded && others == 0 && right() == Right::Owed;
        if goes_on {
            self.change(id, State::Running { again: false }, Right::Owed);
        }
        goes_on
    }

    /// It has had its turn, and has this right by now. Gives whom to wake.
    pub fn ended(&mut self, id: SeatId, right: impl FnOnce() -> Right) -> Option<T> {
        match self.seat(id).map(|seat| seat.state) {
            Some(State::Running { again: true }) => self.change(id, State::Woken, right()),
            _ => self.change(id, State::Idle, Right::Beyond),
        }
        self.call()
    }

    /// It wants nothing for now. Gives whom to wake.
    pub fn rest(&mut self, id: SeatId) -> Option<T> {
        self.change(id, State::Idle, Right::Beyond);
        self.call()
    }

    /// Whom to wake, for there is a thread for it.
    pub fn call(&mut self) -> Option<T> {
        for right in [Right::Within, Right::Beyond] {
            let Some((_, first)) = self.waiting[right as usize].front() else {
                continue;
            };
            let (first, has_room) = (*first, self.has_room(right));
            let seat = self.seats.get_mut(first).filter(|_| has_room)?;
            let State::Waiting { called, .. } = &mut seat.state else {
                return None;
            };
            return (!std::mem::replace(called, true)).then(|| seat.waker.clone());
        }
        None
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn seat(&mut self, id: SeatId) -> Option<&mut Seat<T>> {
        let seat = self.seats.get_mut(id.at);
        seat.filter(|seat| seat.number == id.number)
    }

    fn change(&mut self, id: SeatId, state: State, right: Right) {
        let Some(seat) = self.seat(id) else {
            return;
        };
        let was = std::mem::replace(&mut seat.state, state);
        let had = std::mem::replace(&mut seat.right, right) as usize;
        if was != State::Idle {
            self.wanting[had] -= 1;
        }
        if matches!(was, State::Running { .. }) {
            self.running[had] -= 1;
        }
        if let State::Waiting { number, .. } = was {
            // They stand in the order of their numbers, mostly at its beginning.
            let line = &mut self.waiting[had];
            if let Ok(at) = line.binary_search_by_key(&number, |(number, _)| *number) {
                line.remove(at);
            }
        }
        let has = right as usize;
        if state != State::Idle {
            self.wanting[has] += 1;
        }
        if matches!(state, State::Running { .. }) {
            self.running[has] += 1;
        }
        if let State::Waiting { number, .. } = state {
            let line = &mut self.waiting[has];
            let at = line.partition_point(|(other, _)| *other < number);
            line.insert(at, (number, id.at));
        }
    }

    /// Whether one more of that right may run.
    fn has_room(&self, right: Right) -> bool {
        self.taken(right) < self.threads
    }

    /// Whether one that was woken finds no thread because of those with less right.
    fn lacks_thread(&self, right: Right) -> bool {
        let less = &self.running[right as usize + 1..];
        let wanted = self.wanting[right as usize] - self.running[right as usize];
        less.iter().any(|running| *running > 0) && self.taken(right) + wanted > self.threads
    }

    /// Threads that are none for one more of that right: those that the better ones want, and those on
    /// which others run.
    fn taken(&self, right: Right) -> usize {
        let (better, others) = (
            &self.wanting[..right as usize],
            &self.running[right as usize..],
        );
        better.iter().chain(others).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Right::{Beyond, Owed, Within};

    fn line<const N: usize>(threads: usize) -> (Line<char>, [SeatId; N]) {
        let mut line = Line::new(threads);
        let mut names = 'a'..;
        let seats = std::array::from_fn(|_| line.enter(names.next().unwrap()));
        (line, seats)
    }

    #[test]
    fn those_owed_leave_the_other_threads_to_the_rest() {
        let (mut line, [owed, one, two]) = line(2);
        assert!(!line.woken(owed, || Owed));
        assert!(line.ask(one, Beyond));
        assert!(!line.ask(two, Beyond));
        assert!(line.ask(owed, Owed));
        // It yields, and its thread is still its own.
        assert!(!line.woken(owed, || Owed));
        assert_eq!(line.ended(owed, || Owed), None);
        assert!(!line.ask(two, Beyond));
        // Turn by turn.
        assert_eq!(line.ended(one, || Beyond), Some('c'));
        assert!(!line.ask(one, Beyond));
        assert!(line.ask(two, Beyond));
        assert_eq!(line.ended(two, || Beyond), Some('b'));
        assert!(line.ask(one, Beyond));
        // Both when it has ended.
        assert!(!line.ask(two, Beyond));
        assert!(line.ask(owed, Owed));
        assert_eq!(line.ended(owed, || Owed), Some('c'));
        assert!(line.ask(two, Beyond));
        assert_eq!(line.call(), None);
    }

    #[test]
    fn the_better_right_goes_before_in_line() {
        let (mut line, [owed, beyond, within]) = line(1);
        assert!(line.ask(owed, Owed));
        assert!(!line.ask(beyond, Beyond));
        assert!(!line.ask(within, Within));
        assert_eq!(line.ended(owed, || Owed), Some('c'));
        assert_eq!(line.call(), None, "it is woken once");
        assert!(!line.ask(beyond, Beyond), "the thread is kept for it");
        assert!(line.ask(within, Within));
        line.woken(within, || unreachable!("it runs"));
        assert_eq!(
            line.ended(within, || Within),
            None,
            "it yields, and comes first again"
        );
        assert!(line.ask(within, Within));
        line.woken(within, || unreachable!("it runs"));
        assert_eq!(line.ended(within, || Beyond), Some('b'));
        assert!(!line.ask(within, Beyond));
        assert!(line.ask(beyond, Beyond));
    }

    #[test]
    fn others_yield_only_if_there_is_no_thread() {
        let (mut line, [one, two, third, beyond]) = line(2);
        assert!(line.ask(beyond, Beyond));
        assert!(!line.woken(one, || Owed), "the other thread is free");
        assert!(line.woken(two, || Within), "none is free");
        assert!(!line.woken(two, || unreachable!("it is woken already")));
        assert_eq!(line.ended(beyond, || Beyond), None);
        assert!(line.ask(one, Owed) && line.ask(two, Within));
        assert!(line.woken(third, || Owed), "one has less right");
        assert_eq!(line.ended(two, || Within), None);
        assert!(line.ask(third, Owed));
        assert!(!line.woken(two, || Owed), "nobody has less right");
        assert!(line.ask(two, Owed), "who is owed never stands in line");
    }

    #[test]
    fn who_is_owed_goes_on_at_once_unless_another_is_and_has_no_thread() {
        let (mut line, [owed, other, beyond]) = line(1);
        assert!(line.ask(owed, Owed));
        assert!(!line.ask(beyond, Beyond));
        assert!(!line.goes_on(owed, || Owed), "it did not yield");
        line.woken(owed, || unreachable!("it runs"));
        assert!(!line.goes_on(owed, || Within));
        assert!(line.goes_on(owed, || Owed));
        line.woken(owed, || unreachable!("it runs"));
        line.woken(other, || Owed);
        assert!(!line.goes_on(owed, || Owed));
        assert_eq!(line.ended(owed, || Owed), None);
        assert!(line.ask(other, Owed));
    }

    #[test]
    fn who_leaves_the_line_or_changes_its_right_holds_up_nobody() {
        let (mut line, [owed, one, two, third]) = line(1);
        assert!(line.ask(owed, Owed));
        for seat in [one, two, third] {
            assert!(!line.ask(seat, Beyond));
        }
        assert_eq!(line.rest(two), None);
        assert_eq!(line.ended(owed, || Owed), Some('b'));
        assert_eq!(line.exit(one), Some('d'));
        assert!(line.ask(third, Owed));
        assert!(!line.ask(two, Beyond));
        assert_eq!(line.exit(third), Some('c'));
        assert!(line.ask(two, Beyond));
        assert_eq!((line.wanting, line.running), ([0, 0, 1], [0, 0, 1]));
    }
}
