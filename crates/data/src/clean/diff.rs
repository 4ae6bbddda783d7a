//! What a fix changed, word by word.

use crate::Edit;

/// Beyond this many differing words the rest is told as one change: the search takes quadratic time.
const MAX_DISTANCE: usize = 200;

/// The changes that turn `before` into `after`, in order, offsets in characters of `before`. Replacing each
/// `start..end` by its `after`, from the last to the first, gives `after` again.
pub fn edits(id: &str, step: &str, field: &str, before: &str, after: &str) -> Vec<Edit> {
    let mut out = Vec::new();
    push(id, step, field, before, after, &mut out);
    out
}

/// As [`edits`], onto a list.
pub(crate) fn push(id: &str, step: &str, field: &str, before: &str, after: &str, out: &mut Vec<Edit>) {
    let (a, b) = (pieces(before), pieces(after));
    let head = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let (mut char_at, mut counted) = (0, 0);
    for (from, to) in hunks(old, new) {
        let start = head + from.start;
        char_at += a[counted..start].iter().map(|p| p.chars().count()).sum::<usize>();
        counted = start;
        let text: String = old[from.clone()].concat();
        out.push(Edit {
            id: id.to_owned(),
            step: step.to_owned(),
            field: field.to_owned(),
            start: char_at,
            end: char_at + text.chars().count(),
            before: text,
            after: new[to].concat(),
        });
    }
}

/// Words, runs of blanks, and single other characters.
fn pieces(text: &str) -> Vec<&str> {
    let class = |c: char| {
        if c.is_alphanumeric() {
            1
        } else if c.is_whitespace() {
            2
        } else {
            0
        }
    };
    let mut out = Vec::new();
    let mut start = 0;
    let mut last = None;
    for (at, c) in text.char_indices() {
        if last.is_some_and(|l| l == 0 || l != class(c)) {
            out.push(&text[start..at]);
            start = at;
        }
        last = Some(class(c));
    }
    if start < text.len() {
        out.push(&text[start..]);
    }
    out
}

type Span = std::ops::Range<usize>;

/// The differing stretches of two lists (Myers 1986, greedy forward search).
fn hunks(a: &[&str], b: &[&str]) -> Vec<(Span, Span)> {
    if a.is_empty() && b.is_empty() {
        return Vec::new();
    }
    let Some(matches) = matches(a, b) else { return vec![(0..a.len(), 0..b.len())] };
    let mut out: Vec<(Span, Span)> = Vec::new();
    let (mut x, mut y) = (0, 0);
    for (mx, my) in matches.into_iter().chain([(a.len(), b.len())]) {
        if mx > x || my > y {
            out.push((x..mx, y..my));
        }
        (x, y) = (mx + 1, my + 1);
    }
    out
}

/// The pairs of equal pieces on a shortest path; `None` where the lists differ too much.
fn matches(a: &[&str], b: &[&str]) -> Option<Vec<(usize, usize)>> {
    let (n, m) = (a.len() as isize, b.len() as isize);
    let max = ((n + m) as usize).min(MAX_DISTANCE) as isize;
    let index = |k: isize| (k + max + 1) as usize;
    let mut furthest = vec![0isize; 2 * max as usize + 3];
    let mut trace: Vec<Vec<isize>> = Vec::new();
    for d in 0..=max {
        trace.push(furthest.clone());
        for k in (-d..=d).step_by(2) {
            let down = k == -d || k != d && furthest[index(k - 1)] < furthest[index(k + 1)];
            let mut x = if down { furthest[index(k + 1)] } else { furthest[index(k - 1)] + 1 };
            while x < n && x - k < m && a[x as usize] == b[(x - k) as usize] {
                x += 1;
            }
            furthest[index(k)] = x;
            if x >= n && x - k >= m {
                return Some(walk_back(&trace, n, m, index));
            }
        }
    }
    None
}

fn walk_back(
    trace: &[Vec<isize>],
    n: isize,
    m: isize,
    index: impl Fn(isize) -> usize,
) -> Vec<(usize, usize)> {
    let (mut x, mut y) = (n, m);
    let mut out = Vec::new();
    for (d, furthest) in trace.iter().enumerate().rev() {
        let (d, k) = (d as isize, x - y);
        let down = k == -d || k != d && furthest[index(k - 1)] < furthest[index(k + 1)];
        let back_k = if down { k + 1 } else { k - 1 };
        let back_x = furthest[index(back_k)];
        let back_y = back_x - back_k;
        while x > back_x.max(0) && y > back_y.max(0) {
            (x, y) = (x - 1, y - 1);
            out.push((x as usize, y as usize));
        }
        (x, y) = (back_x, back_y);
    }
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(before: &str, after: &str, expect: &[(usize, usize, &str, &str)]) {
        let got = edits("r", "s", "f", before, after);
        let got: Vec<_> = got.iter().map(|e| (e.start, e.end, &*e.before, &*e.after)).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn each_changed_word_is_one_edit() {
        check(
            "a cafÃ© is a cafÃ©",
            "a café is a café",
            &[(2, 7, "cafÃ©", "café"), (13, 18, "cafÃ©", "café")],
        );
        check("same", "same", &[]);
        check("", "new", &[(0, 0, "", "new")]);
        check("gone", "", &[(0, 4, "gone", "")]);
    }

    proptest! {
        #[test]
        fn edits_lead_from_one_text_to_the_other(a in "[ab é.]{0,30}", b in "[ab é.]{0,30}") {
            let mut text: Vec<char> = a.chars().collect();
            for edit in edits("r", "s", "f", &a, &b).iter().rev() {
                prop_assert_eq!(text[edit.start..edit.end].iter().collect::<String>(), edit.before.as_str());
                text.splice(edit.start..edit.end, edit.after.chars());
            }
            prop_assert_eq!(text.into_iter().collect::<String>(), b);
        }
    }
}
