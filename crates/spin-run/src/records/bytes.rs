//! A file's bytes: hashed while they are read, unpacked, and made sure to be
//! UTF-8's.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::source::{ending, not_a_file};
use spin_store::error::{Result, StoreError};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// One JSON object per line.
    Lines,
    /// A JSON list, or one object per line.
    Json,
    /// Separated values with a header.
    Csv(u8),
    /// Parquet.
    Parquet,
    /// Arrow's IPC, a stream or a file.
    Arrow,
}

/// An opened regular file.
pub(super) struct Input {
    pub(super) path: PathBuf,
    pub(super) file: File,
    meta: Metadata,
}

const BUFFER: usize = 128 << 10;

impl Input {
    pub(super) fn open(path: &Path) -> Result<Input> {
        // Looked at before it is opened: opening a pipe waits for a writer.
        let meta = path.metadata().map_err(StoreError::io("open", path))?;
        if !meta.is_file() {
            return Err(not_a_file(path, &meta));
        }
        let file = File::open(path).map_err(StoreError::io("open", path))?;
        let meta = file.metadata().map_err(StoreError::io("read", path))?;
        if !meta.is_file() {
            return Err(not_a_file(path, &meta));
        }
        Ok(Input { path: path.into(), file, meta })
    }

    fn head(&mut self) -> Result<Vec<u8>> {
        let mut head = Vec::new();
        self.file
            .by_ref()
            .take(8)
            .read_to_end(&mut head)
            .and_then(|_| self.file.rewind())
            .map_err(StoreError::io("read", &self.path))?;
        Ok(head)
    }

    /// By the first bytes where they tell, else by the name.
    pub(super) fn format(&mut self) -> Result<Format> {
        let head = self.head()?;
        if head.starts_with(b"PAR1") {
            return Ok(Format::Parquet);
        }
        if head.starts_with(b"ARROW1") || head.starts_with(&[0xff; 4]) {
            return Ok(Format::Arrow);
        }
        Ok(match ending(&self.path).as_str() {
            "parquet" => Format::Parquet,
            "arrow" | "feather" => Format::Arrow,
            "json" => Format::Json,
            "csv" => Format::Csv(b','),
            "tsv" | "tab" => Format::Csv(b'\t'),
            _ => Format::Lines,
        })
    }

    /// Digest of the whole file, which must not have changed since it was
    /// opened: for formats that are not read from front to back.
    pub(super) fn finish(mut self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| hasher.update_reader(&self.file).map(|_| ()))
            .map_err(StoreError::io("read", &self.path))?;
        unchanged(&self.path, &self.file, &self.meta)?;
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The file as text.
    pub(super) fn into_text(self) -> Result<Text> {
        Text::new(self)
    }
}

/// Any write sets the time of change, which no program can set back.
fn unchanged(path: &Path, file: &File, before: &Metadata) -> Result<()> {
    let now = file.metadata().map_err(StoreError::io("read", path))?;
    let print = |m: &Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    if print(&now) == print(before) { Ok(()) } else { Err(changed(path)) }
}

/// A file that is not what it was a moment ago.
pub(crate) fn changed(path: &Path) -> StoreError {
    StoreError::corrupt(path, "changed while it was read", "wait until it is written, then run this again")
}

/// The file's raw bytes, hashed as they pass.
#[derive(Clone)]
struct Tap(Rc<RefCell<(File, blake3::Hasher)>>);

impl Read for Tap {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let mut tapped = self.0.borrow_mut();
        let n = tapped.0.read(buf)?;
        tapped.1.update(&buf[..n]);
        Ok(n)
    }
}

/// Unpacked text without a byte order mark.
pub(super) struct Text {
    pub(super) path: PathBuf,
    pub(super) reader: Box<dyn BufRead>,
    packed: Option<&'static str>,
    tap: Tap,
    meta: Metadata,
}

impl Text {
    fn new(input: Input) -> Result<Text> {
        let Input { path, file, meta } = input;
        let tap = Tap(Rc::new(RefCell::new((file, blake3::Hasher::new()))));
        let mut raw = BufReader::with_capacity(BUFFER, tap.clone());
        let head: Vec<u8> = raw.fill_buf().map_err(StoreError::io("read", &path))?.iter().take(8).copied().collect();
        let archive = match head.as_slice() {
            [b'P', b'K', 3, 4, ..] => Some("a zip archive"),
            [b'B', b'Z', b'h', ..] => Some("packed with bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("packed with xz"),
            [b'7', b'z', 0xbc, 0xaf, ..] => Some("a 7z archive"),
            _ => None,
        };
        if let Some(archive) = archive {
            return Err(StoreError::corrupt(
                &path,
                format!("is {archive}"),
                "unpack it; gzip and zstd are read as they are",
            ));
        }
        let (packed, reader): (_, Box<dyn BufRead>) = match head.as_slice() {
            [0x1f, 0x8b, ..] => {
                let unpacked = flate2::bufread::MultiGzDecoder::new(raw);
                (Some("gzip"), Box::new(BufReader::with_capacity(BUFFER, unpacked)))
            }
            // A frame, or one to be skipped before it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let unpacked =
                    zstd::stream::read::Decoder::with_buffer(raw).map_err(StoreError::io("unpack", &path))?;
                (Some("zstd"), Box::new(BufReader::with_capacity(BUFFER, unpacked)))
            }
            _ => (None, Box::new(raw)),
        };
        let mut text = Text { path, reader, packed, tap, meta };
        text.skip_mark()?;
        Ok(text)
    }

