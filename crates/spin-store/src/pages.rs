//! Parquet whose pages are looked at before they are decoded: a page of lengths says
//! itself how many there are, and the library makes room for as many.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, RowGroups};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_field_levels};
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::ChunkReader;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::SchemaDescriptor;

/// Values that a page may have at most where it begins with their lengths: a
/// quarter of a GiB of them. Writers end pages at a MiB or at thousands of rows.
const MOST: u64 = 1 << 26;

/// A Parquet file whose footer is read.
#[derive(Debug)]
pub struct Pages<T> {
    input: Arc<T>,
    metadata: ArrowReaderMetadata,
}

impl<T: ChunkReader + 'static> Pages<T> {
    /// Reads the footer.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(input: T) -> Result<Self> {
        let metadata = ArrowReaderMetadata::load(&input, ArrowReaderOptions::default())?;
        Ok(Pages { input: Arc::new(input), metadata })
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// The columns as Parquet has them, for masks.
    pub fn parquet_schema(&self) -> &SchemaDescriptor {
        self.metadata.parquet_schema()
    }

    /// What else the footer says.
    pub fn metadata(&self) -> &ParquetMetaData {
        self.metadata.metadata()
    }

    /// The rows, so many at a time.
    ///
    /// # Errors
    /// When columns are not what the footer says. Reading a page fails when it says
    /// that it has more lengths than values.
    pub fn rows(&self, mask: ProjectionMask, batch_size: usize) -> Result<ParquetRecordBatchReader> {
        // Room is made for a batch: no more than there are.
        let rows = usize::try_from(self.metadata().file_metadata().num_rows()).unwrap_or(0);
        let levels = parquet_to_arrow_field_levels(self.parquet_schema(), mask, Some(self.schema().fields()))?;
        ParquetRecordBatchReader::try_new_with_row_groups(&levels, self, batch_size.min(rows), None)
    }
}

impl<T: ChunkReader + 'static> RowGroups for Pages<T> {
    fn num_rows(&self) -> usize {
        self.row_groups().fold(0, |all, group| all.saturating_add(usize::try_from(group.num_rows()).unwrap_or(0)))
    }

    fn column_chunks(&self, column: usize) -> Result<Box<dyn PageIterator>> {
        Ok(Box::new(Chunks { input: self.input.clone(), metadata: self.metadata.metadata().clone(), column, group: 0 }))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(self.metadata().row_groups().iter())
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.metadata()
    }
}

/// A column's chunks, one after the other.
struct Chunks<T> {
    input: Arc<T>,
    metadata: Arc<ParquetMetaData>,
    column: usize,
    group: usize,
}

impl<T: ChunkReader + 'static> Iterator for Chunks<T> {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        let group = self.metadata.row_groups().get(self.group)?;
        self.group += 1;
        let chunk = group.column(self.column);
        let rows = usize::try_from(group.num_rows()).unwrap_or(0);
        let levels = (chunk.column_descr().max_rep_level(), chunk.column_descr().max_def_level());
        let pages = SerializedPageReader::new(self.input.clone(), chunk, rows, None);
        Some(pages.map(|pages| Box::new(Looked { pages, levels }) as Box<dyn PageReader>))
    }
}

impl<T: ChunkReader + 'static> PageIterator for Chunks<T> {}

/// Pages that are looked at.
struct Looked<T: ChunkReader> {
    pages: SerializedPageReader<T>,
    /// The highest levels of repetition and definition.
    levels: (i16, i16),
}

impl<T: ChunkReader> Looked<T> {
    fn look(&self, page: Page) -> Result<Page> {
        let Some((said, values)) = lengths(&page, self.levels) else { return Ok(page) };
        match said > most_of(values) {
            true => Err(ParquetError::General(format!("a page of {values} values says that it has {said} lengths"))),
            false => Ok(page),
        }
    }
}

