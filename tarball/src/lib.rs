//! Reads tar archives, member by member: layers, saved images, and what tasks fetch.
//!
//! ustar, GNU long names and pax records are read. Names, links and extended attributes may hold any
//! bytes, a line feed as well: pax records are taken by their length. Nothing here touches a file
//! system, and nothing is believed: sizes of names and records are bounded, and who unpacks decides
//! what a name may be. Sparse files are refused; no builder of images writes them.

mod plain;

use std::io::{self, Read};

use tar::{EntryType, Header};

pub use plain::plain;

/// What headers and contents are padded to.
pub const BLOCK: u64 = 512;
/// A name or record block beyond this is no name: paths have at most 4 KiB, attributes 64 KiB each.
const MAX_RECORDS: u64 = 1024 * 1024;

/// One member of an archive.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub kind: Kind,
    /// Its path, as it is written.
    pub name: Vec<u8>,
    /// Where a link leads, as it is written.
    pub link: Vec<u8>,
    /// Bytes of a file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds, and nanoseconds of the second, of its last change.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a member is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    #[default]
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink,
    /// Another name of a member that came before.
    HardLink,
    /// A named pipe.
    Fifo,
    /// A device node, of blocks or characters.
    Device,
}

/// An archive being read. Reading from it reads the current member's bytes.
#[derive(Debug)]
pub struct Tarball<R> {
    input: R,
    /// Of the current member, not yet read.
    left: u64,
    /// Behind it, up to the next block.
    padding: u64,
}

/// What pax and GNU records say of the member that follows.
#[derive(Debug, Default)]
struct Records {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Whether an archive can begin like this: with a header, or with the zeros that close an empty one.
pub fn begins(block: &[u8; BLOCK as usize]) -> bool {
    let mut header = Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    block.iter().all(|byte| *byte == 0) || has_its_sum(&header)
}

fn has_its_sum(header: &Header) -> bool {
    // The sum takes its own eight bytes for blanks.
    let bytes = header.as_bytes().iter().enumerate();
    let sum: u32 = bytes
        .map(|(at, byte)| match at {
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        })
        .sum();
    header.cksum().is_ok_and(|stated| stated == sum)
}

impl<R: Read> Tarball<R> {
    /// Begins at the archive's first byte.
    pub fn new(input: R) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
        }
    }

    /// What is read from.
    pub fn get_ref(&self) -> &R {
        &self.input
    }

    /// What was read from, with everything that was not.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next member; none at the end. What was not read of the one before is skipped.
    ///
    /// # Errors
    /// `InvalidData` where the bytes are no archive, and whatever reading them yields.
    pub fn advance(&mut self) -> io::Result<Option<Member>> {
        let mut records = Records::default();
        let mut is_announced = false;
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return match is_announced {
                    true => Err(invalid("it ends before a member that it announces")),
                    false => Ok(None),
                };
            };
            is_announced = true;
            let size = header.entry_size()?;
            self.begin(size)?;
            match header.entry_type() {
                EntryType::XHeader => read_pax(&self.records()?, &mut records)?,
                EntryType::GNULongName => records.name = Some(until_nul(self.records()?)),
                EntryType::GNULongLink => records.link = Some(until_nul(self.records()?)),
                // Its records would hold for every member; those in use say nothing that matters.
                EntryType::XGlobalHeader => {}
                kind => return self.member(&header, kind, records).map(Some),
            }
        }
    }

    fn member(&mut self, header: &Header, kind: EntryType, records: Records) -> io::Result<Member> {
        let name = records.name.unwrap_or_else(|| header.path_bytes().into());
        let kind = match kind {
            // Old archives mark folders by the name alone.
            EntryType::Regular if name.ends_with(b"/") => Kind::Folder,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Folder,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device,
            EntryType::GNUSparse => return Err(invalid("sparse files are not read; pack it anew")),
            other => {
                let what = format!("a member of the unknown kind {:#x}", other.as_byte());
                return Err(invalid(what));
            }
        };
        let size = match records.size {
            Some(size) => {
                self.begin(size)?;
                size
            }
            None => self.left,
        };
        let old = header.as_old();
        let link = records
            .link
            .or_else(|| header.link_name_bytes().map(Into::into));
        Ok(Member {
            kind,
            name,
            link: link.unwrap_or_default(),
            size,
            mode: said(&old.mode, || header.mode().map(u64::from))? as u32 & 0o7777,
            uid: match records.uid {
                Some(uid) => uid,
                None => id(said(&old.uid, || header.uid())?)?,
            },
            gid: match records.gid {
                Some(gid) => gid,
                None => id(said(&old.gid, || header.gid())?)?,
            },
            mtime: match records.mtime {
                Some(time) => time,
                // Negative ones are written as huge ones.
                None => (said(&old.mtime, || header.mtime())? as i64, 0),
            },
            xattrs: records.xattrs,
        })
    }

    fn begin(&mut self, size: u64) -> io::Result<()> {
        let padding = size.wrapping_neg() % BLOCK;
        if size.checked_add(padding).is_none() {
            return Err(invalid("a member larger than any disk"));
        }
        (self.left, self.padding) = (size, padding);
        Ok(())
    }

    /// The next header; none at the two blocks of zeros, or where the input ends.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(invalid("it ends in the middle of a header")),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        match has_its_sum(&header) {
            true => Ok(Some(header)),
            false => Err(invalid(
                "a header's sum is wrong: it is no tar archive, or damaged",
            )),
        }
    }

    fn records(&mut self) -> io::Result<Vec<u8>> {
        if self.left > MAX_RECORDS {
            return Err(invalid(
                "a member's name and attributes take more than 1 MiB",
            ));
        }
        let mut bytes = vec![0; self.left as usize];
        self.input.read_exact(&mut bytes)?;
        self.left = 0;
        Ok(bytes)
    }

    /// Goes behind the current member. Where the input ends in its padding there is none to follow:
    /// umoci closes archives like that.
    fn skip(&mut self) -> io::Result<()> {
        let bytes = self.left + self.padding;
        let skipped = io::copy(&mut self.input.by_ref().take(bytes), &mut io::sink())?;
        if skipped < self.left {
            return Err(invalid("it ends in the middle of a member"));
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }
}

