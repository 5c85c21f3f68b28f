//! "Did you mean": the nearest of a list of names by edit distance.
//!
//! Takes what was written and what would have been right; returns at most one name, or nothing when none is near.

/// The nearest name, if it is near enough to be meant: at most a third of the letters wrong, and no more than three.
pub(crate) fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (written.chars().count() / 3).clamp(1, 3);
    if written.len() > 64 {
        return None;
    }
    names
        .into_iter()
        .filter(|n| n.len() <= 64 && *n != written)
        .map(|n| (distance(written, n), n))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, n)| n)
}

/// The help line for a near miss.
pub(crate) fn did_you_mean<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(written, names).map(|n| format!("did you mean `{n}`?"))
}

/// Edit distance where swapping two neighbours counts once and case counts nothing.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses() {
        assert_eq!(nearest("bsae", ["base", "large"]), Some("base"));
        assert_eq!(nearest("tokens", ["token", "time"]), Some("token"));
        assert_eq!(nearest("x", ["base", "large"]), None);
        assert_eq!(nearest("Boxed", ["boxed", "text"]), Some("boxed"));
    }
}
