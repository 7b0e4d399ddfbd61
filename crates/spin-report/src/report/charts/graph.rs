//! The lineage of all numbers as a graph: sources on the left, scores on the
//! right, each box a link to what is known of it.

use super::figure::Figure;
use crate::report::escape;
use crate::report::lineage::Node;
use crate::report::svg::{at, open, text};

const BOX: (f64, f64) = (150.0, 32.0);
const STEP: (f64, f64) = (186.0, 42.0);
const LONGEST: usize = 21;

/// The graph; `None` of nothing.
pub fn figure(nodes: &[Node]) -> Option<Figure> {
    if nodes.is_empty() {
        return None;
    }
    let places = layout(nodes);
    let widest = places.iter().map(|(column, _)| *column).max().unwrap_or(0);
    let tallest = places.iter().map(|(_, row)| *row).max().unwrap_or(0);
    let corner = |i: usize| (places[i].0 as f64 * STEP.0 + 6.0, places[i].1 as f64 * STEP.1 + 6.0);
    let (width, height) = (widest as f64 * STEP.0 + BOX.0 + 12.0, tallest as f64 * STEP.1 + BOX.1 + 12.0);
    let description = format!(
        "{} artifacts and files, from sources on the left to scores on the right. Each box is a link to its record \
         below, which lists the same inputs.",
        nodes.len()
    );
    let mut out = open("lineage", "Lineage", &description, width, height);
    // Boxes are links, which an image may not have.
    out = out.replacen("class=\"chart\"", &format!("class=\"chart graph\" width=\"{}\"", at(width)), 1);
    out = out.replacen("role=\"img\"", "role=\"group\"", 1);
    for (i, node) in nodes.iter().enumerate() {
        let (x2, y2) = (corner(i).0, corner(i).1 + BOX.1 / 2.0);
        for (_, parent) in &node.parents {
            let (x1, y1) = (corner(*parent).0 + BOX.0, corner(*parent).1 + BOX.1 / 2.0);
            let middle = (x1 + x2) / 2.0;
            out += &format!(
                "<path d=\"M{} {}C{} {} {} {} {} {}\" class=\"edge\" data-from=\"{parent}\" data-to=\"{i}\"/>",
                at(x1),
                at(y1),
                at(middle),
                at(y1),
                at(middle),
                at(y2),
                at(x2),
                at(y2)
            );
        }
    }
    let mut rows = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let (x, y) = corner(i);
        let name = node.name();
        let chars = name.chars().count();
        // The end of a name says more than its beginning.
        let shown: String = match chars > LONGEST {
            true => std::iter::once('…').chain(name.chars().skip(chars - LONGEST + 1)).collect(),
            false => name.into(),
        };
        let kind = match node.made.as_ref().and_then(|made| made.seed) {
            Some(seed) => format!("{} · seed {seed}", node.kind()),
            None => node.kind().to_owned(),
        };
        out += &format!(
            "<a href=\"#{}\" class=\"node {}\" data-node=\"{i}\"><title>{}</title><rect x=\"{}\" y=\"{}\" width=\"{}\" \
             height=\"{}\" rx=\"4\"/>",
            node.link.anchor(),
            escape::id(node.kind()),
            escape::html(&node.link.reference),
            at(x),
            at(y),
            at(BOX.0),
            at(BOX.1)
        );
        out += &text(x + 7.0, y + 12.5, "kind", &kind);
        out += &text(x + 7.0, y + 26.0, "", &shown);
        out += "</a>";
        let parents: Vec<&str> =
            node.parents.iter().map(|(_, parent)| nodes[*parent].link.reference.as_str()).collect();
        rows.push(vec![node.link.reference.clone(), parents.join(", ")]);
    }
    out += "</svg>";
    Some(Figure {
        name: "lineage".into(),
        title: "Lineage".into(),
        note: "Every box leads to its record: digests, seeds, settings, files, and the command that makes it.".into(),
        svg: out,
        head: vec!["artifact or file".into(), "made from".into()],
        rows,
    })
}

/// Column and row of each node.
fn layout(nodes: &[Node]) -> Vec<(usize, usize)> {
    let mut columns: Vec<usize> = nodes.iter().map(|node| node.depth).collect();
    // Sources stand just before who needs them first.
    let mut first = vec![usize::MAX; nodes.len()];
    for node in nodes {
        for (_, parent) in &node.parents {
            first[*parent] = first[*parent].min(node.depth);
        }
    }
    for (i, node) in nodes.iter().enumerate().filter(|(_, node)| node.parents.is_empty()) {
        columns[i] = first[i].checked_sub(1).filter(|_| first[i] != usize::MAX).unwrap_or(node.depth);
    }
    let last = columns.iter().copied().max().unwrap_or(0);
    let mut places = vec![(0, 0); nodes.len()];
    for column in 0..=last {
        let mut own: Vec<usize> = (0..nodes.len()).filter(|i| columns[*i] == column).collect();
        // At the height of what they are made from.
        let height = |i: usize| {
            let parents = &nodes[i].parents;
            let rows = parents.iter().map(|(_, parent)| places[*parent].1).sum::<usize>();
            if parents.is_empty() { f64::MAX } else { rows as f64 / parents.len() as f64 }
        };
        own.sort_by(|a, b| height(*a).total_cmp(&height(*b)).then(a.cmp(b)));
        for (row, i) in own.into_iter().enumerate() {
            places[i] = (column, row);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::lineage::Link;

    #[test]
    fn parents_stand_left_of_their_children() {
        let node = |name: &str, parents: &[usize], depth| Node {
            link: Link { reference: format!("file:{name}"), content: String::new() },
            made: None,
            parents: parents.iter().map(|p| ("r".to_owned(), *p)).collect(),
            depth,
        };
        let nodes = [node("a", &[], 0), node("b", &[0], 1), node("late", &[], 0), node("c", &[1, 2], 2)];
        let places = layout(&nodes);
        assert_eq!(places, [(0, 0), (1, 0), (1, 1), (2, 0)]);
        let figure = figure(&nodes).unwrap();
        assert_eq!(figure.svg.matches("<a ").count(), 4);
        assert_eq!(figure.rows[3], ["file:c", "file:b, file:late"]);
    }
}
