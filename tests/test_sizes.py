"""Nothing grows beyond what can be read in one sitting, and no two plugins share code that belongs below them."""

from __future__ import annotations

from tests import house


def test_no_function_is_long() -> None:
    assert house.long_functions() == []


def test_no_class_is_long() -> None:
    assert house.long_classes() == []


def test_no_file_is_long() -> None:
    assert house.long_files() == []


def test_plugins_share_no_code() -> None:
    assert house.shared_lines() == []
