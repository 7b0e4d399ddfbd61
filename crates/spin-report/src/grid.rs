//! Tables of aligned columns, for people.

/// The widths of columns of rows with equal numbers of cells.
fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    (0..rows.first().map_or(0, Vec::len)).map(width).collect()
}

fn line(row: &[String], widths: &[usize], separator: &str) -> String {
    let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    cells.join(separator)
}

/// Rows with equal numbers of cells and no head.
pub fn columns(rows: &[Vec<String>], separator: &str) -> String {
    let widths = widths(rows);
    rows.iter().map(|row| format!("{}\n", line(row, &widths, separator).trim_end())).collect()
}

/// Rows with equal numbers of cells, the first of them the head, below which a
/// rule is drawn. `separator` stands between cells; with `edge`, as in
/// Markdown, a bar on both sides of each line.
pub fn aligned(rows: &[Vec<String>], separator: &str, edge: bool) -> String {
    let widths = widths(rows);
    let (left, right) = if edge { ("| ", " |") } else { ("", "") };
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        out.push_str(format!("{left}{}{right}", line(row, &widths, separator)).trim_end());
        out.push('\n');
        if i == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            out.push_str(&format!("{left}{}{right}\n", rules.join(separator)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "b"], ["é±c", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(aligned(&rows, "  ", false), "a    b\n---  -\né±c\n");
        assert_eq!(aligned(&rows, " | ", true), "| a   | b |\n| --- | - |\n| é±c |   |\n");
    }
}
