"""Creates the grammar matchers of requests. They share one analysis of the tokenizer."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from glm4v_core.dialect.grammar import compile_grammar
from glm4v_core.errors import ConstraintError
from glm4v_core.types import Request

if TYPE_CHECKING:
    from glm4v_core.engines.transformers.loading import Checkpoint


class Grammars:
    """Creates matchers. Thread-safe."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._dialect = checkpoint.family.dialect
        self._hf_tokenizer = checkpoint.tokenizer
        self._size: int = checkpoint.model.lm_head.weight.shape[0]
        self._stop_token_ids = sorted(checkpoint.stop_token_ids)
        self._lock = threading.Lock()
        self._tokenizer: Any = None

    def matcher(self, request: Request) -> Any:
        """Return a matcher that starts with the answer; None if the request has neither tools nor a constraint.

        Raises:
            ConstraintError: the constraint cannot be compiled.
        """
        grammar = compile_grammar(request, self._dialect)
        if grammar is None:
            return None
        from llguidance import LLMatcher

        matcher = LLMatcher(self._shared_tokenizer(), grammar.text)
        if matcher.is_error():
            raise ConstraintError(f"The constraint cannot be compiled: {matcher.get_error()}")
        return matcher

    def _shared_tokenizer(self) -> Any:
        """Return llguidance's view of the tokenizer. Building it takes about a second for a large vocabulary."""
        from llguidance.hf import from_tokenizer

        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = from_tokenizer(
                    self._hf_tokenizer, n_vocab=self._size, eos_token=self._stop_token_ids or None
                )
            return self._tokenizer
