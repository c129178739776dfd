"""Lets torchvision's wheel be imported beside a torch that was built for CPUs.

The wheel registers fake versions of two operators whose schemas only its compiled part defines, and that part does not
fit this torch. A `.pth` file imports this module when an interpreter of the test environment starts, vLLM's processes
included; it defines the schemas as soon as torchvision is imported. Nothing here is part of the product.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
libraries: list[Any] = []


class SchemaFinder(importlib.abc.MetaPathFinder):
    """Finds no module, but notices the search for torchvision."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for schema in SCHEMAS:
                library = torch.library.Library("torchvision", "FRAGMENT")
                library.define(schema)
                libraries.append(library)


sys.meta_path.insert(0, SchemaFinder())
