//! Pairs of a real and a generated answer.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListBuilder, RecordBatch, StringBuilder, UInt32Builder};
use arrow::datatypes::{DataType, Field, Schema};
use spin_store::table::{self, PartLabel};
use spin_store::{Kind, StoreError};

use super::turns::MessageLists;
use super::{Columns, Message, Row, ids_field, messages_field, u32_field, utf8};

/// A real and a generated answer to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The demonstration's id.
    pub row_id: String,
    /// The iteration whose opponent generated the answer.
    pub iteration: u32,
    /// Which of the row's samples.
    pub sample_index: u32,
    /// The conversation with the human answer.
    pub real: Vec<Message>,
    /// The conversation with the generated answer.
    pub generated: Vec<Message>,
    /// Token ids of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Token ids of the human answer with its EOS.
    pub real_ids: Vec<u32>,
    /// Token ids of the generated answer as sampled.
    pub generated_ids: Vec<u32>,
}

/// Which pair of a table it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairKey<'a> {
    /// The demonstration's id.
    pub row_id: &'a str,
    /// The iteration whose opponent generated the answer.
    pub iteration: u32,
    /// Which of the row's samples.
    pub sample_index: u32,
}

/// Pairs by their numbers, wherever their texts and ids are.
pub trait Pairs: Sync {
    /// Which pair of its table it is.
    fn key(&self, number: usize) -> PairKey<'_>;

    /// The conversation with the human answer, by role and content.
    fn real(&self, number: usize) -> impl Iterator<Item = (&str, &str)>;

    /// The conversation with the generated answer.
    fn generated(&self, number: usize) -> impl Iterator<Item = (&str, &str)>;

    /// Token ids of the prompt, of the human answer and of the generated one.
    fn ids(&self, number: usize) -> [&[u32]; 3];
}

impl Pairs for [Pair] {
    fn key(&self, number: usize) -> PairKey<'_> {
        let Pair { row_id, iteration, sample_index, .. } = &self[number];
        PairKey { row_id, iteration: *iteration, sample_index: *sample_index }
    }

    fn real(&self, number: usize) -> impl Iterator<Item = (&str, &str)> {
        turns_of(&self[number].real)
    }

    fn generated(&self, number: usize) -> impl Iterator<Item = (&str, &str)> {
        turns_of(&self[number].generated)
    }

    fn ids(&self, number: usize) -> [&[u32]; 3] {
        let pair = &self[number];
        [&pair.prompt_ids, &pair.real_ids, &pair.generated_ids]
    }
}

fn turns_of(messages: &[Message]) -> impl Iterator<Item = (&str, &str)> {
    messages.iter().map(|message| (message.role.as_str(), message.content.as_str()))
}

/// The columns of pairs, for those who have them in columns and would not make a
/// [`Pair`] of each.
#[derive(Debug)]
pub struct PairColumns {
    row_ids: StringBuilder,
    iterations: UInt32Builder,
    sample_indices: UInt32Builder,
    real: MessageLists,
    generated: MessageLists,
    /// Prompt, real, generated.
    ids: [ListBuilder<UInt32Builder>; 3],
}

impl Default for PairColumns {
    fn default() -> Self {
        let ids = || ListBuilder::new(UInt32Builder::new()).with_field(Field::new("item", DataType::UInt32, false));
        PairColumns {
            row_ids: StringBuilder::new(),
            iterations: UInt32Builder::new(),
            sample_indices: UInt32Builder::new(),
            real: MessageLists::default(),
            generated: MessageLists::default(),
            ids: [ids(), ids(), ids()],
        }
    }
}

impl PairColumns {
    /// How many pairs there are.
    pub fn len(&self) -> usize {
        arrow::array::ArrayBuilder::len(&self.row_ids)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds some of the pairs, its columns beside each other.
    pub fn extend<P: Pairs + ?Sized>(&mut self, pairs: &P, numbers: Range<usize>) {
        let conversations = |column: &mut MessageLists, real: bool| {
            for number in numbers.clone() {
                match real {
                    true => pairs.real(number).for_each(|(role, content)| column.push(role, content)),
                    false => pairs.generated(number).for_each(|(role, content)| column.push(role, content)),
                }
                column.end();
            }
        };
        let lists = |column: &mut ListBuilder<UInt32Builder>, which: usize| {
            for number in numbers.clone() {
                column.values().append_slice(pairs.ids(number)[which]);
                column.append(true);
            }
        };
        let PairColumns { row_ids, iterations, sample_indices, real, generated, ids } = self;
        rayon::scope(|scope| {
            scope.spawn(|_| conversations(real, true));
            scope.spawn(|_| conversations(generated, false));
            for (which, column) in ids.iter_mut().enumerate() {
                let lists = &lists;
                scope.spawn(move |_| lists(column, which));
            }
            for number in numbers.clone() {
                let key = pairs.key(number);
                row_ids.append_value(key.row_id);
                iterations.append_value(key.iteration);
                sample_indices.append_value(key.sample_index);
            }
        });
    }

    fn finish(&mut self) -> Vec<ArrayRef> {
        let [prompt, real, generated] = &mut self.ids;
        vec![
            Arc::new(self.row_ids.finish()),
            Arc::new(self.iterations.finish()),
            Arc::new(self.sample_indices.finish()),
            self.real.finish(),
            self.generated.finish(),
            Arc::new(prompt.finish()),
            Arc::new(real.finish()),
            Arc::new(generated.finish()),
        ]
    }

    /// Writes what there is as a part, as [`Row::write_part`] does; nothing is left.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_part(&mut self, path: &Path, identity: &str, part: usize) -> Result<(), StoreError> {
        let batch = RecordBatch::try_new(Pair::schema(), self.finish()).expect("columns are those of the schema");
        let (kind, schema_version) = (Pair::KIND.dir(), Pair::SCHEMA_VERSION);
        table::write(path, &batch, &PartLabel { kind, schema_version, identity: identity.into(), part })
    }
}

impl Row for Pair {
    const KIND: Kind = Kind::Pairs;
    const SCHEMA_VERSION: u32 = 1;

    fn schema() -> Arc<Schema> {
        Arc::new(Schema::new(vec![
            utf8("row_id"),
            u32_field("iteration"),
            u32_field("sample_index"),
            messages_field("real"),
            messages_field("generated"),
            ids_field("prompt_ids"),
            ids_field("real_ids"),
            ids_field("generated_ids"),
        ]))
    }

    fn to_columns(rows: &[Self]) -> Vec<ArrayRef> {
        let mut columns = PairColumns::default();
        columns.extend(rows, 0..rows.len());
        columns.finish()
    }

    fn from_batch(batch: &RecordBatch) -> Vec<Self> {
        let c = Columns(batch);
        c.rows(|i| Pair {
            row_id: c.text(0, i),
            iteration: c.u32(1, i),
            sample_index: c.u32(2, i),
            real: c.messages(3, i),
            generated: c.messages(4, i),
            prompt_ids: c.ids(5, i),
            real_ids: c.ids(6, i),
            generated_ids: c.ids(7, i),
        })
    }
}
