use std::collections::BTreeMap;

/// For every edge (better, worse) of a graph over `n` nodes: how many nodes the cycle it lies on has at the
/// most (the size of its strongly connected component), or 1 where it lies on none. Tarjan's algorithm with an
/// explicit stack, so that a long chain cannot overflow the thread's.
pub(crate) fn cycle_sizes(n: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut next: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &(from, to) in edges {
        next.entry(from).or_default().push(to);
    }
    let empty = Vec::new();
    let unseen = usize::MAX;
    let (mut order, mut low, mut component) = (vec![unseen; n], vec![0; n], vec![unseen; n]);
    let (mut counter, mut open, mut sizes) = (0, Vec::new(), Vec::new());
    for root in 0..n {
        let mut path = vec![(root, 0)];
        while let Some(&mut (node, ref mut at)) = path.last_mut() {
            if *at == 0 {
                if order[node] != unseen {
                    path.pop();
                    continue;
                }
                order[node] = counter;
                low[node] = counter;
                counter += 1;
                open.push(node);
            }
            let targets = next.get(&node).unwrap_or(&empty);
            if *at > 0 {
                let child = targets[*at - 1];
                if component[child] == unseen {
                    low[node] = low[node].min(low[child]);
                }
            }
            // Children seen already are looked at in place; an unseen one is gone into.
            let mut descend = None;
            while *at < targets.len() && descend.is_none() {
                let child = targets[*at];
                *at += 1;
                if order[child] == unseen {
                    descend = Some(child);
                } else if component[child] == unseen {
                    low[node] = low[node].min(order[child]);
                }
            }
            if let Some(child) = descend {
                path.push((child, 0));
                continue;
            }
            if targets.is_empty() || *at >= targets.len() {
                if low[node] == order[node] {
                    let mut size = 0;
                    while let Some(member) = open.pop() {
                        component[member] = sizes.len();
                        size += 1;
                        if member == node {
                            break;
                        }
                    }
                    sizes.push(size);
                }
                path.pop();
            }
        }
    }
    edges.iter().map(|&(a, b)| if component[a] == component[b] { sizes[component[a]] } else { 1 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether `to` can be reached from `from`, the slow way.
    fn reaches(edges: &[(usize, usize)], from: usize, to: usize) -> bool {
        let mut seen = vec![from];
        let mut i = 0;
        while i < seen.len() {
            for &(a, b) in edges {
                if a == seen[i] && !seen.contains(&b) {
                    seen.push(b);
                }
            }
            i += 1;
        }
        seen.contains(&to)
    }

    proptest! {
        #[test]
        fn an_edge_lies_on_a_cycle_where_its_end_leads_back(
            edges in prop::collection::vec((0..9usize, 0..9usize), 0..25)
        ) {
            let edges: Vec<_> = edges.into_iter().filter(|(a, b)| a != b).collect();
            for (&(a, b), size) in edges.iter().zip(cycle_sizes(9, &edges)) {
                prop_assert_eq!(size > 1, reaches(&edges, b, a), "{} {} {:?}", a, b, edges);
                let together = (0..9).filter(|&n| reaches(&edges, a, n) && reaches(&edges, n, a)).count();
                prop_assert!(size == 1 || size == together);
            }
        }
    }

    #[test]
    fn a_long_chain_does_not_overflow() {
        let edges: Vec<(usize, usize)> = (0..200_000).map(|i| (i, (i + 1) % 200_000)).collect();
        assert_eq!(cycle_sizes(200_000, &edges)[7], 200_000);
    }
}
