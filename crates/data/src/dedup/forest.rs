//! Union-find over row numbers.

/// Disjoint sets; a set is named by its smallest member, so that names do not depend on the order of unions.
#[derive(Debug, Clone)]
pub(crate) struct Forest(Vec<u32>);

impl Forest {
    pub(crate) fn new(n: usize) -> Self {
        Forest((0..n as u32).collect())
    }

    /// The smallest member of `x`'s set.
    pub(crate) fn root(&self, x: usize) -> usize {
        let mut x = x as u32;
        while self.0[x as usize] != x {
            x = self.0[x as usize];
        }
        x as usize
    }

    pub(crate) fn union(&mut self, a: usize, b: usize) {
        let (a, b) = (self.compress(a), self.compress(b));
        let (low, high) = (a.min(b), a.max(b));
        self.0[high] = low as u32;
    }

    fn compress(&mut self, x: usize) -> usize {
        let root = self.root(x);
        let mut at = x;
        while at != root {
            at = std::mem::replace(&mut self.0[at], root as u32) as usize;
        }
        root
    }

    /// Each row's set.
    pub(crate) fn roots(mut self) -> Vec<usize> {
        (0..self.0.len()).map(|x| self.compress(x)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sets_are_the_closure_whatever_the_order(
            mut edges in prop::collection::vec((0..20_usize, 0..20_usize), 0..30)
        ) {
            let roots = |edges: &[(usize, usize)]| {
                let mut forest = Forest::new(20);
                for &(a, b) in edges {
                    forest.union(a, b);
                }
                forest.roots()
            };
            let forward = roots(&edges);
            edges.reverse();
            prop_assert_eq!(&forward, &roots(&edges));
            for &(a, b) in &edges {
                prop_assert_eq!(forward[a], forward[b]);
            }
            for (x, &root) in forward.iter().enumerate() {
                prop_assert!(root <= x && forward[root] == root);
            }
        }
    }
}
