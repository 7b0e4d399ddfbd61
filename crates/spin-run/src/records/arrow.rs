//! Values of Arrow tables by their types.

use std::cell::Cell;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait, RecordBatch};
use arrow::datatypes::{
    DataType, Field, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use serde_json::{Map, Number, Value};

use super::bytes::Input;
use super::{Bad, Budget, Each, Record, json};
use spin_store::error::Result;

/// Memory that the values of a row take: runs and dictionaries can say
/// millions of values in a few bytes.
#[derive(Debug)]
struct Meter {
    used: Cell<u64>,
    most: u64,
}

/// What an item of a list, or a key of an object, takes besides its text.
const ITEM_COST: u64 = 96;

impl Meter {
    fn take(&self, bytes: u64) -> Result<(), Bad> {
        self.used.set(self.used.get().saturating_add(bytes));
        // The caller names the row and the limit.
        if self.used.get() > self.most { Err(Bad::new("too long", "is too long")) } else { Ok(()) }
    }
}

/// A row of a batch.
#[derive(Debug)]
pub struct TableRow<'a> {
    batch: &'a RecordBatch,
    row: usize,
    /// All columns of the file, also those that were not read.
    schema: &'a Schema,
    /// What was taken out of it.
    taken: &'a Meter,
}

impl TableRow<'_> {
    fn column(&self, key: &str) -> Option<(&Field, &ArrayRef)> {
        let (index, _) = self.batch.schema_ref().column_with_name(key)?;
        Some((self.batch.schema_ref().field(index), self.batch.column(index)))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.column(key).is_some_and(|(_, column)| !is_null(column.as_ref(), self.row))
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.schema.fields().iter().map(|f| f.name().clone()).collect()
    }

    pub(super) fn value(&self, key: &str) -> Result<Option<Value>, Bad> {
        let Some((field, column)) = self.column(key) else { return Ok(None) };
        if is_null(column.as_ref(), self.row) {
            return Ok(None);
        }
        let value = value_of(field, column.as_ref(), self.row, self.taken);
        value.map(Some).map_err(|e| Bad { detail: format!("`{key}` {}", e.detail), ..e })
    }

    /// An id of bytes, such as a UUID, is its hexadecimal digits.
    pub(super) fn id(&self, key: &str) -> Option<Value> {
        let (field, column) = self.column(key)?;
        if is_null(column.as_ref(), self.row) {
            return None;
        }
        let bytes: Option<&[u8]> = match column.data_type() {
            DataType::Binary => Some(column.as_binary::<i32>().value(self.row)),
            DataType::LargeBinary => Some(column.as_binary::<i64>().value(self.row)),
            DataType::BinaryView => Some(column.as_binary_view().value(self.row)),
            DataType::FixedSizeBinary(_) => Some(column.as_fixed_size_binary().value(self.row)),
            _ => None,
        };
        match bytes {
            Some(bytes) => Some(Value::String(bytes.iter().map(|b| format!("{b:02x}")).collect())),
            // A type that is no id is told from a value that is none.
            None => Some(value_of(field, column.as_ref(), self.row, self.taken).unwrap_or(Value::Bool(false))),
        }
    }

    pub(super) fn into_map(self) -> Map<String, Value> {
        let mut map = Map::new();
        for (index, field) in self.batch.schema_ref().fields().iter().enumerate() {
            let column = self.batch.column(index);
            let value = if has_rule(field.data_type()) {
                value_of(field, column.as_ref(), self.row, self.taken).ok()
            } else {
                self.printed(index)
            };
            if let Some(value) = value {
                map.insert(field.name().clone(), value);
            }
        }
        map
    }

    /// Dates, decimals and the like as Arrow prints them in JSON.
    fn printed(&self, index: usize) -> Option<Value> {
        let cell = self.batch.project(&[index]).ok()?.slice(self.row, 1);
        let mut writer = arrow::json::WriterBuilder::new()
            .with_explicit_nulls(true)
            .build::<_, arrow::json::writer::JsonArray>(Vec::new());
        writer.write(&cell).and_then(|()| writer.finish()).ok()?;
        let mut rows: Vec<Map<String, Value>> = serde_json::from_slice(&writer.into_inner()).ok()?;
        rows.pop()?.into_iter().next().map(|(_, value)| value)
    }
}

/// Whether a value is null, also one that a dictionary or run stands for.
fn is_null(array: &dyn Array, row: usize) -> bool {
    match array.data_type() {
        DataType::Null => true,
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            array.is_null(row) || dictionary.values().is_null(dictionary.normalized_keys_at(row))
        }
        DataType::RunEndEncoded(..) => run(array, row).is_none_or(|(values, i)| values.is_null(i)),
        _ => array.is_null(row),
    }
}

/// The key of one row, as an index of the values.
trait KeyAt {
    fn normalized_keys_at(&self, row: usize) -> usize;
}

impl KeyAt for dyn arrow::array::AnyDictionaryArray + '_ {
    fn normalized_keys_at(&self, row: usize) -> usize {
        let keys = self.keys();
        macro_rules! key {
            ($($variant:ident $t:ty),*) => {
                match keys.data_type() {
                    $(DataType::$variant => usize::try_from(keys.as_primitive::<$t>().value(row)).unwrap_or(0),)*
                    _ => 0,
                }
            };
        }
        key!(Int8 Int8Type, Int16 Int16Type, Int32 Int32Type, Int64 Int64Type,
             UInt8 UInt8Type, UInt16 UInt16Type, UInt32 UInt32Type, UInt64 UInt64Type)
    }
}

