//! Users and groups as a container's own files name them: passwd(5) and group(5).

use std::io::Read;
use std::path::Path;

use crate::root;

/// More than any image has; what is beyond is not looked at, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// As whom a container's program runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
    /// Its home.
    pub home: String,
}

/// Finds `user`, `uid`, `user:group` or `uid:gid` in the root file system at `root`; the root user
/// when empty.
///
/// # Errors
/// Says which name is not there.
pub fn find(root: &Path, wanted: &str) -> Result<Account, String> {
    lookup(wanted, &file(root, "etc/passwd"), &file(root, "etc/group"))
}

/// An image may come without these files.
fn file(root: &Path, path: &str) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = root::open(root, Path::new(path)) {
        // What could be read of it counts.
        let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lookup(wanted: &str, passwd: &str, group: &str) -> Result<Account, String> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entry = passwd
        .lines()
        .filter_map(Entry::parse)
        .find(|entry| match user.parse::<u32>() {
            Ok(uid) => entry.uid == uid,
            Err(_) => entry.name == user,
        });
    let uid = match (&entry, user.parse()) {
        (Some(entry), _) => entry.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) => {
            return Err(format!(
                "the container has no user `{user}` in its /etc/passwd"
            ));
        }
    };
    let gid = match wanted_group {
        Some(group_name) => find_group(group_name, group)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let name = entry.as_ref().map(|entry| entry.name);
    // Who names a group has that one alone, as with other runtimes.
    let groups = name.filter(|_| wanted_group.is_none());
    let groups = groups
        .map(|name| groups_of(name, group))
        .unwrap_or_default();
    Ok(Account {
        uid,
        gid,
        groups,
        home: entry.map_or("/", |entry| entry.home).to_owned(),
    })
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        let (_, home) = (fields.next()?, fields.next()?);
        Some(Self {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home,
        })
    }
}

fn group_line(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
    Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
}

fn find_group(wanted: &str, group: &str) -> Result<u32, String> {
    if let Ok(gid) = wanted.parse() {
        return Ok(gid);
    }
    let found = group
        .lines()
        .filter_map(group_line)
        .find(|(name, ..)| *name == wanted);
    let found = found.map(|(_, gid, _)| gid);
    found.ok_or_else(|| format!("the container has no group `{wanted}` in its /etc/group"))
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    let lines = group.lines().filter_map(group_line);
    let has = lines.filter(|(_, _, members)| members.split(',').any(|member| member == user));
    has.map(|(_, gid, _)| gid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:40:other,web\n";

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let account = |wanted| lookup(wanted, PASSWD, GROUP).unwrap();
        let web = Account {
            uid: 33,
            gid: 34,
            groups: vec![40],
            home: "/srv".into(),
        };
        assert_eq!(account("web"), web);
        assert_eq!(account("33"), web);
        assert_eq!((account("").uid, account("").home), (0, "/root".into()));
        let alone = account("web:root");
        assert_eq!((alone.uid, alone.gid, alone.groups), (33, 0, Vec::new()));
        let nobody = account("1000:1000");
        assert_eq!(
            (nobody.uid, nobody.gid, nobody.home),
            (1000, 1000, "/".into())
        );
        assert_eq!(account("1000").gid, 0);
    }

    #[test]
    fn names_that_are_not_there_are_named() {
        assert!(
            lookup("eve", PASSWD, GROUP)
                .unwrap_err()
                .contains("user `eve`")
        );
        assert!(
            lookup("web:eve", PASSWD, GROUP)
                .unwrap_err()
                .contains("group `eve`")
        );
        assert!(lookup("web", "", "").is_err());
    }
}