impl<R: Read> Read for Tarball<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = self.input.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(invalid("it ends in the middle of a member"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Records are `LENGTH KEY=VALUE\n`, the length counting all of it.
fn read_pax(mut bytes: &[u8], records: &mut Records) -> io::Result<()> {
    let malformed = || invalid("a pax record is malformed");
    while !bytes.is_empty() {
        let blank = bytes.iter().position(|byte| *byte == b' ');
        let blank = blank.ok_or_else(malformed)?;
        let length: usize = number(&bytes[..blank])?;
        if length <= blank + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(malformed());
        }
        let record = &bytes[blank + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=');
        let (key, value) = record.split_at(equals.ok_or_else(malformed)?);
        take_record(key, &value[1..], records)?;
        bytes = &bytes[length..];
    }
    Ok(())
}

fn take_record(key: &[u8], value: &[u8], records: &mut Records) -> io::Result<()> {
    match key {
        b"path" => records.name = Some(value.into()),
        b"linkpath" => records.link = Some(value.into()),
        b"size" => records.size = Some(number(value)?),
        b"uid" => records.uid = Some(id(number(value)?)?),
        b"gid" => records.gid = Some(id(number(value)?)?),
        b"mtime" => records.mtime = Some(time(value)?),
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                records.xattrs.push((name.into(), value.into()));
            }
            if key.starts_with(b"GNU.sparse.") {
                return Err(invalid("sparse files are not read; pack it anew"));
            }
        }
    }
    Ok(())
}

