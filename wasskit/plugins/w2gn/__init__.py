"""`wasskit w2gn`: Wasserstein-2 generative networks, optimal transport maps by input-convex networks."""

from wasskit.plugins import Plugin

plugin = Plugin(
    name="w2gn",
    help="Optimal transport maps by input-convex networks (Wasserstein-2 generative networks).",
    commands={
        "fit": "Maps between any two clouds of vectors, from files.",
        "toy": "Map a normal to a mixture, a spiral or any cloud in the plane.",
        "gaussians": "Maps between Gaussians in up to thousands of dimensions, against the closed form.",
        "benchmark": "Pairs with a known map that is not linear, beside the published solvers.",
        "color": "Exchange the palettes of two photographs.",
        "apply": "Apply a saved map to images of any size or to vectors.",
        "export": "Export a trained map as safetensors.",
        "latent": "Transport a normal to the latent distribution of an autoencoder and sample images.",
        "domain": "Adapt the features of one domain to a classifier trained on another.",
        "style": "Convolutional maps between two folders of images.",
    },
    package="wasskit.plugins.w2gn.commands",
    model="wasskit.plugins.w2gn.maps:KIND",
    metrics="wasskit.plugins.w2gn.metrics:METRICS",
)
