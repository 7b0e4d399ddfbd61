//! Tables and texts with the rows of an import.

use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Float64Array, RecordBatch, StringArray, StringDictionaryBuilder};
use arrow::datatypes::Int32Type;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::WriterProperties;
use spin_run::import;
use spin_run::records::{self, Budget, Files};
use spin_run::run::SourceConfig;
use spin_run::schema::{Demonstration, Message, Row as _};
use spin_store::{Context, Store};

use crate::{Target, read_as, shipped};

/// Bytes of one row and of all, as a run file sets them: far less than their defaults, so that what
/// unpacks to more than its size is seen to be bounded within the fuzzer's own bounds.
const ROW: u64 = 1 << 20;
const TOTAL: u64 = 16 << 20;

/// Reads all rows, then imports them.
fn read(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes)?;
    let mut source = SourceConfig::new(path);
    (source.max_row_bytes, source.max_bytes) = (Some(ROW), Some(TOTAL));
    let files = Files::at(path)?;
    let mut budget = Budget::new(&files.list, source.max_row_bytes, source.max_bytes);
    records::read(path, &[], &mut budget, &mut |_, record| {
        if let Ok(mut record) = record {
            let _ = record.take_id();
            drop(record.into_map());
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let root = path.with_file_name("store");
    let _ = fs::remove_dir_all(&root);
    let store = Store::open(&root)?;
    let recipe = import::demonstrations_recipe("a", &source, &files)?;
    read_as(import::demonstrations(&Context::silent(&store), &recipe, &source, &files))
}

fn target(dir: &Path, extension: &str, seeds: Vec<Vec<u8>>) -> Target {
    let path = dir.join(format!("rows.{extension}"));
    Target::new(seeds, move |bytes| read(&path, bytes))
}

const CHATS: &[u8] = br#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "id": 1}
{"messages": [{"role": "user", "content": "a\u00e9"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]}
"#;
const SHARES: &[u8] =
    br#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "row_id": "x"}"#;
const ALPACA: &[u8] = br#"[{"instruction": "a", "input": "", "output": "b"},
 {"instruction": "c", "input": "d", "output": "e", "instances": [{"input": "f", "output": "g"}]}]"#;

/// JSON lines, or a list where it begins as one; plain or packed.
pub fn jsonl(dir: &Path) -> anyhow::Result<Target> {
    let plain = fs::read_to_string(shipped("data/raw/demo/test.jsonl"))?;
    let plain: String = plain.split_inclusive('\n').take(30).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(CHATS)?;
    // What unpacks to a thousand times its size.
    let bomb = format!("{{\"prompt\": \"{}\", \"response\": \"b\"}}\n", "a".repeat(1 << 20)).repeat(4);
    let packed = [gzip.finish()?, zstd::encode_all(SHARES, 3)?, zstd::encode_all(bomb.as_bytes(), 3)?];
    let seeds = [plain.into_bytes(), CHATS.into(), SHARES.into(), ALPACA.into()].into_iter().chain(packed).collect();
    let (lines, list) = (dir.join("rows.jsonl"), dir.join("rows.json"));
    Ok(Target::new(seeds, move |bytes| {
        let is_list = bytes.trim_ascii_start().starts_with(b"[");
        read(if is_list { &list } else { &lines }, bytes)
    }))
}

pub fn csv(dir: &Path) -> Target {
    let rows = "\"a, \"\"b\"\"\",c\n\"d\ne\",f\n".repeat(9);
    target(dir, "csv", vec![format!("question,answer\n{rows}").into_bytes()])
}

/// Parquet of several encodings and codecs, and Arrow, which the same code reads.
pub fn parquet(dir: &Path) -> anyhow::Result<Target> {
    let message = |i: usize| vec![Message::user(format!("ask {i}"))];
    let row = |i| Demonstration { row_id: format!("{i}"), prompt: message(i), response: format!("say {i}") };
    let all: Vec<Demonstration> = (0..40).map(row).collect();
    let mut seeds = vec![Demonstration::encode_part(&PathBuf::from("x"), &all, "id", 0)?];
    let batch = table()?;
    for codec in
        [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::LZ4_RAW, Compression::GZIP(<_>::default())]
    {
        let properties = WriterProperties::builder().set_compression(codec);
        seeds.push(part(&batch, properties.set_dictionary_enabled(true).build())?);
    }
    for encoding in [Encoding::DELTA_BYTE_ARRAY, Encoding::DELTA_LENGTH_BYTE_ARRAY] {
        let properties = WriterProperties::builder().set_dictionary_enabled(false);
        seeds.push(part(&batch.project(&[0, 1])?, properties.set_encoding(encoding).build())?);
    }
    for packed in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        let options = IpcWriteOptions::default().try_with_compression(packed)?;
        let mut file = FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options)?;
        file.write(&batch)?;
        seeds.push(file.into_inner()?);
    }
    let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    stream.write(&batch)?;
    seeds.push(stream.into_inner()?);
    Ok(target(dir, "parquet", seeds))
}

fn table() -> anyhow::Result<RecordBatch> {
    let mut words = StringDictionaryBuilder::<Int32Type>::new();
    ["x", "y", "x"].into_iter().for_each(|word| words.append_value(word));
    let columns: [(&str, ArrayRef); 5] = [
        ("prompt", Arc::new(StringArray::from(vec!["ask a", "ask b", "ask c"]))),
        ("response", Arc::new(StringArray::from(vec!["say a", "say b", "say c"]))),
        ("bytes", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"a"), None, Some(b"\xff")]))),
        ("number", Arc::new(Float64Array::from(vec![Some(1.5), None, Some(f64::NAN)]))),
        ("word", Arc::new(words.finish())),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

fn part(batch: &RecordBatch, properties: WriterProperties) -> anyhow::Result<Vec<u8>> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
    writer.write(batch)?;
    Ok(writer.into_inner()?)
}