/// Seconds, perhaps negative, perhaps with a fraction.
fn time(value: &[u8]) -> io::Result<(i64, u32)> {
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(point) => (&value[..point], &value[point + 1..]),
        None => (value, &[][..]),
    };
    let seconds: i64 = number(whole)?;
    let digits = fraction
        .iter()
        .copied()
        .chain(std::iter::repeat(b'0'))
        .take(9);
    let nanos: u32 = number(&digits.collect::<Vec<u8>>())?;
    if whole.starts_with(b"-") && nanos > 0 {
        // -1.25 is three quarters after second -2.
        return Ok((seconds.saturating_sub(1), 1_000_000_000 - nanos));
    }
    Ok((seconds, nanos))
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> io::Result<T> {
    let text = std::str::from_utf8(digits).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| invalid("a number in it is malformed"))
}

/// A number of a header, which is nought where the field is empty.
fn said(field: &[u8], number: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
    let is_empty = field.iter().all(|byte| matches!(byte, 0 | b' '));
    if is_empty { Ok(0) } else { number() }
}

/// The last number is no owner: chown(2) takes it for "as it is".
fn id(id: u64) -> io::Result<u32> {
    let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| invalid("an owner's number is beyond 32 bits"))
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    bytes
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(bytes: &[u8]) -> io::Result<Vec<(Member, Vec<u8>)>> {
        let mut tarball = Tarball::new(bytes);
        let mut members = Vec::new();
        while let Some(member) = tarball.advance()? {
            let mut content = Vec::new();
            tarball.read_to_end(&mut content)?;
            members.push((member, content));
        }
        Ok(members)
    }

    fn archive(name: &str, content: &[u8], pax: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions(pax.iter().copied()).unwrap();
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o4755);
        header.set_mtime(7);
        builder.append_data(&mut header, name, content).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn long_names_and_contents_come_out_as_they_went_in() {
        let name = "a/".repeat(150) + "b";
        let members = members(&archive(&name, &[7; 1000], &[])).unwrap();
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].0.name, name.as_bytes());
        assert_eq!(members[0].0.mode, 0o4755);
        assert_eq!(members[0].0.mtime, (7, 0));
        assert_eq!(members[0].1, [7; 1000]);
    }

    #[test]
    fn pax_records_may_hold_line_feeds() {
        let capability = b"\x01\0\0\x02\n\0=\n\0\n".as_slice();
        let pax: [(&str, &[u8]); 4] = [
            ("SCHILY.xattr.security.capability", capability),
            ("uid", b"70000"),
            ("mtime", b"-1.25"),
            ("comment", b"x"),
        ];
        let members = members(&archive("a", b"x", &pax)).unwrap();
        let (member, _) = &members[0];
        let xattr = (b"security.capability".to_vec(), capability.to_vec());
        assert_eq!(member.xattrs, [xattr]);
        assert_eq!(member.uid, 70000);
        assert_eq!(member.mtime, (-2, 750_000_000));
    }

    #[test]
    fn what_is_cut_or_changed_is_refused_and_never_panics() {
        let whole = archive("a", &[1; 700], &[("path", b"b")]);
        // Records and their header, the member's header, and its bytes.
        let needed = 3 * BLOCK as usize + 700;
        for cut in 1..needed {
            assert!(members(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(members(&whole[..needed]).is_ok(), "as umoci writes it");
        let mut changed = whole.clone();
        changed[0] ^= 1;
        assert!(members(&changed).is_err(), "the sum does not fit");
        for record in [
            &b"5 a=b\n"[..],
            b"6 ab\n",
            b"99 a=b\n",
            b"6 a=bc",
            b"x a=b\n",
            b"0 a=b\n",
        ] {
            assert!(
                read_pax(record, &mut Records::default()).is_err(),
                "{record:?}"
            );
        }
        let sparse = archive("a", b"x", &[("GNU.sparse.major", b"1")]);
        assert!(members(&sparse).is_err());
        assert!(members(b"this is no archive, only text").is_err());
    }
}
