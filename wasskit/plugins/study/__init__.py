"""`wasskit study`: the empirical studies of the uniformity metrics, and the same metrics for one's own embeddings."""

from wasskit.plugins import Plugin

plugin = Plugin(
    name="study",
    help="Study uniformity: what W2 and L_U see of collapse, and what they say of your embeddings.",
    commands={
        "measure": "Measure the uniformity of embeddings, with a verdict on their collapse.",
        "compare": "Tell whether two sets of embeddings come from one distribution.",
        "predict": "Tell which label-free measures predict the accuracy of your runs.",
        "density": "A coordinate of the uniform sphere against N(0, 1/m), in one and two dimensions.",
        "collapse": "Both metrics as a growing share of the coordinates collapses.",
        "dimension": "Both metrics as the dimension grows, at four degrees of collapse.",
        "fcc": "Feature cloning: the features repeated k times.",
        "fbc": "Feature baby: k blocks of zero features appended.",
        "icc": "Instance cloning: the sample repeated k times.",
        "means": "Normalised Gaussians whose mean moves away from the origin.",
        "all": "All studies into one run directory.",
    },
    package="wasskit.plugins.study.commands",
    aliases=dict.fromkeys(("fcc", "fbc", "icc"), "wasskit.plugins.study.commands.cloning"),
    metrics="wasskit.plugins.study.metrics:METRICS",
)
