"""The adaptor as a scikit-learn transformer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from wasskit.errors import UserError
from wasskit.models.export import save_weights
from wasskit.plugins.mrl.adapt.blending import choose_blend
from wasskit.plugins.mrl.adapt.data import Vectors
from wasskit.plugins.mrl.adapt.network import AdaptorModel
from wasskit.plugins.mrl.adapt.options import AdaptTrainingOptions, Learns
from wasskit.plugins.mrl.adapt.task import adapt, trained_alone
from wasskit.plugins.mrl.adapt.trained import ADAPTOR
from wasskit.trained.estimators import checked, seed_of, validate_data

Learn = Literal["auto", "labels", "neighbours"]


class MatryoshkaAdaptor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Embeddings (N, D) to unit vectors (N, m) whose prefixes serve at every size, as ``wasskit mrl adapt`` makes them.

    With class labels ``y`` it learns from them (the MWRL objective), without from the neighbours of the vectors. All
    rows are trained on: what is to be tested is to be kept by the caller, as usual in scikit-learn. The global random
    numbers are left as they were; equal ``random_state``, equal result.

    Args:
        dims: prefixes that are trained, increasing; the largest is the m that ``transform`` gives. None: 8, 16, 32, ...
            and D.
        learn: ``"labels"``, ``"neighbours"``, or ``"auto"``: labels where ``y`` is given.
        network: ``"residual"``: a residual network on the principal rotation; ``"rotation"``: a rotation alone.
        hidden: width of a residual block.
        blocks: number of residual blocks.
        blend: where the result lies between the start (0) and what was learned (1); None: as the command chooses.
        classes: ``"new"``: vectors to come may be of other classes than ``y``, and the blend is chosen for them too;
            ``"known"``: they are of these.
        dropout: of hidden units; None: by what is learned from.
        input_dropout: of input coordinates; None: by what is learned from.
        alpha: weight of the cross entropies of the classifiers.
        cosine_weight: weight of the cross entropies by cosine (labels).
        keep_weight: weight of the neighbours as they were, within the batch (labels).
        wasserstein_weight: weight of the Sinkhorn divergences between consecutive prefixes.
        centre: share of the vectors' mean that is taken from them before their neighbours are found (neighbours).
        temperature: of cosines in the objective; None: by what is learned from.
        epochs: passes over the vectors; None: by what is learned from.
        batch_size: vectors per step; None: by what is learned from.
        lr: peak of the learning rate; None: by what is learned from.
        weight_decay: of the network's matrices.
        device: where to train.
        random_state: seed; None or a generator: one is drawn.

    Attributes:
        model_: the trained network, a module.
        dims_: the prefixes.
        n_features_in_: the width D of the vectors.

    Example:
        >>> import numpy as np, wasskit
        >>> vectors = np.random.default_rng(0).normal(size=(64, 32))
        >>> adaptor = wasskit.MatryoshkaAdaptor((4, 8), epochs=1, hidden=16).fit(vectors)
        >>> adaptor.transform(vectors)[:, :4].shape  # a prefix
        (64, 4)
    """

    def __init__(
        self,
        dims: tuple[int, ...] | None = None,
        *,
        learn: Learn = "auto",
        network: Literal["residual", "rotation"] = "residual",
        hidden: int = 512,
        blocks: int = 1,
        blend: float | None = None,
        classes: Literal["known", "new"] = "new",
        dropout: float | None = None,
        input_dropout: float | None = None,
        alpha: float = 1.0,
        cosine_weight: float = 1.0,
        keep_weight: float = 0.1,
        wasserstein_weight: float = 0.0,
        centre: float = 0.5,
        temperature: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        weight_decay: float = 0.01,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.dims = dims
        self.learn = learn
        self.network = network
        self.hidden = hidden
        self.blocks = blocks
        self.blend = blend
        self.classes = classes
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.alpha = alpha
        self.cosine_weight = cosine_weight
        self.keep_weight = keep_weight
        self.wasserstein_weight = wasserstein_weight
        self.centre = centre
        self.temperature = temperature
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> MatryoshkaAdaptor:
        """Train on vectors (N, D) of at least two rows, with class labels (N,) or without.

        Raises:
            ValueError: arrays that cannot be used, or an option out of its bounds.
        """
        if self.learn not in get_args(Learn):
            raise ValueError(f"learn: {self.learn!r} is not one of {', '.join(get_args(Learn))}.")
        learns: Learns = "neighbours"
        if self.learn == "labels" or (self.learn == "auto" and y is not None):
            learns = "labels"
            if y is None:
                raise ValueError("learn='labels' needs y, the class labels.")
            X, y = validate_data(self, X, y, dtype=[np.float32, np.float64], ensure_min_samples=2)
            check_classification_targets(y)
        else:
            X = validate_data(self, X, dtype=[np.float32, np.float64], ensure_min_samples=2)
        labels = None if learns != "labels" else torch.from_numpy(np.unique(y, return_inverse=True)[1])
        vectors = Vectors(torch.from_numpy(np.array(X)), labels)
        own = {"learn", "device", "random_state"}
        options = {name: value for name, value in self.get_params().items() if name not in own}
        config = checked(AdaptTrainingOptions(), **options).resolved(learns)
        device, seed = torch.device(self.device), seed_of(self.random_state)
        if config.blend is None:
            config = replace(
                config, blend=choose_blend(config, vectors, device, known=self.classes == "known", seed=seed)
            )
        task = trained_alone(config, learns, vectors, device, seed=seed)
        task.network.cpu().eval()
        return self._with(task.model)

    def _with(self, model: AdaptorModel) -> MatryoshkaAdaptor:
        self.model_ = model
        self.dims_ = model.dims
        self._n_features_out = model.dims[-1]
        return self

    def save(self, path: str | Path) -> None:
        """Write what was learned as weights (``.safetensors``), which ``wasskit.load``, ``wasskit mrl embed`` and
        :meth:`load` read."""
        check_is_fitted(self)
        path = Path(path).expanduser()
        if path.suffix != ".safetensors":
            raise UserError(f"{path} must end in .safetensors.")
        save_weights(path, self.model_.network, self.model_.description)

    @classmethod
    def load(cls, path: str | Path) -> MatryoshkaAdaptor:
        """A fitted adaptor, from weights or from a run directory of ``wasskit mrl adapt``.

        Raises:
            UserError: there is no adaptor at ``path``, or it is damaged.
        """
        model = ADAPTOR.load(Path(path).expanduser())
        about = model.description
        known = {"network": about["shape"], **{key: about[key] for key in ("hidden", "blocks", "blend")}}
        made = cls(model.dims, learn="auto" if about["learned"] == "pairs" else about["learned"], **known)
        made.n_features_in_ = about["width"]
        return made._with(model)

    def transform(self, X: Any) -> Any:
        """Adapted unit vectors (N, m), computed in float32, in the dtype of X; compare prefixes by their cosine."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        return adapt(self.model_.network, torch.from_numpy(np.array(X))).numpy().astype(X.dtype, copy=False)
