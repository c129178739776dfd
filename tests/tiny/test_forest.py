"""Each of many questions on a page in one pass sees exactly what the published model sees."""

from __future__ import annotations

from random import Random

import pytest
import torch
from PIL import Image
from tiny.batches import Batch, collate
from tiny.export import PIXELS
from tiny.network import Trainee, build_config
from tiny.sequences import Composer, Level, Row
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import Glm46VImageProcessorPil

pytestmark = pytest.mark.usefixtures("fonts")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
Sequence = tuple[int, int, list[int]]
"""Where an answered segment begins in its row, how many tokens of its parent it sees, and all tokens it sees."""


@pytest.fixture(scope="module")
def trainee(tokenizer: Tokenizer) -> Trainee:
    torch.manual_seed(3)
    made = Trainee(build_config(tokenizer)).eval()
    for places in made.page_positions.parameters():
        torch.nn.init.normal_(places, std=0.5)
    made.give_positions()
    return made


def compose(tokenizer: Tokenizer, kind: str, seed: int, branches: int) -> Row:
    """Draw rows until one has this many segments that see another one."""
    composer = Composer(tokenizer, Random(seed))
    while True:
        row = composer.row(kind, Level(0.7))
        if sum(parent is not None for parent in row.parents) >= branches:
            return row


def sequences(row: Row) -> list[Sequence]:
    starts = [sum(row.lengths[:index]) for index in range(len(row.lengths))]
    spans = [row.ids[start : start + length] for start, length in zip(starts, row.lengths, strict=True)]
    found = []
    for start, span, parent in zip(starts, spans, row.parents, strict=True):
        prefix = [] if parent is None else spans[parent]
        found.append((start, len(prefix), prefix + span))
    return found


@torch.no_grad()
def plain_logits(trainee: Trainee, row: Row, ids: list[int]) -> Tensor:
    """Run the published model on one ordinary prompt with RGB pictures."""
    tokens, network = torch.tensor([ids]), trainee.network
    images = [Image.fromarray(page).convert("RGB") for page in row.pages]
    pictures = dict(Glm46VImageProcessorPil(size=PIXELS)(images, return_tensors="pt")) if images else {}
    types = (tokens == network.config.image_token_id).int()
    return network(input_ids=tokens, mm_token_type_ids=types, use_cache=False, **pictures).logits[0]


@torch.no_grad()
def forest_logits(trainee: Trainee, batch: Batch) -> Tensor:
    embedded = trainee.network.get_input_embeddings()(batch.ids)
    shown = batch.ids == trainee.network.config.image_token_id
    if shown.any():
        embedded[shown] = trainee.see(batch)
    return trainee.network.lm_head(trainee.think(embedded, batch))


@pytest.fixture(scope="module")
def rows(tokenizer: Tokenizer) -> list[Row]:
    """Questions on one page, a page shown after its question, a text, questions on a text, questions on two pages."""
    made = [compose(tokenizer, "page", 1, 3), compose(tokenizer, "text", 2, 0), compose(tokenizer, "text", 3, 2)]
    composer = Composer(tokenizer, Random(4))
    after = next(row for row in iter(lambda: composer.page(Level(0.7)), None) if row.parents == [None])
    return [*made, after, compose(tokenizer, "pair", 5, 4)]


def test_every_answer_token_gets_the_logits_of_the_published_model(trainee: Trainee, rows: list[Row]) -> None:
    forest, offset = forest_logits(trainee, collate(rows)), 0
    for row in rows:
        for start, prefix, ids in sequences(row):
            own = len(ids) - prefix
            if not any(row.weights[start : start + own]):
                continue
            ours = forest[offset + start : offset + start + own]
            assert ours.std() > 0.1  # flat logits would equal anything
            torch.testing.assert_close(ours, plain_logits(trainee, row, ids)[prefix:], **TOLERANCE)
        offset += len(row.ids)


@pytest.mark.parametrize("index", range(5), ids=["page", "text", "text-questions", "page-after", "pair"])
def test_the_loss_is_that_of_the_published_model_on_each_answer(trainee: Trainee, rows: list[Row], index: int) -> None:
    row, costs, weights, right = rows[index], [], [], []
    for start, prefix, ids in sequences(row):
        weight = torch.tensor(row.weights[start : start + len(ids) - prefix])
        logits = plain_logits(trainee, row, ids)[prefix - 1 : -1] if prefix else plain_logits(trainee, row, ids)[:-1]
        target = torch.tensor(ids[max(prefix, 1) :])
        weight = weight if prefix else weight[1:]
        costs.append(functional.cross_entropy(logits, target, reduction="none") * weight)
        weights.append(weight)
        right.append((logits.argmax(-1) == target)[weight > 0])
    with torch.no_grad():
        losses = trainee(collate([row]))
    assert losses.text is not None
    torch.testing.assert_close(losses.text, torch.cat(costs).sum() / torch.cat(weights).sum(), **TOLERANCE)
    assert losses.text_right == pytest.approx(torch.cat(right).float().mean().item())


@torch.no_grad()
def test_grey_patches_give_the_visual_tokens_of_an_rgb_page(trainee: Trainee, rows: list[Row]) -> None:
    row = rows[-1]
    images = [Image.fromarray(page).convert("RGB") for page in row.pages]
    pictures = Glm46VImageProcessorPil(size=PIXELS)(images, return_tensors="pt")
    seen = trainee.network.model.visual(pictures["pixel_values"], pictures["image_grid_thw"]).pooler_output
    torch.testing.assert_close(trainee.see(collate([row])), seen, **TOLERANCE)


@torch.no_grad()
def test_learned_places_come_back_from_the_table(trainee: Trainee) -> None:
    table = trainee.network.model.visual.embeddings.position_embedding.weight
    before = table.clone()
    trainee.take_positions()
    trainee.give_positions()
    torch.testing.assert_close(table, before, **TOLERANCE)


def test_looking_only_costs_no_text(trainee: Trainee, tokenizer: Tokenizer) -> None:
    with torch.no_grad():
        losses = trainee(collate([Composer(tokenizer, Random(6)).page(Level(-1.0)) for _ in range(2)]))
    assert losses.text is None
    assert losses.text_right is None
    assert losses.cell is not None
    assert losses.total == losses.cell


def test_text_alone_costs_no_cells(trainee: Trainee, rows: list[Row]) -> None:
    with torch.no_grad():
        losses = trainee(collate([rows[1]]))
    assert losses.cell is None
    assert losses.total == losses.text
