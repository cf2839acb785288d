//! Who listens where in the machine's own network: whether a task's processes listen on ports that
//! are not theirs.
//!
//! `/proc/thread-self/net/{tcp,udp}{,6}` say which sockets of the namespace listen, and `/proc/PID/fd` which
//! sockets a process has; a socket's inode brings both together. The tables are read at every look,
//! processes only for sockets that are new. Threads that have gone to a namespace of their own are not
//! seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use tepui_types::resources::PortRanges;

use crate::attachment::Protocol;
use crate::error::NetworkError;

/// Which file has which protocol's sockets.
const TABLES: [(&str, Protocol); 4] = [
    ("tcp", Protocol::Tcp),
    ("tcp6", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("udp6", Protocol::Udp),
];
/// The kernel's TCP_LISTEN.
const LISTENING: &str = "0A";
/// The kernel's TCP_CLOSE; of UDP, a socket that takes packets from anyone.
const UNCONNECTED: &str = "07";
/// From which ports the kernel chooses where a program names none.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Looks at which no task has a socket until it counts as none's: one that a process had just been
/// given is seen by then.
const LOOKS: u8 = 3;

/// A task, and where it may listen.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its processes.
    pub pids: Vec<u32>,
    /// Its ports.
    pub ports: PortRanges,
}

/// A socket that listens where its task may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Whose, by its place among the tenants.
    pub tenant: usize,
    /// Over what.
    pub protocol: Protocol,
    /// On which port.
    pub port: u16,
    /// On which address; an unspecified one is all of them.
    pub address: IpAddr,
}

/// Looks for strays again and again.
#[derive(Debug, Default)]
pub struct Lookout {
    /// Sockets that need no look: those of tasks that may have them, and, after some looks, those of
    /// no task. By their inodes, with the looks that are left.
    settled: BTreeMap<u64, u8>,
}

/// A socket that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listener {
    protocol: Protocol,
    address: IpAddr,
    port: u16,
    inode: u64,
}

impl Lookout {
    /// The tenants' sockets on ports that concern us and are not theirs, in the order of the tenants.
    /// Who the tenants are is asked only if there is a socket that is new. Blocks.
    ///
    /// A UDP socket on a port that the kernel chooses cannot be told from a client that waits for its
    /// answers, and is left out. Processes that end meanwhile listen nowhere.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn look(
        &mut self,
        concerns: impl Fn(u16) -> bool,
        tenants: impl FnOnce() -> Vec<Tenant>,
    ) -> Result<Vec<Stray>, NetworkError> {
        let mut all = listeners()?;
        all.retain(|listener| concerns(listener.port));
        let inodes: BTreeSet<u64> = all.iter().map(|listener| listener.inode).collect();
        self.settled.retain(|inode, _| inodes.contains(inode));
        all.retain(|listener| self.settled.get(&listener.inode) != Some(&0));
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let tenants = tenants();
        let owners = owners(&tenants, &inodes)?;
        let mut strays = Vec::new();
        for listener in all {
            let owner = owners.get(&listener.inode).copied();
            let may = |tenant: usize| has(&tenants[tenant].ports, listener.port);
            match owner {
                Some(tenant) if !may(tenant) => strays.push(Stray {
                    tenant,
                    protocol: listener.protocol,
                    port: listener.port,
                    address: listener.address,
                }),
                Some(_) => drop(self.settled.insert(listener.inode, 0)),
                None => {
                    let left = self.settled.entry(listener.inode).or_insert(LOOKS);
                    *left = left.saturating_sub(1);
                }
            }
        }
        strays.sort_by_key(|stray| (stray.tenant, stray.port));
        Ok(strays)
    }
}

/// Refuses a port of this namespace on which somebody listens already, on whatever address.
pub(crate) fn check_free(protocol: Protocol, port: u16) -> Result<(), NetworkError> {
    let listener = listeners()?.into_iter();
    let mut listener = listener.filter(|one| (one.protocol, one.port) == (protocol, port));
    listener.next().map_or(Ok(()), |taken| {
        Err(NetworkError::PortTaken {
            protocol,
            port,
            address: taken.address,
        })
    })
}

fn has(ports: &PortRanges, port: u16) -> bool {
    let mut ranges = ports.ranges().iter();
    ranges.any(|(first, last)| (first..=last).contains(&&port))
}

/// Which tenant has which of these sockets.
fn owners(
    tenants: &[Tenant],
    wanted: &BTreeSet<u64>,
) -> Result<BTreeMap<u64, usize>, NetworkError> {
    let mut owners = BTreeMap::new();
    for (place, tenant) in tenants.iter().enumerate() {
        for pid in &tenant.pids {
            let sockets = match sockets_of(*pid) {
                // One that does not let itself be looked at must not hide all others.
                Err(error) if error.is_denied() => continue,
                sockets => sockets?,
            };
            let theirs = sockets.into_iter().filter(|inode| wanted.contains(inode));
            owners.extend(theirs.map(|inode| (inode, place)));
        }
    }
    Ok(owners)
}

/// The inodes of a process's sockets; none if it has ended.
fn sockets_of(pid: u32) -> Result<Vec<u64>, NetworkError> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let mut inodes = Vec::new();
    let Some(entries) = living(&folder, fs::read_dir(&folder))? else {
        return Ok(inodes);
    };
    for entry in entries {
        let Some(entry) = living(&folder, entry)? else {
            break;
        };
        // It may have been closed since.
        let target = fs::read_link(entry.path()).unwrap_or_default();
        inodes.extend(target.to_str().and_then(socket_inode));
    }
    Ok(inodes)
}

