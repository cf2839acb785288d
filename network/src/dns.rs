//! How names are looked up in a namespace: what stands in its `resolv.conf`.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Servers, search domains and options; all may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Asked in this order.
    #[serde(default)]
    pub nameservers: Vec<IpAddr>,
    /// Domains that are tried behind a short name.
    #[serde(default)]
    pub search: Vec<String>,
    /// The resolver's options, as `ndots:2`.
    #[serde(default)]
    pub options: Vec<String>,
}

impl Dns {
    /// The most name servers: musl and glibc look at three.
    pub const MAX_NAMESERVERS: usize = 3;
    /// The most search domains and the most options: more than any resolver has in use.
    pub const MAX_WORDS: usize = 32;
    /// The longest search domain or option, in bytes: that of a domain name.
    pub const MAX_WORD: usize = 253;

    /// Reads a `resolv.conf`; what it does not know is left out, as resolvers do.
    pub fn parse(text: &str) -> Self {
        let mut dns = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let keyword = words.next();
            let words = words.map(str::to_owned);
            match keyword {
                Some("nameserver") => dns
                    .nameservers
                    .extend(words.flat_map(|word| word.parse::<IpAddr>())),
                // The last of them counts.
                Some("search" | "domain") => dns.search = words.collect(),
                Some("options") => dns.options.extend(words),
                _ => {}
            }
        }
        dns.nameservers.truncate(Self::MAX_NAMESERVERS);
        dns.search.truncate(Self::MAX_WORDS);
        dns.options.truncate(Self::MAX_WORDS);
        dns
    }

    /// Without the servers that only the machine itself reaches, for a namespace of its own.
    pub fn without_loopback(mut self) -> Self {
        self.nameservers.retain(|server| !server.is_loopback());
        self
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    /// What is not said here is taken from the other.
    pub fn or(self, other: Self) -> Self {
        fn first<T>(one: Vec<T>, other: Vec<T>) -> Vec<T> {
            if one.is_empty() { other } else { one }
        }
        Self {
            nameservers: first(self.nameservers, other.nameservers),
            search: first(self.search, other.search),
            options: first(self.options, other.options),
        }
    }

    /// The text of a `resolv.conf`; none if there is no server, so that the caller gives another.
    pub fn resolv_conf(&self) -> Option<String> {
        if self.nameservers.is_empty() {
            return None;
        }
        let mut text = String::new();
        for server in &self.nameservers {
            writeln!(text, "nameserver {server}").ok();
        }
        for (keyword, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                writeln!(text, "{keyword} {}", words.join(" ")).ok();
            }
        }
        Some(text)
    }

    /// What is wrong with it in itself.
    pub fn validate(&self) -> Result<(), String> {
        if self.nameservers.len() > Self::MAX_NAMESERVERS {
            return Err(format!(
                "{} name servers: resolvers ask {} at most; name fewer",
                self.nameservers.len(),
                Self::MAX_NAMESERVERS
            ));
        }
        for (what, words) in [("search domains", &self.search), ("options", &self.options)] {
            if words.len() > Self::MAX_WORDS {
                return Err(format!("at most {} {what} of DNS", Self::MAX_WORDS));
            }
            let is_word = |word: &String| {
                (1..=Self::MAX_WORD).contains(&word.len())
                    && word.bytes().all(|b| b.is_ascii_graphic())
            };
            if let Some(word) = words.iter().find(|word| !is_word(word)) {
                let word: String = word.chars().take(80).collect();
                return Err(format!(
                    "{word:?} among the {what} of DNS: each is 1 to {} visible ASCII characters",
                    Self::MAX_WORD
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_as_it_is_written() {
        let text =
            "nameserver 10.0.0.1\nnameserver ::1\nsearch a.example b.example\noptions ndots:2\n";
        let dns = Dns::parse(text);
        assert_eq!(dns.resolv_conf().unwrap(), text);
        assert_eq!(dns.without_loopback().nameservers.len(), 1);
        let odd = "# c\nnameserver x\ndomain d\nsortlist 1\nnameserver 1.1.1.1 \n";
        assert_eq!(
            Dns::parse(odd).resolv_conf().unwrap(),
            "nameserver 1.1.1.1\nsearch d\n"
        );
        assert_eq!(Dns::parse("").resolv_conf(), None);
    }

    #[test]
    fn no_word_can_add_a_line() {
        let mut dns = Dns::default();
        assert_eq!(dns.validate(), Ok(()));
        dns.search = vec!["a\nnameserver 6.6.6.6".into()];
        assert!(dns.validate().unwrap_err().contains("search domains"));
        dns.search = vec!["a".into(); Dns::MAX_WORDS + 1];
        assert!(dns.validate().is_err());
        dns.search.clear();
        dns.nameservers = vec![[1, 1, 1, 1].into(); 4];
        assert!(dns.validate().unwrap_err().contains("fewer"));
    }

    #[test]
    fn what_is_asked_for_comes_first() {
        let asked = Dns::parse("search a\n");
        let given = Dns::parse("nameserver 10.0.0.1\nsearch b\n");
        let both = asked.or(given).resolv_conf().unwrap();
        assert_eq!(both, "nameserver 10.0.0.1\nsearch a\n");
    }
}
