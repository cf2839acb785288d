//! The crate on this machine and on machines made of files, and its two pure cores over time.

// Readings of real files, and of what is not there.
mod machine;
// What is done about a machine that is short of something.
mod relief;
// Its scenarios.
mod script;
// Shortages and cgroups that are real.
mod shortage;
// What is lent of what lies idle.
mod slack;
// Tasks for all of these.
mod tasks;
// Readings at an interval.
mod watch;
