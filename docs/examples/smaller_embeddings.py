"""Vectors of any model made smaller, and what is lost: an adaptor beside principal components.

    python docs/examples/smaller_embeddings.py

It takes about half a minute on two cores. The vectors here are the 64 pixels of digits; yours come from any encoder.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from wasskit import MatryoshkaAdaptor

digits = load_digits()
vectors, labels = digits.data.astype(np.float32), digits.target
rng = np.random.default_rng(0)
order = rng.permutation(len(vectors))
train, test = order[:1400], order[1400:]

adaptor = MatryoshkaAdaptor(dims=(2, 4, 8, 16, 32, 64), random_state=0).fit(vectors[train], labels[train])
adapted = adaptor.transform(vectors)
components = PCA().fit(vectors[train]).transform(vectors)


def accuracy(x: np.ndarray) -> float:
    """1-NN accuracy by cosine, in percent."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return 100 * KNeighborsClassifier(1).fit(x[train], labels[train]).score(x[test], labels[test])


print("numbers   components   adapted")
for dim in (2, 4, 8, 16, 32, 64):
    print(f"{dim:7d}   {accuracy(components[:, :dim]):9.1f} %   {accuracy(adapted[:, :dim]):6.1f} %")
