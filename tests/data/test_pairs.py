"""Files of pairs that name rows, and names of rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wasskit.data.embeddings import Embeddings
from wasskit.data.pairs import Named, read_named, read_pairs, rows_of_names, rows_of_pairs
from wasskit.errors import UserError

QUERIES, DOCUMENTS = Named("the ids of q.txt", ("a", "b")), Named("the ids of d.txt", ("007", "x y", "7"))


def written(folder: Path, text: str) -> Path:
    path = folder / "p.csv"
    path.write_text(text)
    return path


def test_pairs_by_name(tmp_path: Path) -> None:
    """Columns in any order; names as they are written, also numbers; a relevance of 1 where none is given."""
    path = written(tmp_path, "relevance,document,note,query\n2,007,,b\n-1, x y ,,a\n0.5,7,,b\n")
    queries, documents, relevance = rows_of_pairs(read_pairs(path), QUERIES, DOCUMENTS)
    assert (queries.tolist(), documents.tolist(), relevance.tolist()) == ([1, 0, 1], [0, 1, 2], [2, -1, 0.5])
    plain = rows_of_pairs(read_pairs(written(tmp_path, "query,document\na,7\n")), QUERIES, DOCUMENTS)
    assert [x.tolist() for x in plain] == [[0], [2], [1]]
    blank = rows_of_pairs(read_pairs(written(tmp_path, "query,document,relevance\na,7, \n")), QUERIES, DOCUMENTS)
    assert [x.tolist() for x in blank] == [[0], [2], [1]]
    assert rows_of_names(path, [], DOCUMENTS).dtype == torch.int64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no column query"),
        ("query,relevance\na,1\n", "it has no column document"),
        ("query,document\n", "it has no pair"),
        ("query,document,relevance\na,7,much\n", "line 2 has the relevance 'much', which is no number"),
        ("query,document,relevance\na,7,nan\n", "line 2 has the relevance nan; expected one from -1000 to 1000"),
        ("query,document\na,7\n\na,7,8\n", "line 4 has 3 entries, its heading 2"),
        ("query,document\na,7\nc,7\nd,7\nc,007\n", r"2 queries that are none of the ids of q.txt, the first is 'c' in "
         "line 3"),
        ("query,document\na,07\n", "1 documents that are none of the ids of d.txt, the first is '07' in line 2"),
        ("query,document\na,7\nb,7\na,7\na,7\n", "has 2 pairs twice, the first again in line 4"),
    ],
)  # fmt: skip
def test_bad_pairs_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        rows_of_pairs(read_pairs(written(tmp_path, text)), QUERIES, DOCUMENTS)


def test_names_of_rows(tmp_path: Path) -> None:
    of = Embeddings("x.npy", torch.zeros(3, 2))
    path = tmp_path / "ids.txt"
    path.write_text("007\n7\nx\n")
    assert list(read_named(path, of).names) == ["007", "7", "x"]
    assert list(read_named(None, of).names) == ["0", "1", "2"]
    path.write_text("a\nb\na\n")
    with pytest.raises(UserError, match="names 'a' twice, in rows 0 and 2; 1 of 3 ids are not new"):
        read_named(path, of)
    path.write_text("a\n")
    with pytest.raises(UserError, match=r"1 id for the 3 vectors of x\.npy"):
        read_named(path, of)