/// What listens in this process's namespace, but for UDP on ports of the kernel's choice.
fn listeners() -> Result<Vec<Listener>, NetworkError> {
    let ephemeral = ephemeral()?;
    let mut listeners = Vec::new();
    for (table, protocol) in TABLES {
        let path = PathBuf::from(format!("/proc/thread-self/net/{table}"));
        // A kernel without IPv6 has no such table.
        let Some(file) = living(&path, File::open(&path))? else {
            continue;
        };
        // The first line names the columns.
        for line in BufReader::new(file).lines().skip(1) {
            let line = line.map_err(|source| NetworkError::io("read", &path, source))?;
            match listener(&line, protocol) {
                Some(listener) => listeners.push(listener),
                // Those that listen come first, and a machine may have connections by the 100,000
                // (Documentation/networking/proc_net_tcp.rst).
                None if protocol == Protocol::Tcp => break,
                None => {}
            }
        }
    }
    let is_client = |one: &Listener| one.protocol == Protocol::Udp && ephemeral.contains(&one.port);
    listeners.retain(|one| !is_client(one));
    Ok(listeners)
}

/// What was read, if its process has not ended meanwhile.
fn living<T>(path: &Path, read: io::Result<T>) -> Result<Option<T>, NetworkError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_end(&error) => Ok(None),
        Err(error) => Err(NetworkError::io("read", path, error)),
    }
}

fn is_end(error: &io::Error) -> bool {
    // A process that has ended and waits for its parent has no namespace any more, and the kernel
    // says ESRCH or EINVAL of its files.
    error.kind() == io::ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL))
}

fn ephemeral() -> Result<RangeInclusive<u16>, NetworkError> {
    let path = Path::new(EPHEMERAL);
    let io = |source| NetworkError::io("read", path, source);
    let text = fs::read_to_string(path).map_err(io)?;
    parse_range(&text).ok_or_else(|| io(io::Error::other("it holds no two ports")))
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ports = text.split_whitespace();
    Some(ports.next()?.parse().ok()?..=ports.next()?.parse().ok()?)
}

/// Of `socket:[123]`.
fn socket_inode(target: &str) -> Option<u64> {
    let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    inode.parse().ok()
}

/// The socket of a table's line, if it listens.
fn listener(line: &str, protocol: Protocol) -> Option<Listener> {
    let mut words = line.split_whitespace();
    let (local, state) = (words.nth(1)?, words.nth(1)?);
    let listens = match protocol {
        Protocol::Tcp => state == LISTENING,
        Protocol::Udp => state == UNCONNECTED,
    };
    let inode = words.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let listener = Listener {
        protocol,
        address: parse_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode,
    };
    listens.then_some(listener)
}

/// The kernel writes an address as numbers of 32 bits, each in the machine's own order of bytes.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let mut bytes = [0; 16];
    let (words, rest) = hex.as_bytes().as_chunks::<8>();
    if !rest.is_empty() || words.len() > 4 {
        return None;
    }
    for (word, bytes) in words.iter().zip(bytes.as_chunks_mut::<4>().0) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        *bytes = word.to_ne_bytes();
    }
    match words.len() {
        1 => Some(Ipv4Addr::from_octets([bytes[0], bytes[1], bytes[2], bytes[3]]).into()),
        4 => Some(Ipv6Addr::from_octets(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
    const TCP: &str = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31337 1 x 100 0 0 10 0";
    const TCP6: &str = "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 7 1 x 100 0 0 10 0";
    const UDP: &str = "  214: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 9 2 x 0";

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel_are_read() {
        let all = |line: &str, protocol| {
            let listener = listener(line, protocol)?;
            Some((listener.address.to_string(), listener.port, listener.inode))
        };
        let some = |address: &str, port, inode| Some((address.to_owned(), port, inode));
        assert_eq!(all(TCP, Protocol::Tcp), some("127.0.0.1", 8080, 31337));
        assert_eq!(all(TCP6, Protocol::Tcp), some("::1", 80, 7));
        assert_eq!(all(UDP, Protocol::Udp), some("0.0.0.0", 53, 9));
        assert_eq!(all(HEADER, Protocol::Tcp), None);
        let connected = TCP.replace(" 0A ", " 01 ");
        assert_eq!(all(&connected, Protocol::Tcp), None);
        let connected = UDP.replace(" 07 ", " 01 ");
        assert_eq!(all(&connected, Protocol::Udp), None);
    }

    #[test]
    fn a_cut_line_is_no_socket() {
        for end in 0..TCP.find("31337").unwrap() {
            assert_eq!(listener(&TCP[..end], Protocol::Tcp), None);
        }
        for bad in ["", "0100007", "0100007F0", "01000é7", "0100007F0100007F"] {
            assert_eq!(parse_address(bad), None, "{bad}");
        }
    }

    #[test]
    fn small_texts_of_proc_are_read() {
        assert_eq!(socket_inode("socket:[42]"), Some(42));
        for other in ["pipe:[42]", "/dev/null", "socket:[]", ""] {
            assert_eq!(socket_inode(other), None);
        }
        assert_eq!(parse_range("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse_range("1"), None);
    }
}
