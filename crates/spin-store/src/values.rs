//! The digest of a table's values, whatever file they are in.

use std::ops::Range;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type,
};

/// Bytes that are gathered before they are hashed: BLAKE3 is many times faster on
/// long pieces than on single values.
const PIECE: usize = 1 << 16;

/// Takes columns in order.
#[derive(Default)]
pub(crate) struct Values {
    hasher: blake3::Hasher,
    waiting: Vec<u8>,
}

impl Values {
    /// A column with its name and type.
    ///
    /// # Errors
    /// The type without a rule.
    pub fn field(&mut self, field: &Field, column: &dyn Array) -> Result<(), DataType> {
        self.text(field.name());
        self.text(&field.data_type().to_string());
        self.array(column, 0..column.len())
    }

    /// The digest of all that was taken.
    pub fn digest(mut self) -> String {
        self.flush();
        self.hasher.finalize().to_hex().to_string()
    }

    fn flush(&mut self) {
        self.hasher.update(&self.waiting);
        self.waiting.clear();
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PIECE {
            self.flush();
        }
    }

    fn length(&mut self, length: usize) {
        self.bytes(&(length as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.bytes(text.as_bytes());
    }

    /// The values in `range`, in order; `Err` is the type without a rule.
    fn array(&mut self, array: &dyn Array, range: Range<usize>) -> Result<(), DataType> {
        self.length(range.len());
        let has_nulls = array.null_count() > 0 && range.clone().any(|i| array.is_null(i));
        if has_nulls {
            for i in range.clone() {
                self.bytes(&[u8::from(array.is_null(i))]);
            }
        } else {
            self.bytes(b"no nulls");
        }
        // What stands in the place of a null is no value.
        macro_rules! each {
            ($array:expr, $take:expr) => {{
                let array = $array;
                for i in range {
                    let value = if has_nulls && array.is_null(i) { Default::default() } else { array.value(i) };
                    $take(self, value);
                }
            }};
        }
        macro_rules! primitive {
            ($t:ty) => {
                each!(array.as_primitive::<$t>(), |to: &mut Self, value: <$t as ArrowPrimitiveType>::Native| {
                    to.bytes(&value.to_le_bytes());
                })
            };
        }
        match array.data_type() {
            DataType::Utf8 => each!(array.as_string::<i32>(), Self::text),
            DataType::Boolean => each!(array.as_boolean(), |to: &mut Self, value: bool| to.bytes(&[u8::from(value)])),
            DataType::Int32 => primitive!(Int32Type),
            DataType::Int64 => primitive!(Int64Type),
            DataType::UInt32 => primitive!(UInt32Type),
            DataType::UInt64 => primitive!(UInt64Type),
            DataType::Float32 => primitive!(Float32Type),
            DataType::Float64 => primitive!(Float64Type),
            DataType::List(_) => {
                let lists = array.as_list::<i32>();
                for i in range {
                    match has_nulls && lists.is_null(i) {
                        true => self.bytes(b"null"),
                        false => {
                            let ends = &lists.value_offsets()[i..=i + 1];
                            self.array(lists.values(), ends[0] as usize..ends[1] as usize)?;
                        }
                    }
                }
            }
            DataType::Struct(_) => {
                for column in array.as_struct().columns() {
                    self.array(column, range.clone())?;
                }
            }
            other => return Err(other.clone()),
        }
        Ok(())
    }
}
