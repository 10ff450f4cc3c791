"""The maps between two clouds as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from wasskit.config import fields_of
from wasskit.errors import UserError
from wasskit.plugins.w2gn.clouds.data import FEWEST, Pair, check_widths, divided
from wasskit.plugins.w2gn.clouds.options import HIDDEN, CloudOptions, Coordinates
from wasskit.plugins.w2gn.clouds.report import measured
from wasskit.plugins.w2gn.clouds.task import Fitted, build_cloud_task, finished
from wasskit.plugins.w2gn.core.frame import FramedTransport
from wasskit.plugins.w2gn.fitting import pretraining
from wasskit.plugins.w2gn.maps import load_map, save_map
from wasskit.trained.estimators import checked, seed_of, validate_data
from wasskit.training.cadence import Cadence
from wasskit.training.checkpoint import preserved_rng
from wasskit.training.trainer import Trainer

Inverse = Literal["solved", "network"]
_DTYPES = [np.float64, np.float32]


class TransportMap(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The optimal transport map from one cloud of rows to another and its inverse, as ``wasskit w2gn fit`` makes them.

    Rows are held out for choosing and measuring, as the command does it. The global random numbers are left as they
    were; equal ``random_state``, equal result. Arrays are mapped in their own dtype, float32 or float64; all other
    numbers count as float64.

    Args:
        coordinates: where squared distances are measured: ``"plain"``, ``"standardised"`` or ``"whitened"``.
        hidden: widths of the hidden layers of both potentials.
        steps: of the training; None: by the numbers of rows and of coordinates, as the command.
        batch_size: rows of each cloud per step; None: as the command.
        lr: learning rate; None: as the command.
        held_out: share of the rows of each cloud that is kept for choosing and measuring.
        start: what training starts from: the map between the clouds' Gaussians, the identity, or a network that is
            trained to be it.
        keep: ``"better"`` of the Gaussian map and the trained ones on the rows held out, or those at the ``"end"``.
        discrete_rows: rows up to which the exact assignment of held-out rows is computed.
        inverse: ``"solved"``: the inverse is solved for, so that ``transform`` undoes it; ``"network"``: it is the map
            of the second network, which is faster.
        device: where to train and to map.
        random_state: seed; None or a generator: one is drawn.

    Attributes:
        maps_: the :class:`wasskit.plugins.w2gn.core.frame.FramedTransport`.
        scores_: what `wasskit.plugins.w2gn.clouds.report.measured` gives: energy distances, W2, residuals.
        kept_: ``"trained"``, ``"start"`` where the Gaussian map is the answer, or None without such a start.
        n_features_in_: D.

    Example:
        >>> import numpy as np, wasskit
        >>> x = np.random.default_rng(0).normal(size=(200, 2))
        >>> maps = wasskit.TransportMap(steps=2, hidden=(8,)).fit(x, 2 * x + 1)
        >>> bool(np.allclose(maps.inverse_transform(maps.transform(x)), x, atol=1e-3))
        True
    """

    def __init__(
        self,
        *,
        coordinates: Coordinates = "plain",
        hidden: Sequence[int] = HIDDEN,
        steps: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        held_out: float = 0.2,
        start: Literal["gaussian", "identity", "pretrain"] = "gaussian",
        keep: Literal["better", "end"] = "better",
        discrete_rows: int = 1024,
        inverse: Inverse = "solved",
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.coordinates = coordinates
        self.hidden = hidden
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.held_out = held_out
        self.start = start
        self.keep = keep
        self.discrete_rows = discrete_rows
        self.inverse = inverse
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, Y: Any) -> TransportMap:
        """Fit the maps from the rows of X (N, D) to those of Y (M, D), each of 20 rows or more.

        Raises:
            ValueError: an array of another shape, or with values that are not finite or beyond float32; an option out
                of its bounds.
        """
        source = _tensor(validate_data(self, X, dtype=_DTYPES, ensure_min_samples=FEWEST))
        target = self._rows(Y, least=FEWEST)
        try:
            check_widths(source.shape[1], target.shape[1], ("X", "Y"))
        except UserError as error:
            raise ValueError(str(error)) from None
        fitted, self.scores_ = self._fitted(Pair(source, target, ("X", "Y")))
        self.maps_ = fitted.framed
        self.kept_ = None if fitted.kept is None else str(fitted.kept.as_dict()["kept"])
        return self

    def _fitted(self, pair: Pair) -> tuple[Fitted, dict[str, float]]:
        """The command's fit without a run directory."""
        if self.inverse not in get_args(Inverse):
            raise ValueError(f"inverse: {self.inverse!r} is not one of {', '.join(get_args(Inverse))}.")
        known, seed = {option.name for option in fields_of(CloudOptions)}, seed_of(self.random_state)
        given = {name: value for name, value in self.get_params().items() if name in known and name != "device"}
        config = checked(CloudOptions(), **given, seed=seed)
        device = torch.device(self.device)
        clouds = divided(pair, config.coordinates, config.held_out, seed, device)
        config = config.settled(clouds.rows, clouds.dim)
        with preserved_rng(device, seed):
            try:
                task, batches = build_cloud_task(config, clouds, device)
            except UserError as error:
                raise ValueError(str(error)) from None
            steps = config.training.settled[0] + pretraining(config)
            cadence = Cadence(steps=steps, eval_every=max(steps // 10, 1), log_every=10**9)
            Trainer(task, batches, cadence=cadence, device=device, seed=seed).fit()
            fitted = finished(task.eval(), clouds)
            return fitted, measured(fitted, clouds, discrete_rows=config.discrete_rows)

    def transform(self, X: Any) -> Any:
        """The images (N, D) of rows of X under the map."""
        check_is_fitted(self, "maps_")
        rows = _tensor(validate_data(self, X, dtype=_DTYPES, reset=False))
        return self.maps_.forward_map(rows.to(self.device)).cpu().numpy()

    def inverse_transform(self, Y: Any) -> Any:
        """The rows (M, D) that the map takes to those of Y."""
        check_is_fitted(self, "maps_")
        refine: Literal["lbfgs", "none"] = "lbfgs" if self.inverse == "solved" else "none"
        rows = self._rows(Y)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"Y has {rows.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input"
            )
        return self.maps_.inverse_map(rows.to(self.device), refine=refine).cpu().numpy()

    def save(self, path: str | Path) -> Path:
        """Write the maps as safetensors, as ``wasskit w2gn apply`` and :meth:`load` take them."""
        check_is_fitted(self, "maps_")
        return save_map(Path(path), self.maps_, command="TransportMap", inverse=self.inverse)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> TransportMap:
        """Saved maps, of this class or of any ``wasskit w2gn`` training of vectors, from a file or a run directory.

        Raises:
            UserError: there is no map of vectors at ``path``.
        """
        maps, header = load_map(Path(path))
        if "dim" not in header["potential"]:
            raise UserError(f"{path} maps images, not rows of numbers: use `wasskit w2gn apply`.")
        dim = int(header["potential"]["dim"])
        if not isinstance(maps, FramedTransport):
            maps = FramedTransport(maps, torch.zeros(dim), torch.zeros(dim))
        found = cls(device=device, inverse="network" if header.get("inverse") == "network" else "solved")
        found.maps_ = maps.to(device).eval()
        found.n_features_in_ = dim
        return found

    def _rows(self, rows: Any, least: int = 1) -> Tensor:
        """Rows of the target, whose columns may have other names than those of the source."""
        return _tensor(check_array(rows, dtype=_DTYPES, ensure_min_samples=least, input_name="Y", estimator=self))


def _tensor(rows: Any) -> Tensor:
    """A tensor of its own."""
    return torch.from_numpy(np.array(rows))
