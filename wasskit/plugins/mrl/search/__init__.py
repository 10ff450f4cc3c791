"""An index of embeddings on disk: short codes of prefixes find a shortlist, the whole vectors rank it."""
