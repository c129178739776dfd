"""Measures that compare answers with the truth. Each is a ratio of sums over pages, with a bootstrap interval."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from glm4v_core.errors import MissingDependencyError

try:
    import jiwer
    import numpy as np
    from numpy.typing import NDArray
    from rapidfuzz.distance import Levenshtein
except ImportError as error:
    raise MissingDependencyError(f"Scoring needs {error.name}.", hint="pip install 'glm4v[eval]'") from error

Floats = NDArray[np.float64]

ANLS_THRESHOLD = 0.5
"""An answer whose similarity is not above this counts as wrong."""


INTERVAL = (2.5, 97.5)


class Tally(NamedTuple):
    """One page's contribution to a ratio, such as 3 wrong of 120 characters or 1 right of 1 label."""

    part: float
    whole: float


@dataclass(frozen=True, slots=True)
class Score:
    """A measure with its 95 % interval. `whole` is what it was measured over: characters, labels, fields."""

    value: float
    low: float
    high: float
    whole: float


Pair = tuple[str, str | None]
"""The true label and the answered one; None if there was no usable answer."""


def normalise(text: str) -> str:
    """Normalise text so that equal-looking texts are equal: NFKC, without white space at the ends of lines."""
    lines = unicodedata.normalize("NFKC", text).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip()


def character_errors(truth: str, answer: str) -> Tally:
    """Count wrong characters, including line breaks, relative to the characters of the truth."""
    return _errors(jiwer.process_characters(normalise(truth), normalise(answer)))


def word_errors(truth: str, answer: str) -> Tally:
    """Count wrong words; only for scripts that put spaces between words."""
    return _errors(jiwer.process_words(_one_line(truth), _one_line(answer)))


def has_spaced_words(text: str) -> bool:
    """Tell whether the words of a text are separated by spaces, unlike in Chinese and Japanese."""
    return not any(unicodedata.name(character, "").startswith(("CJK", "HIRAGANA", "KATAKANA")) for character in text)


def anls(truths: Sequence[str], answer: str) -> float:
    """Return the ANLS of DocVQA: similarity to the nearest accepted answer, ignoring case; up to one half it is 0."""
    given = _one_line(answer).casefold()
    nearest = max(Levenshtein.normalized_similarity(_one_line(truth).casefold(), given) for truth in truths)
    return nearest if nearest > ANLS_THRESHOLD else 0.0


def is_same(truth: Any, answer: Any) -> bool:
    """Compare two field values as text; null equals only null."""
    if truth is None or answer is None:
        return truth is answer
    return normalise(str(truth)) == normalise(str(answer))


def field_f1(truth: Mapping[str, Any], answer: Mapping[str, Any]) -> Tally:
    """Return one page's contribution to F1 over fields; summed over pages it is the micro average."""
    wanted = {name for name, value in truth.items() if value is not None}
    given = {name for name, value in answer.items() if value is not None}
    right = sum(is_same(truth[name], answer[name]) for name in wanted & given)
    return Tally(2 * right, len(wanted) + len(given))


def confusion(pairs: Iterable[Pair]) -> Mapping[str, Mapping[str | None, int]]:
    """Count the answers for each true label."""
    table: dict[str, dict[str | None, int]] = {}
    for (truth, answer), count in sorted(Counter(pairs).items(), key=lambda item: item[0][0]):
        table.setdefault(truth, {})[answer] = count
    return table


def macro_f1(pairs: Sequence[Pair], weights: Floats | None = None) -> float:
    """Return F1 averaged over all labels that occur as truth or answer, whatever their frequency.

    Args:
        pairs: one per page.
        weights: [pages], how often each page counts; None is once.
    """
    labels = sorted({label for pair in pairs for label in pair if label is not None})
    weight = np.ones(len(pairs)) if weights is None else weights
    wanted = np.array([[truth == label for label in labels] for truth, _ in pairs])
    given = np.array([[answer == label for label in labels] for _, answer in pairs])
    right, total = weight @ (wanted & given), weight @ wanted + weight @ given
    return float(np.mean(2 * right[total > 0] / total[total > 0]))


def score_all(pages: Sequence[Mapping[str, Tally]], *, resamples: int, seed: int) -> Mapping[str, Score]:
    """Return the score of each measure over all pages. Measures without data are omitted.

    Args:
        pages: the tallies of each page, by measure.
        resamples: number of bootstrap resamples of whole pages, for the intervals.
        seed: makes the intervals repeatable.
    """
    names = list(dict.fromkeys(name for page in pages for name in page))
    table = np.array([[page.get(name, (0.0, 0.0)) for name in names] for page in pages]).reshape(-1, len(names), 2)
    sums = table.sum(axis=0)
    # [resamples, measures, 2]: the sums of each resample.
    resampled = np.array([np.einsum("p,pmk->mk", weights, table) for weights in draws(len(pages), resamples, seed)])
    return {
        name: Score(float(part / whole), *_interval(resampled[:, place]), float(whole))
        for place, (name, (part, whole)) in enumerate(zip(names, sums, strict=True))
        if whole
    }


def score_labels(pairs: Sequence[Pair], *, resamples: int, seed: int) -> Score:
    """Return macro-F1 with its interval."""
    values = [macro_f1(pairs, weights) for weights in draws(len(pairs), resamples, seed)]
    low, high = np.percentile(values, INTERVAL)
    return Score(macro_f1(pairs), float(low), float(high), len(pairs))


def draws(pages: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield for each bootstrap resample how often it contains each page, [pages]."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield random.multinomial(pages, np.full(pages, 1 / pages)).astype(float)


def _interval(sums: Floats) -> tuple[float, float]:
    """Return the 95 % interval of part / whole over resamples, [resamples, 2]; those without data are left out."""
    parts, wholes = sums[sums[:, 1] > 0].T
    low, high = np.percentile(parts / wholes, INTERVAL)
    return float(low), float(high)


def _errors(found: Any) -> Tally:
    wrong = found.substitutions + found.deletions
    return Tally(wrong + found.insertions, found.hits + wrong)


def _one_line(text: str) -> str:
    return " ".join(normalise(text).split())
