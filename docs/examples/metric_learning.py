"""Deep metric learning with mixed pairs: five classes of digits are learned, five others are retrieved.

    python docs/examples/metric_learning.py

It takes some seconds on two cores. Settings are small, not published ones: those are recipes of `wasskit metrix train`.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from wasskit import MetrixLoss, map_at_r, recall_at_k

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(digits.target)
seen = labels < 5


def train(mode: str, epochs: int = 15) -> nn.Module:
    """A network trained by the multi-similarity loss on the classes 0 to 4."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(256, 64),
    )  # fmt: skip
    loss = MetrixLoss("multisimilarity", mode)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    x, y = images[seen], labels[seen]
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(100):
            # "embed" mixes embeddings as they are given: pass unit vectors.
            embeddings = nn.functional.normalize(network(x[chosen]))
            terms = loss(embeddings, y[chosen])
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
    return network.eval()


for mode in ("baseline", "embed"):
    network = train(mode)
    with torch.no_grad():
        embeddings = network(images[~seen])
    recall = 100 * recall_at_k(embeddings, labels[~seen], (1, 2))
    precision = 100 * map_at_r(embeddings, labels[~seen])
    print(f"{mode:8s}: recall@1 {recall[0]:.1f} %, recall@2 {recall[1]:.1f} %, MAP@R {precision:.1f} %")
