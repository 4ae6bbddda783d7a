//! Perplexity, benchmark tasks, text metrics, judges and the statistics to compare two models.
