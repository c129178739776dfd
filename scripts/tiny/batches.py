"""Endless batches of training rows, made in worker processes."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tiny.sequences import Composer, Level, Row

PAGES_TO_LOOK_AT = 24
SMALLEST_BATCH, LARGEST_BATCH = 4000, 10000
"""Tokens per step while pages are easy, and at the end."""


@dataclass(slots=True)
class Batch:
    """Tensors of one step, all rows end to end, nothing padded.

    Attributes:
        ids, weights: [tokens].
        positions: [3, tokens].
        lengths, parents: tokens of each segment, and the segment it sees besides itself.
        patches: [patches, 196] uint8.
        grids: [pages, 3].
        cells: [visual tokens, CELL_SLOTS].
    """

    ids: Tensor
    weights: Tensor
    positions: Tensor
    lengths: list[int]
    parents: list[int | None]
    patches: Tensor
    grids: Tensor
    cells: Tensor


def patchify(page: np.ndarray) -> np.ndarray:
    """Cut a grey page into 14 x 14 px patches in the order of the image processor: by cells of 2 x 2 patches."""
    height, width = page.shape[0] // 28, page.shape[1] // 28
    return page.reshape(height, 2, 14, width, 2, 14).transpose(0, 3, 1, 4, 2, 5).reshape(-1, 196)


def collate(rows: list[Row]) -> Batch:
    parents: list[int | None] = []
    for row in rows:
        first = len(parents)
        parents += [None if parent is None else first + parent for parent in row.parents]
    pages = [page for row in rows for page in row.pages]
    cells = [cell for row in rows for cell in row.cells]
    return Batch(
        ids=torch.tensor([token for row in rows for token in row.ids], dtype=torch.long),
        weights=torch.tensor([weight for row in rows for weight in row.weights]),
        positions=torch.tensor([position for row in rows for position in row.positions], dtype=torch.long)
        .reshape(-1, 3)
        .T.contiguous(),
        lengths=[length for row in rows for length in row.lengths],
        parents=parents,
        patches=torch.from_numpy(
            np.concatenate([patchify(page) for page in pages]) if pages else np.zeros((0, 196), dtype=np.uint8)
        ),
        grids=torch.tensor([[1, page.shape[0] // 14, page.shape[1] // 14] for page in pages]).reshape(-1, 3),
        cells=torch.from_numpy(np.concatenate(cells) if cells else np.zeros((0, 6), dtype=np.int64)),
    )


class Rows(IterableDataset[Batch]):
    """Yields batches of one kind of row; `level` is shared with the trainer, which raises it."""

    def __init__(self, tokenizer_json: str, seed: int, level: multiprocessing.sharedctypes.Synchronized[float]) -> None:
        self.tokenizer_json, self.seed, self.level = tokenizer_json, seed, level

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        random = Random(f"{self.seed}-{info.id if info else 0}")
        composer = Composer(Tokenizer.from_str(self.tokenizer_json), random)
        for _ in itertools.count():
            level = Level(self.level.value)
            if not level.asks:
                yield collate([composer.page(level) for _ in range(PAGES_TO_LOOK_AT)])
                continue
            kind = random.choices(("page", "text", "pair"), (0.7, 0.22, 0.08 if level.value > 0.6 else 0.0))[0]
            yield self._batch(composer, kind, level)

    def _batch(self, composer: Composer, kind: str, level: Level) -> Batch:
        rows: list[Row] = []
        tokens, wanted = 0, SMALLEST_BATCH + (LARGEST_BATCH - SMALLEST_BATCH) * level.value
        while tokens < wanted:
            rows.append(composer.row(kind, level))
            tokens += len(rows[-1].ids)
        return collate(rows)


def loader(
    tokenizer: Tokenizer, seed: int, level: multiprocessing.sharedctypes.Synchronized[float], workers: int
) -> Iterator[Batch]:
    rows = Rows(tokenizer.to_str(), seed, level)
    return iter(DataLoader(rows, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None))