    /// Skips UTF-8's byte order mark and names other encodings.
    fn skip_mark(&mut self) -> Result<()> {
        let mut head = Vec::new();
        let read = self.reader.by_ref().take(4).read_to_end(&mut head);
        read.map_err(self.failure())?;
        let encoding = match head.as_slice() {
            [0xff, 0xfe, 0, 0] => Some("UTF-32LE"),
            [0, 0, 0xfe, 0xff] => Some("UTF-32BE"),
            [0xff, 0xfe, ..] => Some("UTF-16LE"),
            [0xfe, 0xff, ..] => Some("UTF-16BE"),
            [a, 0, 0, 0] if *a != 0 => Some("UTF-32LE"),
            [0, 0, 0, a] if *a != 0 => Some("UTF-32BE"),
            [a, 0, b, 0] if *a != 0 && *b != 0 => Some("UTF-16LE"),
            [0, a, 0, b] if *a != 0 && *b != 0 => Some("UTF-16BE"),
            _ => None,
        };
        if let Some(encoding) = encoding {
            return Err(StoreError::corrupt(
                &self.path,
                format!("is text in {encoding}, not UTF-8"),
                format!("convert it: iconv -f {} -t UTF-8", encoding.trim_end_matches(['L', 'B', 'E'])),
            ));
        }
        if head.starts_with(&[0xef, 0xbb, 0xbf]) {
            head.drain(..3);
        }
        let rest = std::mem::replace(&mut self.reader, Box::new(std::io::empty()));
        self.reader = Box::new(Cursor::new(head).chain(rest));
        Ok(())
    }

    /// Turns an error of reading into ours: a packed file that does not unpack
    /// is the file's fault, anything else the machine's.
    pub(super) fn failure(&self) -> impl Fn(std::io::Error) -> StoreError + use<> {
        let (path, packed) = (self.path.clone(), self.packed);
        move |error| failed(&path, packed, error)
    }

    /// Reads what is left of the raw bytes, for the digest of all.
    pub(super) fn finish(self) -> Result<String> {
        let Text { path, mut tap, meta, .. } = self;
        std::io::copy(&mut tap, &mut std::io::sink()).map_err(StoreError::io("read", &path))?;
        let tapped = tap.0.borrow();
        unchanged(&path, &tapped.0, &meta)?;
        Ok(tapped.1.finalize().to_hex().to_string())
    }
}

fn failed(path: &Path, packed: Option<&'static str>, error: std::io::Error) -> StoreError {
    match (packed, error.kind()) {
        (Some(packed), ErrorKind::UnexpectedEof) => StoreError::corrupt(
            path,
            format!("ends in the middle of its {packed} data"),
            "is it complete? copy it again",
        ),
        (Some(packed), _) => {
            StoreError::corrupt(path, format!("cannot be unpacked as {packed} ({error})"), "copy or make it again")
        }
        (None, _) => StoreError::io("read", path)(error),
    }
}

/// A whole text file, of at most `most` bytes, unpacked, without a byte order
/// mark; and the digest of the file.
///
/// # Errors
/// As [`super::read`], and when it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<(String, String)> {
    let mut text = Input::open(path)?.into_text()?;
    let mut bytes = Vec::new();
    let failure = text.failure();
    text.reader.by_ref().take(most + 1).read_to_end(&mut bytes).map_err(failure)?;
    if bytes.len() as u64 > most {
        return Err(StoreError::corrupt(path, format!("has more than {most} bytes of text"), "split it"));
    }
    let digest = text.finish()?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        StoreError::corrupt(path, not_utf8(e.as_bytes(), at), CONVERT)
    })?;
    Ok((text, digest))
}

/// The remedy for text that is not UTF-8.
pub(super) const CONVERT: &str = "convert it: iconv -f WINDOWS-1252 -t UTF-8, or from whatever it is";

/// In words: the byte at `at` of a text is not UTF-8.
pub(super) fn not_utf8(bytes: &[u8], at: usize) -> String {
    format!("is not UTF-8 (byte {:#04x} at {at}; Latin-1 or Windows-1252?)", bytes.get(at).copied().unwrap_or_default())
}
