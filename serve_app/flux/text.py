"""Prompts as the transformer reads them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from serve_app.errors import EngineFailed, RequestRejected

if TYPE_CHECKING:  # importing it takes seconds, and whoever has an encoder has imported it
    from transformers import CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbedding:
    """`tokens` [L, D] (T5; L is one of the model's text lengths) and `pooled` [P] (CLIP), on the CPU, in the encoders'
    dtype."""

    tokens: Tensor
    pooled: Tensor

    @property
    def length(self) -> int:
        return self.tokens.shape[0]


class TextEncoder:
    """CLIP and T5 as diffusers' FluxPipeline.encode_prompt (0.42) uses them: T5 attends to its padding, and of CLIP
    only the pooled output is taken, of as many tokens as it can read (77).

    `lengths`, ascending, are the numbers of T5 tokens a prompt may be padded to. The encoders stay on the devices they
    are on. Calls from several threads wait for one another.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: CLIPTextModel,
        tokenizer_2: PreTrainedTokenizerBase,
        text_encoder_2: T5EncoderModel,
        lengths: tuple[int, ...],
    ) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._tokenizer_2 = tokenizer_2
        self._text_encoder_2 = text_encoder_2
        self._lengths = lengths
        # The tokenizers keep the padding of their last call as state, and fail when used by two threads.
        self._lock = threading.Lock()

    @property
    def dtype(self) -> torch.dtype:
        """Of the embeddings' tokens."""
        dtype: torch.dtype = self._text_encoder_2.dtype
        return dtype

    @property
    def lengths(self) -> tuple[int, ...]:
        return self._lengths

    def length_of(self, prompt: str) -> int:
        """The smallest length that holds the prompt whole, with its end token. No model is run.

        Raises RequestRejected for a prompt longer than the largest, which diffusers would cut silently, and for one
        that is no Unicode text; EngineFailed when the tokenizer fails.
        """
        with self._lock:
            return self._find_length(prompt)

    def encode(self, prompt: str) -> TextEmbedding:
        """Raises RequestRejected as `length_of` does, EngineFailed when a tokenizer or an encoder fails or gives
        numbers that are not finite."""
        with self._lock:
            length = self._find_length(prompt)
            try:
                pooled = self._run_clip(prompt)
                tokens = self._run_t5(prompt, length)
            except Exception as error:  # whatever the tokenizers, the encoders or their devices raise
                raise EngineFailed(f"the text encoders failed: {type(error).__name__}: {error}") from error
        if not (tokens.isfinite().all() and pooled.isfinite().all()):
            raise EngineFailed(f"the text encoders gave numbers that are not finite, in {tokens.dtype}")
        # A tensor made in inference mode may not be changed outside it for ever; a copy is like any other.
        return TextEmbedding(tokens=tokens.clone(), pooled=pooled.clone())

    def _find_length(self, prompt: str) -> int:
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise RequestRejected(f"the prompt is no Unicode text: {error}; send it without lone surrogates") from None
        try:
            count = len(self._tokenizer_2(prompt, verbose=False).input_ids)
        except Exception as error:
            raise EngineFailed(f"the prompt could not be tokenized: {type(error).__name__}: {error}") from error
        for length in self._lengths:
            if count <= length:
                return length
        raise RequestRejected(f"the prompt has {count} tokens; at most {self._lengths[-1]} are accepted")

    @torch.inference_mode()
    def _run_clip(self, prompt: str) -> Tensor:
        encoder = self._text_encoder
        ids = _tokenize(self._tokenizer, prompt, self._tokenizer.model_max_length)
        pooled: Tensor = encoder(ids.to(encoder.device), output_hidden_states=False).pooler_output
        return pooled[0].to(device="cpu", dtype=encoder.dtype)

    @torch.inference_mode()
    def _run_t5(self, prompt: str, length: int) -> Tensor:
        encoder = self._text_encoder_2
        ids = _tokenize(self._tokenizer_2, prompt, length)
        tokens: Tensor = encoder(ids.to(encoder.device), output_hidden_states=False)[0]
        return tokens[0].to(device="cpu", dtype=encoder.dtype)


def _tokenize(tokenizer: Any, prompt: str, length: int) -> Tensor:
    """[1, length] int64."""
    ids: Tensor = tokenizer(
        [prompt], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids
