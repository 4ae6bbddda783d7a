mod memory;
mod rows;
mod schema;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use self::memory::Memory;
use crate::{Analyzer, Chunk, EmbedderId, Filter, Hit, Language, RagError, Store, Vectors};

/// A [`Store`] in one SQLite file.
///
/// It keeps its own BM25 postings, because SQLite's full-text search fixes the constants and drops repeated
/// query terms' weight (measured: up to 0.027 nDCG@10 worse on CACM), and its vectors as plain blobs that are
/// compared one by one, in parallel: exact.
///
/// What a search needs is read when first needed and kept in memory until the file changes, by this process or
/// another. Safe to share between threads; searches take turns.
pub struct SqliteStore {
    path: PathBuf,
    analyzer: Analyzer,
    inner: Mutex<Inner>,
}

struct Inner {
    connection: Connection,
    memory: Option<Memory>,
}

impl SqliteStore {
    /// Opens an index that exists.
    ///
    /// # Errors
    /// [`RagError::Sqlite`] where there is no such file, [`RagError::NotAnIndex`] where it is something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RagError> {
        Self::start(path.as_ref(), OpenFlags::SQLITE_OPEN_READ_WRITE, None)
    }

    /// Opens an index, or makes an empty one whose words are cut to stems by the rules of `language`.
    ///
    /// # Errors
    /// As [`Self::open`]; [`RagError::Config`] where the index exists and has another language.
    pub fn open_or_create(path: impl AsRef<Path>, language: Language) -> Result<Self, RagError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        Self::start(path.as_ref(), flags, Some(language))
    }

    /// An index that lives in memory only.
    ///
    /// # Errors
    /// [`RagError::Sqlite`] where memory is short.
    pub fn in_memory() -> Result<Self, RagError> {
        Self::open_or_create(":memory:", Language::English)
    }

    /// The file; `:memory:` where there is none.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What turns texts and queries into terms.
    pub fn analyzer(&self) -> &Analyzer {
        &self.analyzer
    }

    fn start(path: &Path, flags: OpenFlags, create: Option<Language>) -> Result<Self, RagError> {
        let mut connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(|source| failed("cannot open", path, source))?;
        let language = schema::prepare(&mut connection, path, create)?;
        let inner = Mutex::new(Inner { connection, memory: None });
        Ok(SqliteStore { path: path.to_owned(), analyzer: Analyzer::new(language), inner })
    }

    /// A thread that panicked while it searched leaves nothing half-done: writes are transactions.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the connection, naming `op` where SQLite fails.
    fn read<T>(
        &self,
        op: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, RagError> {
        work(&self.lock().connection).map_err(|source| failed(op, &self.path, source))
    }

    /// Runs `work` with the connection and what is held in memory, read anew where the file has changed.
    fn search<T>(
        &self,
        work: impl FnOnce(&Connection, &mut Memory) -> rusqlite::Result<T>,
    ) -> Result<T, RagError> {
        let mut inner = self.lock();
        let Inner { connection, memory } = &mut *inner;
        let run = || {
            let version = memory::data_version(connection)?;
            memory.take_if(|held| held.version() != version);
            let held = match memory {
                Some(held) => held,
                None => memory.insert(Memory::read(connection, version)?),
            };
            work(connection, held)
        };
        run().map_err(|source| failed("cannot search", &self.path, source))
    }

    /// Runs `work` in a transaction that waits its turn before it reads anything: one that began to read and must
    /// then write fails at once where another process writes.
    fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, RagError>) -> Result<T, RagError> {
        let sqlite = |source| failed("cannot write to", &self.path, source);
        let mut inner = self.lock();
        inner.memory = None;
        let tx =
            inner.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sqlite)?;
        let done = work(&tx)?;
        tx.commit().map_err(sqlite)?;
        Ok(done)
    }
}

/// Whether the index holds vectors of this model already; an error where it holds another's.
fn knows_embedder(held: Option<EmbedderId>, asked: &EmbedderId) -> Result<bool, RagError> {
    match held {
        None => Ok(false),
        Some(held) if held == *asked => Ok(true),
        Some(held) => Err(RagError::OtherEmbedder {
            held: held.name,
            held_dim: held.dim,
            asked: asked.name.clone(),
            asked_dim: asked.dim,
        }),
    }
}

