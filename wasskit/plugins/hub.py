"""Trained models to and from the Hugging Face hub, through its own mixin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from numpy.typing import NDArray
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
embeddings = model.embed({{ inputs | default("images)  # (N, C, H, W) as uint8, a folder, or a file") }}
```
"""


class HubModel(ModelHubMixin, library_name="wasskit", tags=["wasserstein", "embeddings"], model_card_template=CARD):  # type: ignore[misc, unused-ignore]
    """A trained model that can be saved as a repository of the hub, and loaded from one or from a folder.

    ``push_to_hub("user/name")`` uploads it, and ``from_pretrained("user/name")`` downloads what is not there yet; it
    uses a network in no other way. A repository holds ``model.safetensors`` (weights and description), the plugin's
    name in ``config.json``, and a card, in which no licence is claimed for what the user has trained.

    Args:
        model: a trained model, or a path that `wasskit.load` takes.
        device: where it goes, if it is a path.

    Raises:
        UserError: there is no trained model at the path.

    Example:
        >>> import torch, wasskit
        >>> wasskit.HubModel("runs/mrl/digits").save_pretrained("my-model")
        >>> model = wasskit.HubModel.from_pretrained("my-model")
        >>> model.embed(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape
        torch.Size([2, 256])
    """

    def __init__(self, model: TrainedModel[Any] | str | Path, device: torch.device | str = "cpu") -> None:
        self.model = model if isinstance(model, TrainedModel) else load(model, device)
        # Not the arguments, which hold paths of this machine. The hub counts downloads by the file.
        self._hub_mixin_config = {"plugin": self.model.kind.name}

    def embed(self, inputs: Tensor | NDArray[Any] | str | Path, **options: Any) -> Tensor:
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
        """The card of the repository, with the plugin's name and what the model takes."""
        if not self.model.kind.takes_images:
            kwargs["inputs"] = "vectors)  # (N, D), or a file"
        return super().generate_model_card(*args, plugin=self.model.kind.name, **kwargs)
