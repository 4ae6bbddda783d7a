//! Chunk, index, retrieve, rerank, ground and cite.
