//! Arrow's own files. Its readers make room for whatever a file says of itself, so that is
//! compared with the file's size, and with the budget, before they see it.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::ipc::reader::{FileReader, StreamReader, read_footer_length};
use arrow::ipc::{Block, MessageHeader, root_as_footer, root_as_message};

use super::arrow::{guarded, hand_out};
use super::bytes::Input;
use super::{Budget, Each};
use spin_store::error::{Result, StoreError};

/// What stands before the length of a message, in all but the oldest files.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Bytes of a footer's length and of the magic after it.
const TRAILER: u64 = 10;
/// Bytes before a packed buffer: how many it unpacks to.
const PREFIX: u64 = 8;

/// A file by what it says of itself.
struct Declared<'a> {
    file: &'a mut File,
    /// Bytes of it.
    length: u64,
}

/// What of a message stays in memory: dictionaries until the end, rows until the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Dictionary,
    Rows,
}

impl<'a> Declared<'a> {
    fn of(file: &'a mut File) -> Result<Self, String> {
        let length = file.metadata().map_err(|e| e.to_string())?.len();
        Ok(Declared { file, length })
    }

    /// Reads `count` bytes from `start`.
    fn bytes(&mut self, start: u64, count: u64) -> Result<Vec<u8>, String> {
        self.within(start, count)?;
        let mut bytes = Vec::new();
        let read = self.file.seek(SeekFrom::Start(start)).and_then(|_| self.file.take(count).read_to_end(&mut bytes));
        match read {
            Ok(read) if read as u64 == count => Ok(bytes),
            Ok(_) => Err("it ends early".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn within(&self, start: u64, count: u64) -> Result<(), String> {
        match start.checked_add(count) {
            Some(end) if end <= self.length => Ok(()),
            _ => Err(format!("it speaks of {count} bytes from byte {start} on and has {} in all", self.length)),
        }
    }

    /// Most bytes that its packed buffers say to unpack to at a time.
    fn unpacked(&mut self, is_file: bool) -> Result<u64, String> {
        let (mut dictionaries, mut rows) = (0_u64, 0_u64);
        let mut add = |(keeps, bytes)| match keeps {
            Keeps::Dictionary => dictionaries = dictionaries.saturating_add(bytes),
            Keeps::Rows => rows = rows.max(bytes),
        };
        if is_file {
            for (start, head, body) in self.blocks()? {
                self.within(start, head)?;
                let message = self.bytes(start, head)?;
                let prefix = if message.starts_with(&CONTINUATION) { 8 } else { 4 };
                let message = message.get(prefix..).ok_or("a message is shorter than its length")?;
                add(self.message(message, start + head, Some(body))?.0);
            }
        } else {
            let mut at = 0;
            while let Some((start, head)) = self.next(at)? {
                let message = self.bytes(start, head)?;
                let (one, body) = self.message(&message, start + head, None)?;
                add(one);
                at = start + head + body;
            }
        }
        Ok(dictionaries.saturating_add(rows))
    }

    /// Where the footer of a file says that its messages lie: start, bytes of the message, of its body.
    fn blocks(&mut self) -> Result<Vec<(u64, u64, u64)>, String> {
        let end = self.length.checked_sub(TRAILER).ok_or("it is shorter than a footer")?;
        let trailer = self.bytes(end, TRAILER)?.try_into().map_err(|_| "it ends early")?;
        let length = read_footer_length(trailer).map_err(|e| e.to_string())? as u64;
        let start = end.checked_sub(length).ok_or_else(|| format!("its footer of {length} bytes is longer than it"))?;
        let bytes = self.bytes(start, length)?;
        let footer = root_as_footer(&bytes).map_err(|e| format!("its footer is none ({e})"))?;
        let place = |block: &Block| {
            let size = |bytes: i64| u64::try_from(bytes).map_err(|_| "a length is negative".to_owned());
            Ok((size(block.offset())?, size(block.metaDataLength().into())?, size(block.bodyLength())?))
        };
        footer
            .dictionaries()
            .into_iter()
            .flatten()
            .chain(footer.recordBatches().into_iter().flatten())
            .map(place)
            .collect()
    }

    /// Where the next message of a stream begins, and its bytes.
    fn next(&mut self, at: u64) -> Result<Option<(u64, u64)>, String> {
        if at == self.length {
            return Ok(None);
        }
        let mut start = at + 4;
        let mut length = self.bytes(at, 4)?;
        if length == CONTINUATION {
            length = self.bytes(start, 4)?;
            start += 4;
        }
        let length = i32::from_le_bytes(length.try_into().map_err(|_| "it ends early")?);
        let length = u64::try_from(length).map_err(|_| "a length is negative")?;
        Ok((length > 0).then_some((start, length)))
    }

    /// What a message unpacks to, and the bytes of its body, which `body` knows of a file.
    fn message(&mut self, message: &[u8], start: u64, body: Option<u64>) -> Result<((Keeps, u64), u64), String> {
        let message = root_as_message(message).map_err(|e| format!("a message is none ({e})"))?;
        let own = u64::try_from(message.bodyLength()).map_err(|_| "a length is negative")?;
        let body = body.unwrap_or(own);
        self.within(start, body)?;
        let (keeps, batch) = match message.header_type() {
            MessageHeader::DictionaryBatch => {
                (Keeps::Dictionary, message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data()))
            }
            _ => (Keeps::Rows, message.header_as_record_batch()),
        };
        let packed = batch.filter(|batch| batch.compression().is_some()).and_then(|batch| batch.buffers());
        let mut unpacked = 0_u64;
        for buffer in packed.into_iter().flatten() {
            let size = |bytes: i64| u64::try_from(bytes).map_err(|_| "a length is negative");
            let (offset, length) = (size(buffer.offset())?, size(buffer.length())?);
            if length < PREFIX {
                continue;
            }
            let prefix = self.bytes(start.saturating_add(offset), PREFIX)?.try_into().map_err(|_| "it ends early")?;
            // -1 stands for what is not packed.
            unpacked = unpacked.saturating_add(u64::try_from(i64::from_le_bytes(prefix)).unwrap_or(0));
        }
        Ok(((keeps, unpacked), body))
    }
}

/// Reads Arrow's IPC, as `datasets` saves it (a stream) or as a Feather file.
pub(super) fn read(mut input: Input, wanted: &[&str], budget: &mut Budget, each: &mut Each) -> Result<String> {
    let path = input.path.clone();
    let damaged = |e: &dyn std::fmt::Display| StoreError::unreadable(&path, "Arrow", e);
    let mut head = [0; 6];
    let is_file = input.file.read_exact(&mut head).is_ok() && &head == b"ARROW1";
    let unpacked = Declared::of(&mut input.file).and_then(|mut declared| declared.unpacked(is_file));
    if unpacked.map_err(|e| damaged(&e))? > budget.total {
        return Err(budget.exceeded(&path));
    }
    input.file.rewind().map_err(StoreError::io("read", &path))?;
    let file = BufReader::new(input.file.try_clone().map_err(StoreError::io("read", &path))?);
    type Batches = Box<dyn Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>>>;
    let open = || -> Result<(Arc<Schema>, Batches), arrow::error::ArrowError> {
        if is_file {
            let reader = FileReader::try_new(file, None)?;
            Ok((reader.schema(), Box::new(reader)))
        } else {
            let reader = StreamReader::try_new(file, None)?;
            Ok((reader.schema(), Box::new(reader)))
        }
    };
    let (schema, mut batches) = guarded(open).map_err(|e| damaged(&e))?.map_err(|e| damaged(&e))?;
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    super::unique(&path, &names, wanted)?;
    let mut first = 0;
    while let Some(batch) = guarded(|| batches.next()).map_err(|e| damaged(&e))? {
        let mut batch = batch.map_err(|e| damaged(&e))?;
        if !wanted.is_empty() {
            let all = schema.fields().iter().enumerate();
            let columns: Vec<_> = all.filter(|(_, f)| wanted.contains(&f.name().as_str())).map(|(i, _)| i).collect();
            batch = batch.project(&columns).map_err(|e| damaged(&e))?;
        }
        if !hand_out(&input, &schema, &batch, first, budget, each)? {
            break;
        }
        first += batch.num_rows();
    }
    drop(batches);
    input.finish()
}
