"""Matryoshka-Wasserstein embeddings of handwritten digits, with nothing but torch and a loss.

One embedding of 64 numbers is trained so that its first 2, 4, ..., 64 numbers each classify. Run it with

    python docs/examples/matryoshka.py

It takes some seconds on two cores. Settings are small, not published ones: those are recipes of `wasskit mrl train`.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from wasskit import MatryoshkaWassersteinLoss

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(digits.target)
order = torch.randperm(len(images))
train, test = order[:1400], order[1400:]

network = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
    nn.Flatten(), nn.Linear(256, 64),
)  # fmt: skip
# The loss holds a linear classifier for each dimension: they are trained with the network.
loss = MatryoshkaWassersteinLoss(num_classes=10, dims=(2, 4, 8, 16, 32, 64), wasserstein_weight=1.0)

epochs, batch = 20, 100
optimizer = torch.optim.AdamW([*network.parameters(), *loss.parameters()], lr=3e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * (len(train) // batch))
for epoch in range(epochs):
    network.train()
    for chosen in train[torch.randperm(len(train))].split(batch):
        terms = loss(network(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        schedule.step()
    if epoch % 5 == 4:
        print(f"epoch {epoch + 1}: cross entropy {terms.cross_entropy.mean():.3f}, divergences {terms.wasserstein:.4f}")

network.eval()
with torch.no_grad():
    correct = loss.logits(network(images[test])).argmax(-1) == labels[test]
for dim, accuracy in zip(loss.dims, correct.double().mean(1), strict=True):
    print(f"{dim:3d} numbers: {100 * accuracy:.1f} % of the test digits")
