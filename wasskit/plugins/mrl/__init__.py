"""``wasskit mrl``: Matryoshka-Wasserstein representation learning."""

from __future__ import annotations

from wasskit.plugins import Plugin

plugin = Plugin(
    name="mrl",
    help="Matryoshka-Wasserstein embeddings: prefixes of one embedding that serve at every size.",
    commands={
        "train": "Train nested embeddings.",
        "baseline": "Train an independent network for each dimension.",
        "adapt": "Make the embeddings of any model smaller, from files.",
        "sweep": "Train a grid of settings and tabulate it.",
        "adapt-sweep": "Train a grid of adaptors and compare them.",
        "evaluate": "Measure a trained model at every dimension.",
        "retrieve": "Retrieve with short prefixes first: accuracy against cost.",
        "classify": "Classify by growing prefixes: accuracy against cost.",
        "index create": "Make an index of embeddings.",
        "index add": "Add embeddings to an index.",
        "index delete": "Delete embeddings from an index by their ids.",
        "index compact": "Write an index anew, without what was deleted.",
        "index show": "Show what an index holds.",
        "search": "Find the nearest neighbours of embeddings or images in an index.",
        "embed": "Embed a folder of images, or a file of vectors by an adaptor.",
        "export": "Export the weights as safetensors and ONNX.",
    },
    package="wasskit.plugins.mrl.commands",
    aliases={
        f"index {name}": "wasskit.plugins.mrl.commands.index" for name in ("create", "add", "delete", "compact", "show")
    },
    groups={"index": "An index of embeddings on disk, which `search` finds neighbours in."},
    model="wasskit.plugins.mrl.trained:KINDS",
    choices="wasskit.plugins.mrl.options:PrefixOptions",
    embeddings="wasskit.plugins.mrl.trained:test_embeddings",
    metrics="wasskit.plugins.mrl.metrics:METRICS",
)
