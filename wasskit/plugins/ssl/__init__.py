"""``wasskit ssl``: self-supervised learning with a uniformity term."""

from __future__ import annotations

from wasskit.plugins import Plugin

plugin = Plugin(
    name="ssl",
    help="Self-supervised pretraining with the W2 uniformity loss: MoCo v2, BYOL, Barlow Twins, Zero-CL.",
    commands={
        "moco": "Pretrain by MoCo v2: contrast with a queue of keys.",
        "byol": "Pretrain by BYOL: predict a moving average of oneself.",
        "barlow": "Pretrain by Barlow Twins: decorrelate features.",
        "zerocl": "Pretrain by Zero-CL: whiten features or instances.",
        "invariance": "Pretrain by invariance and a regulariser alone: VICReg, LeJEPA, VISReg.",
        "linear": "Train a linear classifier on a pretrained backbone.",
        "knn": "Classify by nearest neighbours on a pretrained backbone.",
        "evaluate": "Measure accuracy, uniformity, alignment and the spectrum.",
        "embed": "Embed a folder of images.",
        "export": "Export the backbone as safetensors and ONNX.",
    },
    package="wasskit.plugins.ssl.commands",
    model="wasskit.plugins.ssl.trained:KIND",
    choices="wasskit.plugins.ssl.options:LayerOptions",
    embeddings="wasskit.plugins.ssl.measure:test_embeddings",
    metrics="wasskit.plugins.ssl.metrics:METRICS",
)
