/// The known word that is at most two slips away.
pub(crate) fn closest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let limit = (word.chars().count() / 3).clamp(1, 2);
    known
        .into_iter()
        .map(|candidate| (slips(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words, case aside.
fn slips(a: &str, b: &str) -> usize {
    let fold = |word: &str| -> Vec<char> { word.to_lowercase().chars().collect() };
    let (a, b) = (fold(a), fold(b));
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
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
    fn the_closest_word_is_near() {
        assert_eq!(closest("upsteam", ["host", "upstream"]), Some("upstream"));
        assert_eq!(closest("acess", ["access", "allow"]), Some("access"));
        assert_eq!(closest("hots", ["host", "hosts"]), Some("host"));
        assert_eq!(closest("colour", ["host", "upstream"]), None);
        assert_eq!(closest("x", ["abc"]), None);
    }
}
