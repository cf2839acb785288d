//! What executors and their tasks may do on their machine.

use std::fmt;
use std::str::FromStr;

/// How far tasks are held back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Privileges {
    /// A program that runs as root has no power over the machine: few capabilities(7), and a
    /// seccomp(2) filter before what is for administrators.
    #[default]
    Confined,
    /// All that the agent has, but that it never gains more by executing a program.
    All,
}

impl Privileges {
    /// Its name in flags and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Confined => "confined",
            Self::All => "all",
        }
    }
}

impl fmt::Display for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Privileges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Confined, Self::All]
            .into_iter()
            .find(|privileges| privileges.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not one of `confined` and `all`"))
    }
}
