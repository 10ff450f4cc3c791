"""How a retrieval is counted where definitions leave a choice, and what well-known libraries choose.

Free of torch, so that options and help may read it. As of pytorch-metric-learning 2.9
(``utils/accuracy_calculator.py``), torchmetrics 1.x (``functional/retrieval``), open-metric-learning 3.x
(``functional/metrics.py``) and trec_eval 9 (``m_map_cut.c``, ``m_P.c``, ``m_ndcg_cut.c``, ``form_res_rels.c``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TieRule = Literal["pessimistic", "optimistic", "order", "docno"]
"""Of equally similar items: the less relevant first; the more relevant first; in the order of the gallery; by name,
the later one first."""
Lone = Literal["zero", "skip", "error"]
"""A query without a positive: counts as 0; is left out; is refused."""
MapOver = Literal["least", "positives", "found"]
"""What AP@K divides by, for R positives: min(R, K); R; how many of them are among the first K."""
PrecisionOver = Literal["k", "least"]
"""What precision@K divides by: K; min(R, K)."""
Gain = Literal["linear", "exponential"]
"""The gain of a relevance g in nDCG: g; 2^g - 1."""
Average = Literal["queries", "classes"]
"""The mean over queries; over the means of their classes."""
Library = Literal["wasskit", "pytorch-metric-learning", "torchmetrics", "open-metric-learning", "trec_eval"]


@dataclass(frozen=True)
class Conventions:
    """One choice of each kind; the defaults are ours, and those of Musgrave et al. (2020) for MAP@R."""

    ties: TieRule = "pessimistic"
    lone: Lone = "zero"
    map_over: MapOver = "least"
    precision_over: PrecisionOver = "k"
    gain: Gain = "linear"
    average: Average = "queries"


LIBRARIES: dict[Library, Conventions] = {
    "wasskit": Conventions(),
    "pytorch-metric-learning": Conventions(ties="order", lone="skip", map_over="positives"),
    "torchmetrics": Conventions(ties="order", map_over="found"),
    "open-metric-learning": Conventions(ties="order", lone="error", precision_over="least"),
    "trec_eval": Conventions(ties="docno", map_over="positives"),
}
"""What each library does. Where it leaves equally similar items to its sort, they stand in the gallery's order."""
