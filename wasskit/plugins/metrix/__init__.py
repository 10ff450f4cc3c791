"""``wasskit metrix``: mixup for deep metric learning."""

from __future__ import annotations

from wasskit.plugins import Plugin

plugin = Plugin(
    name="metrix",
    help="Deep metric learning with mixed pairs, for retrieval of classes never seen.",
    commands={
        "train": "Train an embedding, with or without mixed pairs.",
        "evaluate": "Measure retrieval and the geometry of a trained embedding.",
        "crossval": "Compare losses and mixing with equal tuning, by cross-validation.",
        "search": "Find the images nearest to an image.",
        "embed": "Embed a folder of images.",
        "export": "Export the weights as safetensors and ONNX.",
    },
    package="wasskit.plugins.metrix.commands",
    model="wasskit.plugins.metrix.trained:KIND",
    embeddings="wasskit.plugins.metrix.trained:test_embeddings",
    metrics="wasskit.plugins.metrix.metrics:METRICS",
)
