//! TensorBoard event files: TFRecord frames that hold `Event` messages.
//!
//! A frame is the length of its data as u64, the masked CRC-32C of those eight
//! bytes, the data, and its masked CRC-32C, all little-endian
//! (tensorflow/core/lib/io/record_writer). The few fields of
//! tensorflow/core/util/event.proto that are needed are encoded by hand.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use spin_store::StoreError;

use super::LogLine;
use crate::error::Result;

/// The name of an event file; TensorBoard looks for `tfevents` in it.
pub const FILE_NAME: &str = "events.out.tfevents.0.spin-fit";

/// CRC-32C (Castagnoli), reflected polynomial 0x82F63B78.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut value, mut bit) = (i as u32, 0);
            while bit < 8 {
                value = (value >> 1) ^ if value & 1 == 1 { 0x82F6_3B78 } else { 0 };
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| TABLE[((crc ^ u32::from(*byte)) & 0xFF) as usize] ^ (crc >> 8))
}

/// The checksum as TFRecord stores it: rotated and shifted, because a CRC of
/// data that holds its own CRC is weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

/// The length of the whole, undamaged frames at the beginning of a file.
fn whole_frames(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let word = |from: usize| Some(u32::from_le_bytes(bytes.get(from..from + 4)?.try_into().ok()?));
        let whole = || {
            let header = bytes.get(at..at + 8)?;
            let length = usize::try_from(u64::from_le_bytes(header.try_into().ok()?)).ok()?;
            let data = bytes.get(at + 12..at.checked_add(12)?.checked_add(length)?)?;
            let right = word(at + 8)? == masked_crc(header) && word(at + 12 + length)? == masked_crc(data);
            right.then_some(at + 16 + length)
        };
        match whole() {
            Some(next) => at = next,
            None => return at,
        }
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of wire type 2: bytes, text, or a message.
fn bytes_field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    varint(bytes.len() as u64, out);
    out.extend(bytes);
}

/// An `Event`: `wall_time` = 1, `step` = 2, and one field of `what`.
fn event(wall_time: f64, step: u64, what: (u8, &[u8])) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend(wall_time.to_le_bytes());
    // proto3 leaves zeros out.
    if step > 0 {
        out.push(2 << 3);
        varint(step, &mut out);
    }
    bytes_field(what.0, what.1, &mut out);
    frame(&out)
}

/// The first event of a file: `file_version` = 3.
fn version_event(wall_time: f64) -> Vec<u8> {
    event(wall_time, 0, (3, b"brain.Event:2"))
}

/// `session_log` = 7 with `status` = 1: START. TensorBoard then forgets what
/// it has read of this step and later ones.
fn restart_event(wall_time: f64, step: u64) -> Vec<u8> {
    event(wall_time, step, (7, &[1 << 3, 1]))
}

/// An update's numbers: `summary` = 5, of `value` = 1, each with `tag` = 1 and
/// `simple_value` = 2.
fn scalars_event(line: &LogLine) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, number) in line.scalars() {
        let mut value = Vec::new();
        bytes_field(1, tag.as_bytes(), &mut value);
        value.push(2 << 3 | 5);
        value.extend((number as f32).to_le_bytes());
        bytes_field(1, &value, &mut summary);
    }
    event(line.timing.wall_time, line.update.update as u64, (5, &summary))
}

/// A whole event file.
pub fn file_of(log: &[LogLine]) -> Vec<u8> {
    let start = log.first().map_or(0.0, |line| line.timing.wall_time);
    let mut bytes = version_event(start);
    log.iter().for_each(|line| bytes.extend(scalars_event(line)));
    bytes
}

/// An event file that grows while it is watched.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Opens a file to go on after `update` updates: a frame cut short by a
    /// kill is removed, and later updates, which will be made again, are
    /// withdrawn.
    ///
    /// # Errors
    /// When it cannot be read or written; likewise for the other methods.
    pub fn open(path: &Path, update: usize, wall_time: f64) -> Result<EventFile> {
        let failed = |e| StoreError::io("write", path)(e);
        let known = match std::fs::read(path) {
            Ok(bytes) => whole_frames(&bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(StoreError::io("read", path)(e).into()),
        };
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        file.set_len(known as u64).map_err(failed)?;
        let mut events = EventFile { path: path.into(), file };
        match known {
            0 => events.write(&version_event(wall_time))?,
            _ => events.write(&restart_event(wall_time, update as u64 + 1))?,
        }
        Ok(events)
    }

    /// Adds an update.
    ///
    /// # Errors
    /// As [`EventFile::open`].
    pub fn add(&mut self, line: &LogLine) -> Result<()> {
        self.write(&scalars_event(line))
    }

    fn write(&mut self, frame: &[u8]) -> Result<()> {
        Ok(self.file.write_all(frame).map_err(StoreError::io("write", &self.path))?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Timing, UpdateLog};
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, appendix B.4, and the check value of CRC-32C.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
    }

    #[test]
    fn the_first_frame_is_the_one_that_every_event_file_begins_with() {
        let bytes = version_event(1.5);
        // 24 bytes of data, and their well-known checksum.
        assert_eq!(bytes[..12], [0x18, 0, 0, 0, 0, 0, 0, 0, 0xA3, 0x7F, 0x4B, 0x22]);
        let data = [&[0x09, 0, 0, 0, 0, 0, 0, 0xF8, 0x3F, 0x1A, 13][..], b"brain.Event:2"].concat();
        assert_eq!(bytes[12..bytes.len() - 4], data);
        assert_eq!(whole_frames(&bytes), bytes.len());
    }

    fn line(update: usize, loss: f64) -> LogLine {
        LogLine {
            update: UpdateLog { update, loss, ..UpdateLog::default() },
            timing: Timing { wall_time: 100.0 + update as f64, ..Timing::default() },
        }
    }

    #[test]
    fn a_scalar_is_encoded_field_by_field() {
        let bytes = scalars_event(&line(300, 0.5));
        // Ending 300 as a varint, then the summary.
        assert_eq!(bytes[12 + 9..12 + 12], [0x10, 0xAC, 0x02]);
        let value = [&[0x0A, 0x11, 0x0A, 0x0A][..], b"train/loss", &[0x15, 0, 0, 0, 0x3F]].concat();
        assert!(bytes.windows(value.len()).any(|window| window == value), "{bytes:?}");
    }

    #[test]
    fn a_file_cut_short_goes_on_where_it_was_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let mut events = EventFile::open(&path, 0, 101.0).unwrap();
        events.add(&line(1, 0.5)).unwrap();
        events.add(&line(2, 0.25)).unwrap();
        let two = std::fs::read(&path).unwrap();
        assert_eq!(two, file_of(&[line(1, 0.5), line(2, 0.25)]));
        events.add(&line(3, 0.1)).unwrap();
        drop(events);
        let three = std::fs::read(&path).unwrap();
        std::fs::write(&path, &three[..three.len() - 5]).unwrap();
        drop(EventFile::open(&path, 1, 200.0).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), [two, restart_event(200.0, 2)].concat());
    }

    #[test]
    fn damage_is_seen_wherever_it_is() {
        let good = file_of(&[line(1, 0.5)]);
        let first = version_event(101.0).len();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            assert_eq!(whole_frames(&bad), if at < first { 0 } else { first }, "byte {at}");
        }
    }
}