/// The values of a run-length array and where in them a row's stands.
fn run(array: &dyn Array, row: usize) -> Option<(&ArrayRef, usize)> {
    use arrow::array::RunArray;
    let any = array.as_any();
    if let Some(a) = any.downcast_ref::<RunArray<Int16Type>>() {
        return Some((a.values(), a.get_physical_index(row)));
    }
    if let Some(a) = any.downcast_ref::<RunArray<Int32Type>>() {
        return Some((a.values(), a.get_physical_index(row)));
    }
    any.downcast_ref::<RunArray<Int64Type>>().map(|a| (a.values(), a.get_physical_index(row)))
}

/// Whether values of a type have a form in JSON here.
fn has_rule(data_type: &DataType) -> bool {
    match data_type {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float16
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => true,
        DataType::Dictionary(_, values) => has_rule(values),
        DataType::RunEndEncoded(_, values) => has_rule(values.data_type()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => has_rule(item.data_type()),
        DataType::Struct(fields) => fields.iter().all(|f| has_rule(f.data_type())),
        _ => false,
    }
}

/// Whether a type holds bytes that are not declared to be text.
pub(super) fn holds_bytes(data_type: &DataType) -> bool {
    match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => true,
        DataType::Dictionary(_, values) => holds_bytes(values),
        DataType::RunEndEncoded(_, values) => holds_bytes(values.data_type()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => holds_bytes(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| holds_bytes(f.data_type())),
        _ => false,
    }
}

/// The extension type that `datasets` 5 gives to columns whose rows differ in
/// shape: each value is JSON text.
fn is_json(field: &Field) -> bool {
    field.metadata().get("ARROW:extension:name").is_some_and(|name| name == "arrow.json")
}

fn value_of(field: &Field, array: &dyn Array, row: usize, taken: &Meter) -> Result<Value, Bad> {
    if is_null(array, row) {
        return Ok(Value::Null);
    }
    let text = |text: &str| {
        taken.take(text.len() as u64)?;
        if is_json(field) {
            json::value(text).map_err(|e| Bad::new("not JSON", format!("is not JSON ({e})")))
        } else {
            Ok(Value::String(text.to_owned()))
        }
    };
    let bytes = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(valid) => text(valid),
        Err(_) => Err(Bad::new("not UTF-8", format!("is binary data that is not UTF-8 text ({} bytes)", bytes.len()))),
    };
    macro_rules! number {
        ($t:ty) => {
            Ok(Value::from(array.as_primitive::<$t>().value(row)))
        };
    }
    match array.data_type() {
        DataType::Boolean => Ok(Value::Bool(array.as_boolean().value(row))),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float16 => Ok(short_float(array.as_primitive::<Float16Type>().value(row).to_f32())),
        DataType::Float32 => Ok(short_float(array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => Ok(float(array.as_primitive::<Float64Type>().value(row))),
        DataType::Utf8 => text(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row)),
        DataType::Utf8View => text(array.as_string_view().value(row)),
        DataType::Binary => bytes(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => bytes(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => bytes(array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary().value(row)),
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            value_of(field, dictionary.values().as_ref(), dictionary.normalized_keys_at(row), taken)
        }
        DataType::RunEndEncoded(_, values) => match run(array, row) {
            Some((array, i)) => value_of(values, array.as_ref(), i, taken),
            None => Err(unreadable(array.data_type())),
        },
        DataType::List(item) => list::<i32>(item, array, row, taken),
        DataType::LargeList(item) => list::<i64>(item, array, row, taken),
        DataType::ListView(item) => items(item, &array.as_list_view::<i32>().value(row), taken),
        DataType::LargeListView(item) => items(item, &array.as_list_view::<i64>().value(row), taken),
        DataType::FixedSizeList(item, _) => items(item, &array.as_fixed_size_list().value(row), taken),
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            taken.take(ITEM_COST * columns.len() as u64)?;
            let mut map = Map::new();
            for (field, column) in fields.iter().zip(columns) {
                map.insert(field.name().clone(), value_of(field, column.as_ref(), row, taken)?);
            }
            Ok(Value::Object(map))
        }
        other => Err(unreadable(other)),
    }
}

fn list<O: OffsetSizeTrait>(item: &Arc<Field>, array: &dyn Array, row: usize, taken: &Meter) -> Result<Value, Bad> {
    items(item, &array.as_list::<O>().value(row), taken)
}

fn items(item: &Arc<Field>, values: &ArrayRef, taken: &Meter) -> Result<Value, Bad> {
    taken.take(ITEM_COST * values.len() as u64)?;
    (0..values.len()).map(|i| value_of(item, values.as_ref(), i, taken)).collect::<Result<_, _>>().map(Value::Array)
}

fn unreadable(data_type: &DataType) -> Bad {
    Bad::new("wrong type", format!("has the type {data_type}, not text"))
}

fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// By its shortest decimal form, which is what a reader of JSON gets.
fn short_float(value: f32) -> Value {
    value.to_string().parse().map_or(Value::Null, float)
}

/// Hands out the rows of a batch; false when `each` breaks off.
pub(super) fn hand_out(
    input: &Input,
    schema: &Schema,
    batch: &RecordBatch,
    first: usize,
    budget: &mut Budget,
    each: &mut Each,
) -> Result<bool> {
    let taken = Meter { used: Cell::new(0), most: budget.row };
    for row in 0..batch.num_rows() {
        taken.used.set(0);
        let record = TableRow { batch, row, schema, taken: &taken };
        let flow = each(first + row, Ok(Record::Table(record)))?;
        if taken.used.get() > budget.row {
            return Err(budget.row_too_long(&input.path, first + row));
        }
        budget.spend(&input.path, taken.used.get())?;
        if flow.is_break() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The next of something that a damaged file may make panic.
pub(super) fn guarded<T>(next: impl FnOnce() -> T) -> Result<T, String> {
    spin_cli::caught(next).ok_or_else(|| "its reader gave up on it".to_owned())
}
