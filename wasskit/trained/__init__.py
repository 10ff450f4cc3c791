"""Trained models: one contract, :class:`wasskit.trained.kind.ModelKind`, from which come load, embed and export."""
