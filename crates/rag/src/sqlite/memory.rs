//! What searches read again and again, held in memory until the file changes.

use std::collections::BTreeMap;

use rayon::prelude::*;
use rusqlite::{Connection, OptionalExtension};

use super::rows;
use crate::bm25::{idf, term_weight};
use crate::{Filter, Hit};

/// Chunks are numbered 0.. in the order of their rows here; "slot" is that number.
pub(super) struct Memory {
    version: i64,
    rows: Vec<i64>,
    lens: Vec<u32>,
    mean_len: f64,
    postings: BTreeMap<String, Vec<Posting>>,
    vectors: Option<Matrix>,
}

/// One chunk of a term, with [`term_weight`] worked out.
struct Posting {
    slot: u32,
    weight: f32,
}

/// All vectors, one after another.
struct Matrix {
    dim: usize,
    slots: Vec<u32>,
    data: Vec<f32>,
}

/// Changes whenever another connection writes to the file; our own writes drop the memory themselves.
pub(super) fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

impl Memory {
    pub(super) fn read(connection: &Connection, version: i64) -> rusqlite::Result<Self> {
        let (mut rows, mut lens) = (Vec::new(), Vec::new());
        let mut read = connection.prepare_cached("SELECT row, n_terms FROM chunks ORDER BY row")?;
        let mut found = read.query([])?;
        while let Some(row) = found.next()? {
            rows.push(row.get(0)?);
            lens.push(row.get(1)?);
        }
        let total: u64 = lens.iter().map(|&len: &u32| u64::from(len)).sum();
        // Where every chunk is empty no posting exists, and the mean divides nothing.
        let mean_len = total as f64 / rows.len().max(1) as f64;
        Ok(Memory { version, rows, lens, mean_len, postings: BTreeMap::new(), vectors: None })
    }

    pub(super) fn version(&self) -> i64 {
        self.version
    }

    /// For each slot, whether it passes.
    pub(super) fn allowed(&self, connection: &Connection, filter: &Filter) -> rusqlite::Result<Vec<bool>> {
        let mut allowed = vec![false; self.rows.len()];
        for row in rows::passing(connection, filter)? {
            if let Ok(slot) = self.rows.binary_search(&row) {
                allowed[slot] = true;
            }
        }
        Ok(allowed)
    }

    /// The slots that share a term with the query, with their BM25 scores, in the order of slots.
    pub(super) fn bm25(
        &mut self,
        connection: &Connection,
        terms: &[String],
    ) -> rusqlite::Result<Vec<(u32, f64)>> {
        let mut repeats: BTreeMap<&str, u32> = BTreeMap::new();
        for term in terms {
            *repeats.entry(term).or_insert(0) += 1;
        }
        let mut scores = vec![0f64; self.rows.len()];
        for (term, n) in repeats {
            if !self.postings.contains_key(term) {
                let postings = self.read_postings(connection, term)?;
                self.postings.insert(term.to_owned(), postings);
            }
            let postings = &self.postings[term];
            let factor = f64::from(n) * idf(self.rows.len(), postings.len());
            for posting in postings {
                scores[posting.slot as usize] += factor * f64::from(posting.weight);
            }
        }
        Ok((0u32..).zip(scores).filter(|(_, score)| *score > 0.0).collect())
    }

    fn read_postings(&self, connection: &Connection, term: &str) -> rusqlite::Result<Vec<Posting>> {
        let id: Option<i64> = connection
            .prepare_cached("SELECT term FROM terms WHERE text = ?")?
            .query_row([term], |row| row.get(0))
            .optional()?;
        let Some(id) = id else { return Ok(Vec::new()) };
        let mut read = connection.prepare_cached("SELECT chunk, tf FROM postings WHERE term = ?")?;
        let mut found = read.query([id])?;
        let mut postings = Vec::new();
        while let Some(row) = found.next()? {
            if let Ok(slot) = self.rows.binary_search(&row.get(0)?) {
                let weight = term_weight(row.get(1)?, self.lens[slot], self.mean_len) as f32;
                postings.push(Posting { slot: slot as u32, weight });
            }
        }
        Ok(postings)
    }

    /// Each slot's cosine with a unit vector, in the order of slots.
    pub(super) fn cosines(
        &mut self,
        connection: &Connection,
        query: &[f32],
        allowed: Option<&[bool]>,
    ) -> rusqlite::Result<Vec<(u32, f64)>> {
        if self.vectors.is_none() {
            self.vectors = Some(self.read_vectors(connection, query.len())?);
        }
        let Some(matrix) = &self.vectors else { return Ok(Vec::new()) };
        Ok(matrix
            .data
            .par_chunks_exact(matrix.dim)
            .zip(&matrix.slots)
            .filter(|(_, slot)| allowed.is_none_or(|allowed| allowed[**slot as usize]))
            .map(|(row, slot)| (*slot, f64::from(dot(row, query))))
            .collect())
    }

    fn read_vectors(&self, connection: &Connection, dim: usize) -> rusqlite::Result<Matrix> {
        let mut matrix = Matrix { dim, slots: Vec::new(), data: Vec::with_capacity(self.rows.len() * dim) };
        let mut read = connection.prepare_cached("SELECT chunk, vector FROM vectors ORDER BY chunk")?;
        let mut found = read.query([])?;
        while let Some(row) = found.next()? {
            let bytes = row.get_ref(1)?.as_blob()?;
            if let (Ok(slot), true) = (self.rows.binary_search(&row.get(0)?), bytes.len() == dim * 4) {
                matrix.slots.push(slot as u32);
                matrix.data.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
            }
        }
        Ok(matrix)
    }

    /// The `k` best slots as hits, equal scores in the order of slots.
    pub(super) fn best(
        &self,
        connection: &Connection,
        mut scores: Vec<(u32, f64)>,
        k: usize,
        allowed: Option<&[bool]>,
    ) -> rusqlite::Result<Vec<Hit>> {
        if let Some(allowed) = allowed {
            scores.retain(|(slot, _)| allowed[*slot as usize]);
        }
        let better = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if k < scores.len() {
            // Only the best k are put in order: sorting all of them would cost more than scoring them.
            if k > 0 {
                scores.select_nth_unstable_by(k - 1, better);
            }
            scores.truncate(k);
        }
        scores.sort_unstable_by(better);
        let mut hits = Vec::with_capacity(scores.len());
        for (slot, score) in scores {
            if let Some(chunk) = rows::by_row(connection, self.rows[slot as usize])? {
                hits.push(Hit { chunk, score });
            }
        }
        Ok(hits)
    }
}

/// Eight sums side by side, which the compiler turns into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (x, y) in a8.iter().zip(b8) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f32>()
}
