"""Adaptors of frozen embeddings: vectors in, vectors out whose prefixes serve at every size."""
