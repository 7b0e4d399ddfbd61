//! The rows of the browser of pairs: prompt, human answer, and what each model
//! answered, token by token.
//!
//! They stand in the page as JSON, which must stay small: what does not fit is
//! left out step by step, least needed first, and said.

use serde_json::{Value, json};

use super::escape;

/// Rows of one kind, with the models that answered.
#[derive(Clone, Debug)]
pub struct Source {
    /// What the rows are, for people.
    pub name: String,
    /// Part of the addresses of its rows.
    pub id: String,
    /// Names of the models, the first of which the others are compared with.
    pub models: Vec<String>,
    /// Ways in which each answered, e.g. `sampled` and `greedy`.
    pub decodings: Vec<String>,
    /// What the margin of a row is, for people; `None` where there is none.
    pub margin: Option<String>,
    /// Rows.
    pub rows: Vec<Row>,
    /// How many rows there are, of which these are a sample.
    pub all: usize,
}

/// A prompt with its answers.
#[derive(Clone, Debug)]
pub struct Row {
    /// The row's id.
    pub id: String,
    /// Rows of low rank stay when not all fit.
    pub rank: u64,
    /// Roles and texts of the conversation before the answer.
    pub prompt: Vec<(String, String)>,
    /// The human answer.
    pub real: String,
    /// What each model makes of it.
    pub models: Vec<Cell>,
}

/// A row as one model sees it.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    /// Negative log-likelihood of the human answer in nats.
    pub nll: Option<f64>,
    /// How much likelier the human answer is than a generated one, in nats.
    pub margin: Option<f64>,
    /// Its answers, in the order of the decodings.
    pub replies: Vec<Option<Reply>>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The text.
    pub text: String,
    /// Lengths of the tokens' texts in UTF-16 units, from the beginning; empty
    /// where they are not known.
    pub pieces: Vec<usize>,
    /// Natural log-probabilities of the tokens; one more than `pieces` where a
    /// token without text ends the answer.
    pub logps: Vec<f32>,
    /// Natural log-probability of the whole answer.
    pub logp: f64,
    /// Why it ended.
    pub finish: String,
    /// Whether it is right, where that is known.
    pub right: Option<bool>,
}

/// Bytes that all rows may take in the page.
pub const BUDGET: usize = 4_300_000;

/// Characters of a text where texts are cut.
const CUT: usize = 300;

/// Leaves out what does not fit into `budget` bytes, and says what.
pub fn fitted(mut sources: Vec<Source>, budget: usize) -> (Vec<Source>, Vec<String>) {
    let mut said = Vec::new();
    let size = |sources: &[Source]| sources.iter().map(|source| json_of(source).len()).sum::<usize>();
    type Step = fn(&mut Source);
    let steps: [(&str, Step); 3] = [
        ("log-probabilities of tokens of greedy answers are left out", |source| without_shading(source, 1)),
        ("log-probabilities of tokens are left out", |source| without_shading(source, 0)),
        ("texts are cut after 300 characters", |source| source.rows.iter_mut().for_each(cut)),
    ];
    for (what, step) in steps {
        if size(&sources) <= budget {
            return (sources, said);
        }
        sources.iter_mut().for_each(step);
        said.push(format!("So that this file stays small, {what} in the browser of pairs; the store has them all."));
    }
    let mut all = size(&sources);
    if all > budget {
        let share = budget as f64 / all as f64 * 0.98;
        for source in &mut sources {
            keep(source, (source.rows.len() as f64 * share) as usize);
        }
        all = size(&sources);
        // Rows of unlike lengths: once more, in proportion.
        for source in sources.iter_mut().filter(|_| all > budget) {
            keep(source, (source.rows.len() as f64 * budget as f64 / all as f64 * 0.9) as usize);
        }
    }
    (sources, said)
}

/// Keeps so many rows, those of the lowest rank, in their order.
pub fn keep(source: &mut Source, count: usize) {
    if count >= source.rows.len() {
        return;
    }
    let mut ranks: Vec<u64> = source.rows.iter().map(|row| row.rank).collect();
    ranks.sort_unstable();
    match ranks.get(count) {
        Some(limit) => source.rows.retain(|row| row.rank < *limit),
        None => source.rows.clear(),
    }
}

fn without_shading(source: &mut Source, from: usize) {
    for cell in source.rows.iter_mut().flat_map(|row| &mut row.models) {
        for reply in cell.replies.iter_mut().skip(from).flatten() {
            reply.pieces.clear();
            reply.logps.clear();
        }
    }
}

fn cut(row: &mut Row) {
    let shorten = |text: &mut String| {
        if let Some((end, _)) = text.char_indices().nth(CUT) {
            let more = text[end..].chars().count();
            text.truncate(end);
            text.push_str(&format!(" […{more} more characters]"));
        }
    };
    shorten(&mut row.real);
    row.prompt.iter_mut().for_each(|(_, text)| shorten(text));
    row.models.iter_mut().flat_map(|cell| cell.replies.iter_mut().flatten()).for_each(|reply| shorten(&mut reply.text));
}

