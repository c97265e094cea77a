"""Outputs of views as an objective takes them."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def numbered(views: Sequence[T]) -> dict[int, T]:
    """By view number, from 1."""
    return dict(enumerate(views, start=1))
