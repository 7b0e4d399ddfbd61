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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Float32Array, Float64Array, Int64Array, ListArray, StringArray};
    use arrow::array::{StructArray, UInt32Array};
    use arrow::buffer::{NullBuffer, OffsetBuffer};

    use super::*;

    /// The rule, value by value.
    fn plainly(out: &mut Vec<u8>, array: &dyn Array) {
        out.extend((array.len() as u64).to_le_bytes());
        match array.null_count() {
            0 => out.extend(b"no nulls"),
            _ => out.extend((0..array.len()).map(|i| u8::from(array.is_null(i)))),
        }
        match array.data_type() {
            DataType::Utf8 => array.as_string::<i32>().iter().for_each(|text| {
                let text = text.unwrap_or_default();
                out.extend((text.len() as u64).to_le_bytes());
                out.extend(text.as_bytes());
            }),
            DataType::Boolean => out.extend(array.as_boolean().iter().map(|value| u8::from(value.unwrap_or_default()))),
            DataType::UInt32 => array
                .as_primitive::<UInt32Type>()
                .iter()
                .for_each(|value| out.extend(value.unwrap_or_default().to_le_bytes())),
            DataType::Int64 => array
                .as_primitive::<Int64Type>()
                .iter()
                .for_each(|value| out.extend(value.unwrap_or_default().to_le_bytes())),
            DataType::Float32 => array
                .as_primitive::<Float32Type>()
                .iter()
                .for_each(|value| out.extend(value.unwrap_or_default().to_le_bytes())),
            DataType::Float64 => array
                .as_primitive::<Float64Type>()
                .iter()
                .for_each(|value| out.extend(value.unwrap_or_default().to_le_bytes())),
            DataType::List(_) => array.as_list::<i32>().iter().for_each(|item| match item {
                Some(values) => plainly(out, values.as_ref()),
                None => out.extend(b"null"),
            }),
            DataType::Struct(_) => array.as_struct().columns().iter().for_each(|column| plainly(out, column.as_ref())),
            other => panic!("{other}"),
        }
    }

    fn list(of: ArrayRef, lengths: &[usize], valid: Option<Vec<bool>>) -> ArrayRef {
        let item = Arc::new(Field::new("item", of.data_type().clone(), true));
        let ends = OffsetBuffer::from_lengths(lengths.iter().copied());
        Arc::new(ListArray::new(item, ends, of, valid.map(NullBuffer::from)))
    }

    /// Whole columns and slices of them, with nulls anywhere, and more bytes than are
    /// gathered at once.
    #[test]
    fn values_are_hashed_by_the_rule() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("né"), Some(""), None, Some("b")]));
        let numbers: ArrayRef = Arc::new(UInt32Array::from(vec![Some(1), Some(2), None, Some(4), Some(5), Some(6)]));
        let turns: ArrayRef = Arc::new(StructArray::from(vec![
            (Arc::new(Field::new("role", DataType::Utf8, true)), texts.clone()),
            (Arc::new(Field::new("number", DataType::UInt32, true)), numbers.clone()),
        ]));
        let long: ArrayRef = Arc::new(Int64Array::from_iter_values(0..3 * PIECE as i64));
        let columns: Vec<ArrayRef> = vec![
            list(numbers.clone(), &[2, 0, 1, 3], None),
            list(numbers, &[2, 0, 1, 3], Some(vec![true, false, true, true])),
            list(turns.clone(), &[1, 1, 4], None),
            list(list(texts.clone(), &[1, 2, 0, 3], None), &[3, 1], None),
            texts,
            turns,
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            Arc::new(Float32Array::from(vec![Some(-0.0), None, Some(f32::NAN)])),
            Arc::new(Float64Array::from(vec![0.5, -1.5])),
            list(long.clone(), &[PIECE, 2 * PIECE], None),
            long,
        ];
        for column in columns {
            for (start, length) in [(0, column.len()), (1, column.len() - 1), (0, 1), (0, 0)] {
                let column = column.slice(start, length);
                let mut values = Values::default();
                values.array(&column, 0..length).unwrap();
                let mut bytes = Vec::new();
                plainly(&mut bytes, &column);
                assert_eq!(values.digest(), crate::digest::of_bytes(&bytes), "{} {start} {length}", column.data_type());
            }
        }
        let error = Values::default().array(&arrow::array::UInt8Array::from(vec![1]), 0..1);
        assert_eq!(error, Err(DataType::UInt8));
    }
}