impl<T: ChunkReader> Iterator for Looked<T> {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl<T: ChunkReader> PageReader for Looked<T> {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.pages.get_next_page()?.map(|page| self.look(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.pages.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        self.pages.take_deferred_dictionary()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

/// How many lengths a page of so many values may say that it has.
fn most_of(values: u32) -> u64 {
    u64::from(values).min(MOST)
}

/// How many lengths a page says that it begins with, the most of its lists, and how many
/// values it has; `None` where it has no such lists, or they cannot be found: then it
/// is for the decoder to say what is wrong.
fn lengths(page: &Page, (repetition, definition): (i16, i16)) -> Option<(u64, u32)> {
    let (buf, encoding, values, start) = match page {
        Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, .. } => {
            let mut start = 0;
            for (most, of) in [(repetition, *rep_level_encoding), (definition, *def_level_encoding)] {
                start += levels_len(buf.get(start..)?, most, of, *num_values)?;
            }
            (buf, *encoding, *num_values, start)
        }
        Page::DataPageV2 { buf, num_values, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => {
            (buf, *encoding, *num_values, *def_levels_byte_len as usize + *rep_levels_byte_len as usize)
        }
        Page::DictionaryPage { .. } => return None,
    };
    let lists = match encoding {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        // Lengths of beginnings, then of ends.
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => return None,
    };
    let (mut rest, mut most) = (buf.slice(start.min(buf.len())..), 0);
    for _ in 0..lists {
        let list = Deltas::of(&rest)?;
        most = most.max(list.count);
        // More of them need not be looked for.
        if list.count > most_of(values) {
            break;
        }
        let Some(end) = list.end(&rest) else { break };
        rest = rest.slice(end.min(rest.len())..);
    }
    Some((most, values))
}

/// Bytes of the levels before the values of a page of the first version.
#[expect(deprecated, reason = "old files have bit-packed levels")]
fn levels_len(buf: &[u8], most: i16, encoding: Encoding, values: u32) -> Option<usize> {
    if most == 0 {
        return Some(0);
    }
    match encoding {
        Encoding::RLE => Some(4 + u32::from_le_bytes(*buf.first_chunk()?) as usize),
        Encoding::BIT_PACKED => {
            let bits = u64::from(i16::BITS - most.leading_zeros());
            usize::try_from((u64::from(values) * bits).div_ceil(8)).ok()
        }
        _ => None,
    }
}

/// The head of a list of numbers in the encoding DELTA_BINARY_PACKED.
struct Deltas {
    /// Numbers of a block, and into how many parts it is cut.
    block: u64,
    parts: u64,
    /// Numbers in all.
    count: u64,
    /// Where the head ends.
    end: usize,
}

impl Deltas {
    fn of(buf: &Bytes) -> Option<Deltas> {
        let mut at = 0;
        let [block, parts, count, _first] = [(); 4].map(|()| varint(buf, &mut at));
        Some(Deltas { block: block?, parts: parts?, count: count?, end: at })
    }

    /// Where the list ends; `None` where it does not, or its head makes no sense.
    fn end(&self, buf: &Bytes) -> Option<usize> {
        if self.parts == 0 || self.block == 0 || !self.block.is_multiple_of(self.parts) {
            return None;
        }
        let each = self.block / self.parts;
        let (mut at, mut left) = (self.end, self.count.saturating_sub(1));
        while left > 0 {
            varint(buf, &mut at)?;
            let widths = buf.get(at..at.checked_add(usize::try_from(self.parts).ok()?)?)?;
            at += widths.len();
            for width in widths {
                // The last parts have nothing, whatever their width.
                if left == 0 {
                    break;
                }
                left = left.saturating_sub(each);
                let bytes = u64::from(*width).checked_mul(each)? / 8;
                at = at.checked_add(usize::try_from(bytes).ok()?)?;
            }
        }
        Some(at)
    }
}

/// A number of seven bits a byte.
fn varint(buf: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *buf.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::{WriterProperties, WriterVersion};

    use super::*;

    fn written(encoding: Encoding, version: WriterVersion, rows: usize) -> (RecordBatch, Vec<u8>) {
        let values = (0..rows).map(|i| (i % 7 != 3).then(|| format!("value {} of {i}", i % 5)));
        let column: ArrayRef = Arc::new(StringArray::from_iter(values));
        let batch = RecordBatch::try_from_iter_with_nullable([("text", column, true)]).unwrap();
        let properties = WriterProperties::builder()
            .set_encoding(encoding)
            .set_dictionary_enabled(false)
            .set_writer_version(version)
            .set_write_batch_size(64)
            .set_data_page_row_count_limit(400)
            .build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        (batch, bytes)
    }

    fn read(bytes: Vec<u8>) -> Result<Vec<RecordBatch>> {
        let pages = Pages::open(Bytes::from(bytes))?;
        Ok(pages.rows(ProjectionMask::all(), 100)?.collect::<std::result::Result<_, _>>()?)
    }

    #[test]
    fn what_writers_write_is_read_and_lists_are_found() {
        for encoding in [Encoding::DELTA_BYTE_ARRAY, Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::PLAIN] {
            for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
                let (batch, bytes) = written(encoding, version, 1000);
                let batches = read(bytes.clone()).unwrap();
                assert_eq!(arrow::compute::concat_batches(&batch.schema(), &batches).unwrap(), batch);
                let pages = Pages::open(Bytes::from(bytes)).unwrap();
                let mut looked = 0;
                for reader in pages.column_chunks(0).unwrap() {
                    for page in reader.unwrap() {
                        let Some((said, values)) = lengths(&page.unwrap(), (0, 1)) else { continue };
                        assert!(said > 0 && said < u64::from(values), "{said} of {values}: some are null");
                        looked += 1;
                    }
                }
                assert_eq!(looked > 1, encoding != Encoding::PLAIN, "{encoding} {version:?}: {looked}");
            }
        }
    }

    /// A list that says of itself that it has more numbers than there is memory for, first or second.
    #[test]
    fn a_page_with_more_lengths_than_values_is_refused() {
        let list = |count: u64| {
            let mut list = vec![0x80, 0x01, 0x04];
            let mut rest = count;
            loop {
                list.push((rest & 0x7f) as u8 | if rest > 0x7f { 0x80 } else { 0 });
                rest >>= 7;
                if rest == 0 {
                    break;
                }
            }
            // The first number; then nothing, as a list of one has no blocks.
            list.push(0);
            list
        };
        let page = |lists: &[u64], encoding| Page::DataPageV2 {
            buf: lists.iter().flat_map(|count| list(*count)).collect::<Vec<u8>>().into(),
            num_values: 9,
            encoding,
            num_nulls: 0,
            num_rows: 9,
            def_levels_byte_len: 0,
            rep_levels_byte_len: 0,
            is_compressed: false,
            statistics: None,
        };
        let huge = 0x003d_ffff_ffe7_ffff;
        let said = |lists: &[u64], encoding| lengths(&page(lists, encoding), (0, 0)).map(|(said, _)| said);
        assert_eq!(said(&[1, 1], Encoding::DELTA_BYTE_ARRAY), Some(1));
        assert_eq!(said(&[huge, 1], Encoding::DELTA_BYTE_ARRAY), Some(huge));
        assert_eq!(said(&[1, huge], Encoding::DELTA_BYTE_ARRAY), Some(huge));
        assert_eq!(said(&[huge], Encoding::DELTA_LENGTH_BYTE_ARRAY), Some(huge));
        assert_eq!(said(&[huge], Encoding::PLAIN), None);
        // In a file: the first list of a page of values one to nine is made to say so.
        let (_, mut bytes) = written(Encoding::DELTA_LENGTH_BYTE_ARRAY, WriterVersion::PARQUET_2_0, 120);
        let head = [0x80, 0x01, 0x04, 103];
        let at = bytes.windows(4).position(|window| window == head).expect("the head of its list");
        bytes[at + 3] = 121;
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains("a page of 120 values says that it has 121 lengths"), "{error}");
    }
}
