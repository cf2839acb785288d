//! What archives are when they are not compressed.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

/// What a decoder of xz may take: what zstd's takes at most, and twice what `xz -9` needs.
const MAX_XZ_KIB: u32 = 128 * 1024;

/// Undoes gzip, zstd or xz; what is in none of them comes out as it is. By the first bytes, not by a
/// name or a media type: builders mislabel.
///
/// # Errors
/// Whatever reading the first bytes yields.
pub fn plain<'a>(mut input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = input.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(MultiGzDecoder::new(input)));
    }
    if start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        return Ok(Box::new(XzReader::new_mem_limit(input, true, MAX_XZ_KIB)));
    }
    // A frame, or a frame to be skipped, as those have that can be read from the middle.
    let skippable =
        start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18];
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable {
        return Ok(Box::new(zstd::Decoder::with_buffer(input)?));
    }
    Ok(Box::new(input))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<u8> {
        let mut read = Vec::new();
        plain(bytes).unwrap().read_to_end(&mut read).unwrap();
        read
    }

    #[test]
    fn several_frames_are_one_stream_whatever_they_are_in() {
        let gzip = |bytes: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let skipped = b"\x50\x2a\x4d\x18\x02\0\0\0xx".to_vec();
        for bytes in [
            b"first, second".to_vec(),
            [gzip(b"first, "), gzip(b"second")].concat(),
            [zstd(b"first, "), zstd(b"second")].concat(),
            [skipped.clone(), zstd(b"first, second"), skipped].concat(),
        ] {
            assert_eq!(read(&bytes), b"first, second");
        }
        assert_eq!(read(b""), b"");
    }
}
