"""Training data: corpora, answers of a teacher, batches, overlap with the suites."""