/// A source as the page's program reads it: arrays by place, hundredths of
/// nats, and each text of a row once.
pub fn json_of(source: &Source) -> String {
    let mut finish: Vec<&str> = Vec::new();
    let rows: Vec<Value> = source.rows.iter().map(|row| row_json(row, &mut finish)).collect();
    escape::json(&json!({
        "name": source.name,
        "id": source.id,
        "models": source.models,
        "decodings": source.decodings,
        "margin": source.margin,
        "all": source.all,
        "finish": finish,
        "rows": rows,
    }))
}

fn row_json<'a>(row: &'a Row, finish: &mut Vec<&'a str>) -> Value {
    let mut texts: Vec<(&str, &[usize])> = Vec::new();
    let mut cells: Vec<Value> = Vec::new();
    for cell in &row.models {
        let mut replies = Vec::new();
        for reply in &cell.replies {
            let Some(reply) = reply else {
                replies.push(Value::Null);
                continue;
            };
            let text = place(&mut texts, (reply.text.as_str(), reply.pieces.as_slice()));
            let finish = place(finish, reply.finish.as_str());
            let logps: Vec<i64> = reply.logps.iter().map(|logp| hundredths(f64::from(-logp))).collect();
            replies.push(json!([text, reply.right.map(u8::from), finish, hundredths(-reply.logp), logps]));
        }
        cells.push(json!([cell.nll.map(hundredths), cell.margin.map(hundredths), replies]));
    }
    json!([row.id, row.prompt, row.real, texts, cells])
}

fn place<T: PartialEq>(all: &mut Vec<T>, one: T) -> usize {
    all.iter().position(|known| *known == one).unwrap_or_else(|| {
        all.push(one);
        all.len() - 1
    })
}

/// Hundredths of nats: what is shown has two decimals.
fn hundredths(value: f64) -> i64 {
    (value * 100.0).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(rows: usize, length: usize) -> Source {
        let reply = |text: &str| Reply {
            text: text.repeat(length),
            pieces: vec![text.len(); length],
            logps: vec![-0.5; length + 1],
            logp: -0.5 * (length as f64 + 1.0),
            finish: "stop".into(),
            right: Some(text == "a "),
        };
        let row = |i: usize| Row {
            id: format!("</script>{i}"),
            rank: (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            prompt: vec![("user".into(), "q".into())],
            real: "a ".repeat(length),
            models: vec![
                Cell { nll: Some(1.25), margin: None, replies: vec![Some(reply("b ")), Some(reply("a "))] },
                Cell { nll: None, margin: Some(-2.0), replies: vec![Some(reply("a ")), None] },
            ],
        };
        Source {
            name: "n".into(),
            id: "i".into(),
            models: vec!["x".into(), "y".into()],
            decodings: vec!["sampled".into(), "greedy".into()],
            margin: None,
            rows: (0..rows).map(row).collect(),
            all: rows,
        }
    }

    #[test]
    fn texts_stand_there_once_and_end_no_element() {
        let text = json_of(&source(1, 2));
        assert!(!text.contains('<'), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        let row = &value["rows"][0];
        assert_eq!(row[0], "</script>0");
        assert_eq!(row[3], json!([["b b ", [2, 2]], ["a a ", [2, 2]]]));
        assert_eq!(row[4][0], json!([125, null, [[0, 0, 0, 150, [50, 50, 50]], [1, 1, 0, 150, [50, 50, 50]]]]));
        assert_eq!(row[4][1], json!([null, -200, [[1, 1, 0, 150, [50, 50, 50]], null]]));
    }

    #[test]
    fn what_does_not_fit_is_left_out_by_need() {
        let (whole, said) = fitted(vec![source(20, 100)], BUDGET);
        assert!(said.is_empty() && whole[0].rows[0].models[0].replies[1].as_ref().unwrap().logps.len() == 101);
        let size = json_of(&whole[0]).len();
        let (less, said) = fitted(vec![source(20, 100)], size - 1);
        assert_eq!((said.len(), less[0].rows.len()), (1, 20));
        let reply = |at: usize| less[0].rows[0].models[0].replies[at].as_ref().unwrap();
        assert!(reply(1).logps.is_empty() && !reply(0).logps.is_empty());
        let budget = size / 20;
        let (few, said) = fitted(vec![source(20, 500)], budget);
        assert!(json_of(&few[0]).len() <= budget && !few[0].rows.is_empty(), "{}", few[0].rows.len());
        assert_eq!((said.len(), few[0].all), (3, 20));
        // The same rows each time, and the same whether the others are there or not.
        let ids = |source: &Source| source.rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
        let mut kept = source(20, 1);
        keep(&mut kept, 7);
        let seven = ids(&kept);
        keep(&mut kept, 3);
        assert_eq!(kept.rows.len(), 3);
        assert!(ids(&kept).iter().all(|id| seven.contains(id)));
    }
}
