"""Self-supervised learning of handwritten digits by Barlow Twins, with and without the W2 uniformity loss.

    python docs/examples/self_supervised.py

It takes about half a minute on two cores. Settings are small, not published ones: those are recipes of `wasskit ssl`.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.transforms import v2

from wasskit import W2UniformityLoss, knn_accuracy, rankme, w2_uniformity
from wasskit.plugins.ssl.losses import barlow_twins_loss

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(digits.target)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, test = order[:1400], order[1400:]


def views(batch: Tensor) -> Tensor:
    """One random view of each image: a crop, resized, and noise."""
    crop = v2.RandomResizedCrop(8, scale=(0.4, 1.0), antialias=True)
    return torch.stack([crop(image) for image in batch]) + 0.1 * torch.randn_like(batch)


def pretrain(weight: float, epochs: int = 10) -> tuple[nn.Module, nn.Module]:
    """Backbone and projector, trained with the uniformity term times ``weight``."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
    )  # fmt: skip
    projector = nn.Sequential(nn.Linear(256, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64))
    uniformity = W2UniformityLoss()
    optimizer = torch.optim.AdamW([*backbone.parameters(), *projector.parameters()], lr=2e-3)
    for _ in range(epochs):
        for chosen in train[torch.randperm(len(train))].split(200):
            z1, z2 = (projector(backbone(views(images[chosen]))) for _ in range(2))
            loss = barlow_twins_loss(z1, z2) + weight * uniformity(z1, z2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return backbone.eval(), projector.eval()


for weight in (0.0, 30.0):
    backbone, projector = pretrain(weight)
    with torch.no_grad():
        features = backbone(images)
        embeddings = projector(features)[test]
    accuracy = 100 * knn_accuracy(features[train], labels[train], features[test], labels[test], k=10)
    print(
        f"weight {weight:4.1f}: 10-NN {accuracy:.1f} %, W2 to uniformity {w2_uniformity(embeddings):.2f}, "
        f"RankMe {rankme(embeddings):.1f} of 64"
    )
