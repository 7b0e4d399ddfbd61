//! What files say, however they are written.

use std::collections::HashMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, DictionaryArray, FixedSizeBinaryArray, FixedSizeListArray,
    Float32Array, Int32Array, Int64Array, LargeBinaryArray, LargeListArray, LargeStringArray, ListArray, ListViewArray,
    RecordBatch, RunArray, StringArray, StringViewArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use arrow::ipc::reader::read_footer_length;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow::ipc::{CompressionType, root_as_footer};
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use super::{Bad, Budget, files, read};
use spin_store::digest;
use spin_store::error::Result;

type Rows = Vec<(usize, std::result::Result<Value, Bad>)>;

fn rows_within(path: &Path, wanted: &[&str], row: Option<u64>, total: Option<u64>) -> Result<Rows> {
    let mut out = Vec::new();
    for file in files(path)? {
        let mut budget = Budget::new(std::slice::from_ref(&file), row, total);
        let content = read(&file.path, wanted, &mut budget, &mut |row, record| {
            out.push((row, record.map(|r| Value::Object(r.into_map()))));
            Ok(ControlFlow::Continue(()))
        })?;
        assert_eq!(content, digest::of_file(&file.path).unwrap().0);
    }
    Ok(out)
}

fn rows(path: &Path) -> Result<Rows> {
    rows_within(path, &[], None, None)
}

