"""Trained models to and from the Hugging Face hub, through its own mixin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from torch import Tensor

from wasskit.errors import UserError
from wasskit.models.export import save_weights
from wasskit.plugins.models import load
from wasskit.trained.kind import TrainedModel

FILE = "model.safetensors"
"""The file of a repository that holds weights and description, as ``export`` writes them."""

CARD = """---
{{ card_data }}
---

# A model of wasskit {{ plugin | default("") }}

Trained by `wasskit {{ plugin | default("") }}`. To use it:

```python
from wasskit import HubModel

model = HubModel.from_pretrained("{{ repo_id | default("folder or repository") }}")
embeddings = model.embed(images)  # images (N, C, H, W) as uint8, a folder, or a file
```
"""


class HubModel(
    ModelHubMixin, library_name="wasskit", tags=["wasserstein", "embeddings"], model_card_template=CARD, license="mit"
):  # type: ignore[misc, unused-ignore]
    """A trained model that can be saved as a repository of the hub, and loaded from one or from a folder.

    ``push_to_hub("user/name")`` uploads it, and ``from_pretrained("user/name")`` downloads what is not there yet; it
    uses a network in no other way. A repository holds ``model.safetensors`` (weights and description) and a card.

    Args:
        model: a trained model, or a path that `wasskit.load` takes.
        device: where it goes, if it is a path.

    Raises:
        UserError: there is no trained model at the path.

    Example:
        >>> import torch, wasskit
        >>> wasskit.HubModel("runs/mrl/digits").save_pretrained("my-model")
        >>> model = wasskit.HubModel.from_pretrained("my-model")
        >>> model.embed(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 256])
    """

    def __init__(self, model: TrainedModel[Any] | str | Path, device: torch.device | str = "cpu") -> None:
        self._hub_mixin_config = None  # the arguments hold paths of this machine
        self.model = model if isinstance(model, TrainedModel) else load(model, device)

    def embed(self, inputs: Tensor | str | Path, **options: Any) -> Tensor:
        """Embeddings (N, D), as `wasskit.load(...).embed` gives them."""
        return self.model.embed(inputs, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        kind, model = self.model.kind, self.model.model
        save_weights(Path(save_directory) / FILE, kind.weights(model), model.description)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        device: torch.device | str = "cpu",
        **unused: Any,
    ) -> HubModel:
        folder = Path(model_id).expanduser()
        if folder.is_dir():
            file = folder / FILE
            if not file.is_file():
                raise UserError(f"{folder} holds no {FILE}: save a model there by `HubModel(...).save_pretrained`.")
        else:
            file = Path(
                hf_hub_download(
                    model_id, FILE, revision=revision, cache_dir=cache_dir, force_download=force_download,
                    local_files_only=local_files_only, token=token,
                )
            )  # fmt: skip
        return cls(load(file, device))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
        """The card of the repository, with the plugin's name."""
        return super().generate_model_card(*args, plugin=self.model.kind.name, **kwargs)