impl Store for SqliteStore {
    fn upsert(&mut self, chunks: &[Chunk], vectors: Option<Vectors<'_>>) -> Result<(), RagError> {
        let mut embedder = None;
        let mut unit = Vec::new();
        if let Some(vectors) = vectors.filter(|_| !chunks.is_empty()) {
            if vectors.rows.len() != chunks.len() {
                return Err(RagError::Shape {
                    op: "upsert",
                    expected: format!("{} vectors", chunks.len()),
                    found: vectors.rows.len().to_string(),
                });
            }
            let dim = vectors.rows.first().map_or(0, Vec::len);
            unit = vectors.rows.iter().map(|row| unit_vector(row, dim)).collect::<Result<_, _>>()?;
            embedder = Some(EmbedderId { name: vectors.embedder.to_owned(), dim });
        }
        let sqlite = |source| failed("cannot write to", &self.path, source);
        self.write(|tx| {
            if let Some(embedder) = &embedder
                && !knows_embedder(schema::embedder(tx).map_err(sqlite)?, embedder)?
            {
                schema::set_embedder(tx, embedder).map_err(sqlite)?;
            }
            rows::upsert(tx, &self.analyzer, chunks, &unit).map_err(sqlite)
        })
    }

    fn delete(&mut self, filter: &Filter) -> Result<usize, RagError> {
        let sqlite = |source| failed("cannot write to", &self.path, source);
        self.write(|tx| rows::delete(tx, &self.analyzer, filter).map_err(sqlite))
    }

    fn get(&self, ids: &[&str]) -> Result<Vec<Option<Chunk>>, RagError> {
        self.read("cannot read", |connection| ids.iter().map(|id| rows::by_id(connection, id)).collect())
    }

    fn count(&self, filter: Option<&Filter>) -> Result<usize, RagError> {
        self.read("cannot read", |connection| match filter {
            None => connection
                .query_row("SELECT count(*) FROM chunks", [], |row| row.get::<_, i64>(0))
                .map(|n| n as usize),
            Some(filter) => Ok(rows::passing(connection, filter)?.len()),
        })
    }

    fn documents(&self) -> Result<Vec<(String, String)>, RagError> {
        self.read("cannot read", rows::documents)
    }

    fn without_vectors(&self) -> Result<Vec<String>, RagError> {
        self.read("cannot read", rows::without_vectors)
    }

    fn embedder(&self) -> Result<Option<EmbedderId>, RagError> {
        self.read("cannot read", schema::embedder)
    }

    fn search_text(&self, query: &str, k: usize, filter: Option<&Filter>) -> Result<Vec<Hit>, RagError> {
        let terms = self.analyzer.terms(query);
        self.search(|connection, memory| {
            let allowed = filter.map(|filter| memory.allowed(connection, filter)).transpose()?;
            let scores = memory.bm25(connection, &terms)?;
            memory.best(connection, scores, k, allowed.as_deref())
        })
    }

    fn search_vector(
        &self,
        query: Vectors<'_>,
        k: usize,
        filter: Option<&Filter>,
    ) -> Result<Vec<Hit>, RagError> {
        let [vector] = query.rows else {
            return Err(RagError::Shape {
                op: "search_vector",
                expected: "1 query vector".to_owned(),
                found: query.rows.len().to_string(),
            });
        };
        let asked = EmbedderId { name: query.embedder.to_owned(), dim: vector.len() };
        if !knows_embedder(self.embedder()?, &asked)? {
            return Err(RagError::NoVectors);
        }
        let vector = unit_vector(vector, vector.len())?;
        self.search(|connection, memory| {
            let allowed = filter.map(|filter| memory.allowed(connection, filter)).transpose()?;
            let scores = memory.cosines(connection, &vector, allowed.as_deref())?;
            memory.best(connection, scores, k, None)
        })
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

fn failed(op: &'static str, path: &Path, source: rusqlite::Error) -> RagError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            RagError::NotAnIndex { path, reason: "it is no SQLite file".to_owned() }
        }
        Some(ErrorCode::DatabaseCorrupt) => RagError::Damaged { path, source },
        _ => RagError::Sqlite { op, path, source },
    }
}

/// The vector scaled to unit length, so that a dot product is the cosine.
fn unit_vector(vector: &[f32], dim: usize) -> Result<Vec<f32>, RagError> {
    let norm = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if vector.len() != dim || dim == 0 || !norm.is_finite() || norm == 0.0 {
        return Err(RagError::Shape {
            op: "read a vector",
            expected: format!("{} numbers that point somewhere", dim.max(1)),
            found: format!("{} numbers of norm {norm}", vector.len()),
        });
    }
    Ok(vector.iter().map(|&x| (f64::from(x) / norm) as f32).collect())
}
