//! Which known word was probably meant.
//!
//! Takes a misspelled word and candidates, returns the closest within a third of its length; ties go to the earlier.

/// Words longer than this are not compared.
const MAX_WORD: usize = 32;

/// The closest candidate, counting insertions, deletions, substitutions and swaps of neighbours.
pub(super) fn closest(word: &str, candidates: &[&'static str]) -> Option<&'static str> {
    if word.len() > MAX_WORD || word.len() < 2 {
        return None;
    }
    let allowed = (word.len() / 3).clamp(1, 3);
    candidates
        .iter()
        .map(|candidate| (distance(word.as_bytes(), candidate.as_bytes()), *candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let words = ["strategy", "model", "test", "tool"];
        assert_eq!(closest("stratgy", &words), Some("strategy"));
        assert_eq!(closest("modle", &words), Some("model"));
        assert_eq!(closest("tset", &words), Some("test"));
        assert_eq!(closest("banana", &words), None);
        assert_eq!(closest("", &words), None);
    }
}