fn good(path: &Path) -> Vec<Value> {
    rows(path).unwrap().into_iter().map(|(_, row)| row.unwrap()).collect()
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Dir(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn marks_packers_and_line_ends_change_nothing() {
    let dir = Dir::new();
    let values =
        vec![json!({"a": "x\u{e9}\n", "b": 1}), json!({"a": "", "b": null}), json!({"a": "\u{feff}", "b": [1.5]})];
    let lines = |end: &str| values.iter().map(|v| format!("{v}{end}")).collect::<String>();
    let list = serde_json::to_string_pretty(&values).unwrap();
    let csv = "a,b\r\n\"x\u{e9}\n\",1\n,\n\"q\"\"t\",\"u,v\"\n";
    let of_csv = vec![json!({"a": "x\u{e9}\n", "b": "1"}), json!({"a": "", "b": ""}), json!({"a": "q\"t", "b": "u,v"})];
    let cases = [
        ("t.jsonl", lines("\n"), &values),
        ("t.jsonl", lines("\r\n"), &values),
        ("t.jsonl", format!("\n  \n{}", lines("\n\n")), &values),
        ("t.jsonl", lines("\n").trim_end().to_owned(), &values),
        ("t.json", lines("\n"), &values),
        ("t.json", list.clone(), &values),
        ("t.json", format!("\n \n{}\n", list.replace('\n', "\r\n")), &values),
        ("t.csv", csv.to_owned(), &of_csv),
        ("t.tsv", csv.replace(',', "\t").replace("u\tv", "u,v"), &of_csv),
    ];
    for (name, text, wanted) in cases {
        for mark in ["", "\u{feff}"] {
            let bytes = format!("{mark}{text}").into_bytes();
            let two = bytes.len() / 2;
            let packed = [
                (name.to_owned(), bytes.clone()),
                (format!("{name}.gz"), gzip(&bytes)),
                // Members one after another, as `cat a.gz b.gz` makes them.
                (format!("{name}.gz"), [gzip(&bytes[..two]), gzip(&bytes[two..])].concat()),
                (format!("{name}.zst"), zstd::encode_all(&bytes[..], 1).unwrap()),
                (
                    format!("{name}.zst"),
                    [zstd::encode_all(&bytes[..two], 1).unwrap(), zstd::encode_all(&bytes[two..], 1).unwrap()].concat(),
                ),
            ];
            for (name, bytes) in packed {
                assert_eq!(&good(&dir.file(&name, bytes)), wanted, "{name} of {text:?}");
            }
        }
    }
}

#[test]
fn other_encodings_and_archives_are_named() {
    let dir = Dir::new();
    let text = "{\"a\": \"caf\u{e9}\"}\n";
    let wide = |big: bool| -> Vec<u8> {
        text.encode_utf16().flat_map(|u| if big { u.to_be_bytes() } else { u.to_le_bytes() }).collect()
    };
    let wider: Vec<u8> = text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
    for (bytes, part) in [
        ([vec![0xff, 0xfe], wide(false)].concat(), "UTF-16LE"),
        ([vec![0xfe, 0xff], wide(true)].concat(), "UTF-16BE"),
        (wide(false), "UTF-16LE"),
        (wide(true), "UTF-16BE"),
        (wider.clone(), "UTF-32LE"),
        ([vec![0xff, 0xfe, 0, 0], wider].concat(), "UTF-32LE"),
        (b"PK\x03\x04rest".to_vec(), "zip archive"),
        (b"BZh91AY".to_vec(), "bzip2"),
        (b"\xfd7zXZ\0".to_vec(), "xz"),
    ] {
        let error = rows(&dir.file("t.jsonl", bytes)).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains(part), "{error}");
    }
    // A text of one byte per letter cannot be told before its first accent.
    let latin: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let found = rows(&dir.file("t.jsonl", latin)).unwrap();
    let bad = found[0].1.clone().unwrap_err();
    assert!(bad.reason == "not UTF-8" && bad.detail.contains("0xe9") && bad.detail.contains("iconv"), "{bad:?}");
    for (name, whole) in
        [("t.jsonl.gz", gzip(text.as_bytes())), ("t.jsonl.zst", zstd::encode_all(text.as_bytes(), 1).unwrap())]
    {
        let error = rows(&dir.file(name, &whole[..whole.len() - 3])).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains("in the middle"), "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_row_is_told_and_the_next_is_read() {
    let dir = Dir::new();
    for (line, reason, part) in [
        ("{\"a\": NaN}", "not JSON", "has NaN"),
        ("{\"a\": -Infinity}", "not JSON", "has Infinity"),
        ("{\"a\": 1, \"a\": 2}", "repeated key", "\"a\" twice"),
        ("{\"b\": [{\"c\": 1, \"c\": 1}]}", "repeated key", "\"c\" twice"),
        ("{\"a\": \"\\ud800\"}", "not JSON", "is not JSON"),
        ("{\"a\": \"cut", "not JSON", "is not JSON"),
        ("{\"a\": 1} {\"a\": 2}", "not JSON", "trailing"),
        ("{\"a\": 1}\r{\"a\": 2}", "not JSON", "CR alone"),
        ("[1]", "not an object", "a list"),
        ("7", "not an object", "a number"),
    ] {
        let path = dir.file("t.jsonl", format!("{line}\n{{\"a\": \"NaN\"}}\n"));
        let found = rows(&path).unwrap();
        let bad = found[0].1.clone().unwrap_err();
        assert!(found[0].0 == 1 && bad.reason == reason && bad.detail.contains(part), "{line}: {bad:?}");
        assert_eq!(found[1], (2, Ok(json!({"a": "NaN"}))));
    }
    // A key that is not wanted is not read; its name stays.
    let path = dir.file("t.jsonl", "{\"a\": 1, \"b\": {\"c\": 2, \"c\": 3}}");
    assert_eq!(rows_within(&path, &["a"], None, None).unwrap(), [(1, Ok(json!({"a": 1, "b": null})))]);
}

#[test]
fn lists_are_read_element_by_element() {
    let dir = Dir::new();
    let good_rows = good(&dir.file("t.json", r#"[{"a":"]},{[\"\\"} , {"a":[{"b":[]}]}]"#));
    assert_eq!(good_rows, [json!({"a": "]},{[\"\\"}), json!({"a": [{"b": []}]})]);
    assert!(good(&dir.file("t.json", " [ ] ")).is_empty());
    let found = rows(&dir.file("t.json", r#"[{"a":NaN},5,{"a":1}]"#)).unwrap();
    assert!(found[0].1.is_err() && found[1].1.is_err() && found[2] == (2, Ok(json!({"a": 1}))));
    for (text, part) in [
        (r#"[{"a":1},{"a":2"#, "ends in row 1"),
        (r#"[{"a":1},]"#, "row 1 is missing"),
        (r#"[,{"a":1}]"#, "row 0 is missing"),
        (r#"[{"a":1}}]"#, "bracket too many"),
        (r#"[{"a":1}] x"#, "goes on after"),
    ] {
        let error = rows(&dir.file("t.json", text)).unwrap_err().to_string();
        assert!(error.contains("t.json") && error.contains(part), "{text}: {error}");
    }
}

#[test]
fn separated_values_have_their_own_faults() {
    let dir = Dir::new();
    let found = rows(&dir.file("t.csv", "a,b\n1\n1,2,3\nx,y\n\n")).unwrap();
    assert!(found[0].0 == 2 && found[0].1.clone().unwrap_err().detail.contains("1 values, the header has 2"));
    assert!(found[1].1.is_err());
    assert_eq!(found[2], (4, Ok(json!({"a": "x", "b": "y"}))));
    // pandas writes its index under no name.
    assert_eq!(good(&dir.file("t.csv", ",a\n0,x\n")), [json!({"a": "x"})]);
    for text in ["a,b\n1,\"open\n2,3\n", "a,b\n1,\"open", "a\n\"open\n"] {
        let error = rows(&dir.file("t.csv", text)).unwrap_err().to_string();
        assert!(error.contains("row 2") && error.contains("never closed"), "{text:?}: {error}");
    }
    let error = rows(&dir.file("t.csv", "a,a\n1,2\n")).unwrap_err().to_string();
    assert!(error.contains("column \"a\" twice"), "{error}");
}

fn parquet(path: &Path, columns: Vec<(&str, ArrayRef)>, compression: Compression) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    write_parquet(path, &batch, compression);
}

fn write_parquet(path: &Path, batch: &RecordBatch, compression: Compression) {
    let properties = WriterProperties::builder().set_compression(compression).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

#[test]
fn every_codec_of_parquet_is_read() {
    let dir = Dir::new();
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
    ] {
        let path = dir.file("t.parquet", "");
        parquet(&path, vec![("a", texts(&["x", "y\u{e9}"]))], codec);
        assert_eq!(good(&path), [json!({"a": "x"}), json!({"a": "y\u{e9}"})], "{codec}");
    }
}

/// Text is text in every type that holds some, in Parquet and in Arrow's own
/// files, and so are lists and objects.
#[test]
fn types_do_not_change_what_is_said() {
    let dir = Dir::new();
    let words = ["x", "\u{e9}", "x"];
    let plain = StringArray::from(words.to_vec());
    let of = |bytes: bool| -> Vec<ArrayRef> {
        if bytes {
            let raw: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
            vec![
                Arc::new(BinaryArray::from_vec(raw.clone())),
                Arc::new(LargeBinaryArray::from_vec(raw.clone())),
                Arc::new(BinaryViewArray::from_iter_values(raw)),
            ]
        } else {
            let keys = Int32Array::from(vec![0, 1, 0]);
            let values: ArrayRef = Arc::new(StringArray::from(vec!["x", "\u{e9}"]));
            vec![
                Arc::new(plain.clone()),
                Arc::new(LargeStringArray::from(words.to_vec())),
                Arc::new(StringViewArray::from(words.to_vec())),
                Arc::new(DictionaryArray::<Int32Type>::new(keys, values)),
            ]
        }
    };
    let expect: Vec<Value> = words.iter().map(|w| json!({"a": w})).collect();
    for array in of(false).into_iter().chain(of(true)) {
        let path = dir.file("t.parquet", "");
        parquet(&path, vec![("a", array.clone())], Compression::SNAPPY);
        assert_eq!(good(&path), expect, "{}", array.data_type());
        assert_eq!(good(&ipc(&dir, &[("a", array.clone())], true)), expect, "{}", array.data_type());
        assert_eq!(good(&ipc(&dir, &[("a", array)], false)), expect);
    }
    let run: ArrayRef = Arc::new(
        RunArray::<Int32Type>::try_new(&Int32Array::from(vec![2, 3]), &StringArray::from(vec!["x", "y"])).unwrap(),
    );
    assert_eq!(good(&ipc(&dir, &[("a", run)], true)), [json!({"a": "x"}), json!({"a": "x"}), json!({"a": "y"})]);

    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let inner: ArrayRef = Arc::new(StringArray::from(vec![Some("p"), None, Some("q"), Some("r")]));
    let lists: Vec<ArrayRef> = vec![
        Arc::new(ListArray::new(item.clone(), OffsetBuffer::new(vec![0, 2, 4].into()), inner.clone(), None)),
        Arc::new(LargeListArray::new(item.clone(), OffsetBuffer::new(vec![0i64, 2, 4].into()), inner.clone(), None)),
        Arc::new(FixedSizeListArray::new(item.clone(), 2, inner.clone(), None)),
    ];
    let expect = [json!({"a": ["p", null]}), json!({"a": ["q", "r"]})];
    for array in lists {
        let path = dir.file("t.parquet", "");
        parquet(&path, vec![("a", array.clone())], Compression::SNAPPY);
        assert_eq!(good(&path), expect, "{}", array.data_type());
    }
    let view: ArrayRef =
        Arc::new(ListViewArray::new(item, ScalarBuffer::from(vec![0, 2]), ScalarBuffer::from(vec![2, 2]), inner, None));
    assert_eq!(good(&ipc(&dir, &[("a", view)], true)), expect);

    let fields = vec![Field::new("role", DataType::Utf8, true), Field::new("n", DataType::Int64, true)];
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(vec![Some("u"), None])), Arc::new(Int64Array::from(vec![None, Some(7)]))];
    let object: ArrayRef = Arc::new(StructArray::new(fields.into(), columns, None));
    let path = dir.file("t.parquet", "");
    parquet(&path, vec![("a", object), ("f", Arc::new(Float32Array::from(vec![0.1, f32::NAN])))], Compression::SNAPPY);
    let expect = [json!({"a": {"role": "u", "n": null}, "f": 0.1}), json!({"a": {"role": null, "n": 7}, "f": null})];
    assert_eq!(good(&path), expect);
}

fn ipc(dir: &Dir, columns: &[(&str, ArrayRef)], stream: bool) -> PathBuf {
    let batch = RecordBatch::try_from_iter(columns.iter().map(|(n, c)| (*n, c.clone()))).unwrap();
    let mut bytes = Vec::new();
    if stream {
        let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
    } else {
        let mut writer = FileWriter::try_new(&mut bytes, &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
    }
    dir.file("data-00000-of-00001.arrow", bytes)
}

/// `datasets` 5 stores rows that differ in shape as JSON text of an extension
/// type.
#[test]
fn columns_of_json_are_json() {
    let dir = Dir::new();
    let extension = HashMap::from([("ARROW:extension:name".to_owned(), "arrow.json".to_owned())]);
    let field = Field::new("a", DataType::Utf8, true).with_metadata(extension.clone());
    let item = Arc::new(Field::new("item", DataType::Utf8, true).with_metadata(extension));
    let inner: ArrayRef = Arc::new(StringArray::from(vec![r#"{"x":1}"#, r#""s""#]));
    let list = ListArray::new(item.clone(), OffsetBuffer::new(vec![0, 1, 2].into()), inner, None);
    let schema =
        Schema::new(vec![field, Field::new("b", DataType::List(item), true), Field::new("c", DataType::Utf8, true)]);
    let columns: Vec<ArrayRef> = vec![texts(&[r#"[{"role": "user"}]"#, "7"]), Arc::new(list), texts(&["[1]", "plain"])];
    let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    let path = dir.file("t.parquet", "");
    write_parquet(&path, &batch, Compression::SNAPPY);
    let expect =
        [json!({"a": [{"role": "user"}], "b": [{"x": 1}], "c": "[1]"}), json!({"a": 7, "b": ["s"], "c": "plain"})];
    assert_eq!(good(&path), expect);
}

#[test]
fn only_wanted_columns_matter() {
    let dir = Dir::new();
    let zoned = TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("Europe/Berlin");
    let image = FixedSizeBinaryArray::try_from_iter([[0xff, 0xfe], [0, 1]].into_iter()).unwrap();
    let columns: Vec<(&str, ArrayRef)> =
        vec![("created", Arc::new(zoned)), ("a", texts(&["x", "y"])), ("image", Arc::new(image))];
    let path = dir.file("t.parquet", "");
    parquet(&path, columns.clone(), Compression::SNAPPY);
    for path in [path, ipc(&dir, &columns, true)] {
        let found = rows_within(&path, &["a", "id"], None, None).unwrap();
        assert_eq!(found, [(0, Ok(json!({"a": "x"}))), (1, Ok(json!({"a": "y"})))]);
        // All columns: what has no form in JSON is not there.
        assert_eq!(good(&path).len(), 2);
        assert!(good(&path)[0].get("image").is_none());
    }
}

#[test]
fn damaged_tables_are_told() {
    let dir = Dir::new();
    let path = dir.file("t.parquet", "");
    parquet(&path, vec![("a", texts(&["x"; 100]))], Compression::SNAPPY);
    let whole = std::fs::read(&path).unwrap();
    for bytes in [&whole[..whole.len() / 2], &whole[..12], b"", b"{\"a\":1}"] {
        let error = rows(&dir.file("t.parquet", bytes)).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains("cannot be read as Parquet"), "{error}");
    }
    let whole = std::fs::read(ipc(&dir, &[("a", texts(&["x"; 100]))], true)).unwrap();
    let error = rows(&dir.file("t.arrow", &whole[..whole.len() / 2])).unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains("cannot be read as Arrow"), "{error}");
}

#[test]
fn one_row_is_bounded_too() {
    let dir = Dir::new();
    let item = Arc::new(Field::new("item", DataType::Int64, true));
    let inner: ArrayRef = Arc::new(Int64Array::from(vec![7; 1 << 20]));
    let list: ArrayRef = Arc::new(ListArray::new(item, OffsetBuffer::new(vec![0, 1 << 20].into()), inner, None));
    let path = dir.file("t.parquet", "");
    parquet(&path, vec![("a", list)], Compression::ZSTD(ZstdLevel::default()));
    assert!(path.metadata().unwrap().len() < 2000);
    let error = rows(&path).unwrap_err().to_string();
    assert!(error.contains("row 0") && error.contains("max_row_bytes"), "{error}");
    assert_eq!(rows_within(&path, &[], Some(1 << 30), None).unwrap().len(), 1);
}

/// A few bytes must not become gigabytes.
#[test]
fn what_unpacks_too_far_is_stopped() {
    let dir = Dir::new();
    let stopped = |path: &Path, row, total, part: &str| {
        let error = rows_within(path, &[], row, total).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains(part), "{error}");
    };
    let long = format!("{{\"a\": \"{}\"}}\n", "x".repeat(1 << 20));
    let bomb = dir.file("t.jsonl.gz", gzip(long.repeat(4).as_bytes()));
    assert_eq!(rows(&bomb).unwrap().len(), 4);
    stopped(&bomb, Some(1 << 16), None, "max_row_bytes");
    stopped(&bomb, None, Some(2 << 20), "max_bytes");
    stopped(&dir.file("t.csv.gz", gzip(format!("a\n\"{long}").as_bytes())), Some(1 << 16), None, "row 2");
    stopped(&dir.file("t.json.gz", gzip(format!("[{long}]").as_bytes())), Some(1 << 16), None, "max_row_bytes");

    let column = texts(&vec!["y".repeat(1 << 19).as_str(); 600]);
    let path = dir.file("t.parquet", "");
    parquet(&path, vec![("a", column)], Compression::ZSTD(ZstdLevel::default()));
    assert!(path.metadata().unwrap().len() < 20_000);
    stopped(&path, Some(1 << 16), None, "max_row_bytes");
    stopped(&path, None, Some(8 << 20), "max_bytes");
    stopped(&path, None, None, "max_bytes");
    assert_eq!(rows_within(&path, &[], None, Some(1 << 30)).unwrap().len(), 600);
}

/// What an Arrow file says of itself is not believed: its readers would make room for it.
#[test]
fn arrow_files_declare_no_more_than_they_have() {
    let dir = Dir::new();
    let refused = |bytes: &[u8], total, part: &str| {
        let error = rows_within(&dir.file("t.arrow", bytes), &[], None, total).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains(part), "{error}");
    };
    let replaced = |bytes: &[u8], from: i64, to: i64| {
        let mut bytes = bytes.to_vec();
        let places: Vec<usize> = (0..bytes.len() - 7).filter(|at| bytes[*at..at + 8] == from.to_le_bytes()).collect();
        assert!(!places.is_empty(), "{from} is written somewhere");
        places.into_iter().for_each(|at| bytes[at..at + 8].copy_from_slice(&to.to_le_bytes()));
        bytes
    };
    let column = [("a", texts(&["x".repeat(192).as_str()]))];
    let [file, stream] = [false, true].map(|stream| std::fs::read(ipc(&dir, &column, stream)).unwrap());
    let end = file.len() - 10;
    let footer = end - read_footer_length(file[end..].try_into().unwrap()).unwrap();
    let body = root_as_footer(&file[footer..end]).unwrap().recordBatches().unwrap().get(0).bodyLength();
    refused(&replaced(&file, body, 1 << 33), None, "speaks of 8589934592 bytes");
    refused(&replaced(&stream, body, 1 << 33), None, "speaks of 8589934592 bytes");
    refused(&replaced(&stream, body, i64::MIN), None, "negative");
    let mut footer = file.clone();
    footer[end..end + 4].copy_from_slice(&i32::MAX.to_le_bytes());
    refused(&footer, None, "footer of 2147483647 bytes");
    refused(&file[..9], None, "shorter than a footer");

    let packed = |stream: bool| {
        let batch = RecordBatch::try_from_iter([("a", texts(&["y".repeat(4 << 20).as_str()]))]).unwrap();
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD)).unwrap();
        if stream {
            let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
            writer.write(&batch).unwrap();
            writer.into_inner().unwrap()
        } else {
            let mut writer = FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
            writer.write(&batch).unwrap();
            writer.into_inner().unwrap()
        }
    };
    for stream in [false, true] {
        let bomb = packed(stream);
        assert!(bomb.len() < 4000);
        assert_eq!(good(&dir.file("t.arrow", &bomb)).len(), 1);
        refused(&bomb, Some(2 << 20), "max_bytes");
        let mut declared = bomb;
        let prefix = [(4_i64 << 20).to_le_bytes().as_slice(), b"\x28\xb5\x2f\xfd"].concat();
        let at = declared.windows(prefix.len()).position(|bytes| bytes == prefix).unwrap();
        declared[at..at + 8].copy_from_slice(&(1_i64 << 45).to_le_bytes());
        refused(&declared, None, "max_bytes");
    }
}

#[test]
fn directories_and_patterns_are_tables_of_their_files() {
    let dir = Dir::new();
    let root = dir.0.path();
    dir.file("shards/train-00001.jsonl", "{\"a\":2}");
    dir.file("shards/train-00000.jsonl.gz", gzip(b"{\"a\":1}"));
    dir.file("shards/README.md", "words");
    dir.file("shards/.hidden.jsonl", "{\"a\":3}");
    dir.file("shards/dataset_info.json", "{}");
    let expect = [json!({"a": 1}), json!({"a": 2})];
    assert_eq!(good(&root.join("shards")), expect);
    assert_eq!(good(&root.join("shards/train-*")), expect);
    assert_eq!(good(&root.join("sha*/train-0000[01]*")), expect);
    let names: Vec<String> = files(&root.join("shards")).unwrap().into_iter().map(|f| f.name).collect();
    assert_eq!(names, ["train-00000.jsonl.gz", "train-00001.jsonl"]);

    dir.file("hub/data/train-0.jsonl", "{\"a\":1}");
    dir.file("hub/README.md", "words");
    assert_eq!(good(&root.join("hub")), expect[..1]);
    let error = |path: &str| files(&root.join(path)).unwrap_err().to_string();
    dir.file("hub/data/test-0.jsonl", "{\"a\":1}");
    let text = error("hub");
    assert!(text.contains("splits: test (1), train (1)") && text.contains("data/train*"), "{text}");
    dir.file("mixed/x.csv", "a");
    dir.file("mixed/x.jsonl", "{}");
    assert!(error("mixed").contains("several formats: .csv (1), .jsonl (1)"));
    dir.file("none/README.md", "");
    assert!(error("none").contains("no data files"));
    assert!(error("shards/nothing-*.jsonl").contains("fits no file"));
}

#[test]
fn saved_data_sets_are_read_in_their_order() {
    let dir = Dir::new();
    let root = dir.0.path();
    for (name, value) in [("b", "1"), ("a", "2")] {
        let path = ipc(&dir, &[("x", texts(&[value]))], true);
        dir.file(&format!("saved/data-{name}.arrow"), std::fs::read(path).unwrap());
    }
    let state = |files: Value| json!({"_data_files": files, "_indices_files": null, "_split": "train"}).to_string();
    dir.file("saved/dataset_info.json", "{}");
    dir.file("saved/state.json", state(json!([{"filename": "data-b.arrow"}, {"filename": "data-a.arrow"}])));
    assert_eq!(good(&root.join("saved")), [json!({"x": "1"}), json!({"x": "2"})]);
    dir.file("saved/state.json", state(json!([{"filename": "../other.arrow"}])));
    assert!(files(&root.join("saved")).unwrap_err().to_string().contains("not in this directory"));
    dir.file("dict/dataset_dict.json", "{\"splits\": [\"train\", \"test\"]}");
    let error = files(&root.join("dict")).unwrap_err().to_string();
    assert!(error.contains("splits train, test") && error.contains("dict/train"), "{error}");
}

#[test]
fn a_pipe_is_refused_without_waiting() {
    let dir = Dir::new();
    let path = dir.0.path().join("pipe.jsonl");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let error = files(&path).unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains("is a pipe"), "{error}");
    let mut budget = Budget::new(&[], None, None);
    assert!(read(&path, &[], &mut budget, &mut |_, _| Ok(ControlFlow::Continue(()))).is_err());
}

#[test]
fn a_file_that_changes_while_it_is_read_is_noticed() {
    let dir = Dir::new();
    for name in ["t.jsonl", "t.parquet"] {
        let path = dir.file(name, "{\"a\":1}\n{\"a\":2}\n");
        if name == "t.parquet" {
            parquet(&path, vec![("a", texts(&["x", "y"]))], Compression::SNAPPY);
        }
        let mut budget = Budget::new(&files(&path).unwrap(), None, None);
        let error = read(&path, &[], &mut budget, &mut |_, _| {
            let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(b" ").unwrap();
            Ok(ControlFlow::Continue(()))
        });
        assert!(error.unwrap_err().to_string().contains("changed while"), "{name}");
    }
}

#[test]
fn names_that_are_not_utf8_and_columns_of_one_name() {
    use std::os::unix::ffi::OsStrExt;
    let dir = Dir::new();
    let root = dir.0.path();
    dir.file("d/a.jsonl", "{\"a\":1}");
    std::fs::write(root.join("d").join(std::ffi::OsStr::from_bytes(b"n\xff.jsonl")), "{\"a\":2}").unwrap();
    assert_eq!(good(&root.join("d/a*.jsonl")), [json!({"a": 1})]);
    assert!(files(&root.join("d/b*.jsonl")).unwrap_err().to_string().contains("fits no file"));
    assert!(files(&root.join("nothing/*.jsonl")).unwrap_err().to_string().contains("fits no file"));
    dir.file("d/e/f/c.jsonl", "{\"a\":3}");
    assert_eq!(good(&root.join("d/**/c.jsonl")), [json!({"a": 3})]);

    let path = dir.file("t.parquet", "");
    parquet(&path, vec![("a", texts(&["x"])), ("a", texts(&["y"])), ("b", texts(&["z"]))], Compression::SNAPPY);
    let error = rows_within(&path, &["a"], None, None).unwrap_err().to_string();
    assert!(error.contains("two columns \"a\""), "{error}");
    assert_eq!(rows_within(&path, &["b"], None, None).unwrap().len(), 1);
}

#[test]
fn frames_to_be_skipped_and_packed_arrow_are_read() {
    let dir = Dir::new();
    let frame = zstd::encode_all(&b"{\"a\":1}\n"[..], 1).unwrap();
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"abcd", &frame].concat();
    assert_eq!(good(&dir.file("t.jsonl.zst", skipped)), [json!({"a": 1})]);

    let blank = dir.file("b.jsonl.gz", gzip(&vec![b'\n'; 1 << 20]));
    let error = rows_within(&blank, &[], None, Some(1 << 20)).unwrap_err().to_string();
    assert!(error.contains("max_bytes"), "{error}");

    for kind in [arrow::ipc::CompressionType::ZSTD, arrow::ipc::CompressionType::LZ4_FRAME] {
        let batch = RecordBatch::try_from_iter([("a", texts(&vec!["text"; 100]))]).unwrap();
        let options = arrow::ipc::writer::IpcWriteOptions::default().try_with_compression(Some(kind)).unwrap();
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new_with_options(&mut bytes, &batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        drop(writer);
        assert_eq!(good(&dir.file("t.arrow", bytes)).len(), 100);
    }
}
