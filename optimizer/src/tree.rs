//! The order in which a report shows the places of a strategy: what consumes first, what it consumes below it.
//!
//! Takes the data flow of [`crate::facts`]; returns indices with depths. A place is shown once, under the first place
//! that consumes it, so that the rows add up.

use crate::facts::Node;

/// Indices of `nodes` with their depths, consumers first; among equals the later one first.
pub(crate) fn order(nodes: &[Node]) -> Vec<(usize, u32)> {
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut free = vec![true; nodes.len()];
    // The first consumer takes a place: nodes come in order of execution.
    for (consumer, node) in nodes.iter().enumerate() {
        for read in node.reads.iter().copied().filter(|r| *r < consumer) {
            if std::mem::replace(&mut free[read], false) {
                below[consumer].push(read);
            }
        }
    }
    // A stack, not recursion: chains may be long. What is pushed last is shown first.
    let mut open: Vec<(usize, u32)> = (0..nodes.len()).filter(|i| free[*i]).map(|i| (i, 0)).collect();
    let mut shown = Vec::new();
    while let Some((index, depth)) = open.pop() {
        shown.push((index, depth));
        open.extend(below[index].iter().map(|child| (*child, depth + 1)));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::What;
    use std::collections::BTreeSet;

    fn node(reads: &[usize]) -> Node {
        Node { what: What::Select("best", 1.0, 1.0), reads: BTreeSet::from_iter(reads.iter().copied()) }
    }

    #[test]
    fn consumers_come_first_and_every_place_once() {
        // 0 sample, 1 its scores, 2 the best of both, 3 a sample of its own.
        let nodes = [node(&[]), node(&[0]), node(&[0, 1]), node(&[])];
        assert_eq!(order(&nodes), [(3, 0), (2, 0), (1, 1), (0, 2)]);
    }

    #[test]
    fn chains_of_any_length_are_shown() {
        let nodes: Vec<Node> = (0..20_000).map(|i| if i == 0 { node(&[]) } else { node(&[i - 1]) }).collect();
        let order = order(&nodes);
        assert_eq!(order.len(), 20_000);
        assert_eq!((order[0], order[19_999]), ((19_999, 0), (0, 19_999)));
    }
}
