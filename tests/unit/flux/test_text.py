"""The text encoders against diffusers' own use of them, on a tiny checkpoint."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxFillPipeline
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from bench.tiny_flux import POOLED_WIDTH, TEXT_WIDTH, write_checkpoint
from serve_app.errors import EngineFailed, EngineRejected
from serve_app.flux.text import TextEncoder
from serve_app.settings import DEFAULT_PROMPT

LENGTHS = (128, 256, 512)
AROUND_TOKENS = 2  # of a word: the mark of its beginning, and the end of the prompt; each letter is one more


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def load_pipeline(checkpoint: Path, dtype: torch.dtype = torch.float32) -> Any:
    return FluxFillPipeline.from_pretrained(checkpoint, dtype=dtype, local_files_only=True)


def make_encoder(pipeline: Any, **others: Any) -> TextEncoder:
    names = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    return TextEncoder(**{name: others.get(name, getattr(pipeline, name)) for name in names}, lengths=LENGTHS)


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> Any:
    return load_pipeline(checkpoint)


@pytest.fixture(scope="module")
def encoder(pipeline: Any) -> TextEncoder:
    return make_encoder(pipeline)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_diffusers_bit_for_bit(checkpoint: Path, dtype: torch.dtype) -> None:
    pipeline = load_pipeline(checkpoint, dtype)
    encoder = make_encoder(pipeline)
    assert (encoder.dtype, encoder.lengths) == (dtype, LENGTHS)
    long = "a dog on a lawn " * 12  # longer than CLIP reads; of letters, as what it does not know counts as the end
    for prompt in ("", " ", "dog", DEFAULT_PROMPT, long, long * 2, "Ein Hund\nläuft – 犬", "</s> <|endoftext|> dog"):
        embedding = encoder.encode(prompt)
        with torch.inference_mode():
            tokens, pooled, _ = pipeline.encode_prompt(prompt, max_sequence_length=embedding.length)
        assert embedding.tokens.shape == (embedding.length, TEXT_WIDTH)
        assert embedding.pooled.shape == (POOLED_WIDTH,)
        assert embedding.tokens.dtype == embedding.pooled.dtype == dtype
        assert torch.equal(embedding.tokens, tokens[0]), prompt
        assert torch.equal(embedding.pooled, pooled[0]), prompt


@pytest.mark.parametrize(
    ("tokens", "length"), [(127, 128), (128, 128), (129, 256), (255, 256), (256, 256), (257, 512), (512, 512)]
)
def test_the_smallest_length_that_holds_the_prompt_is_taken(
    pipeline: Any, encoder: TextEncoder, tokens: int, length: int
) -> None:
    prompt = "a" * (tokens - AROUND_TOKENS)
    assert len(pipeline.tokenizer_2(prompt).input_ids) == tokens
    assert encoder.length_of(prompt) == length
    embedding = encoder.encode(prompt)
    assert embedding.length == length
    with torch.inference_mode():
        expected, _, _ = pipeline.encode_prompt(prompt, max_sequence_length=length)
        other, _, _ = pipeline.encode_prompt(prompt, max_sequence_length=length + 8)
    assert torch.equal(embedding.tokens, expected[0])
    assert not torch.equal(embedding.tokens, other[0, :length]), "the padding is attended to, so the length matters"


def test_an_empty_prompt_is_one_end_token(pipeline: Any, encoder: TextEncoder) -> None:
    assert pipeline.tokenizer_2("").input_ids == [pipeline.tokenizer_2.eos_token_id]
    assert encoder.encode("").length == 128


def test_a_prompt_longer_than_the_largest_length_is_rejected(encoder: TextEncoder) -> None:
    prompt = "a" * (513 - AROUND_TOKENS)
    for refuse in (encoder.encode, encoder.length_of):
        with pytest.raises(EngineRejected, match="the prompt has 513 tokens; at most 512 are accepted"):
            refuse(prompt)


def test_what_is_no_text_is_rejected(encoder: TextEncoder) -> None:
    with pytest.raises(EngineRejected, match="no Unicode text"):
        encoder.encode("a dog \ud83d")


def test_clip_reads_no_further_than_it_can(encoder: TextEncoder) -> None:
    beginning = "a" * 76  # and the first of its two ends: 77
    short, long, other = (encoder.encode(prompt) for prompt in (beginning + "b", beginning + "c", "b" + beginning))
    assert torch.equal(short.pooled, long.pooled)
    assert not torch.equal(short.tokens, long.tokens)
    assert not torch.equal(short.pooled, other.pooled)


def test_the_tensors_may_be_used_like_any_others(encoder: TextEncoder) -> None:
    embedding = encoder.encode("dog")
    for tensor in (embedding.tokens, embedding.pooled):
        assert not tensor.is_inference()
        assert not tensor.requires_grad
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, "no larger tensor is kept alive"


def test_encoders_that_fail_are_translated(pipeline: Any) -> None:
    config = T5Config(vocab_size=2, d_model=TEXT_WIDTH, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    too_few_tokens = T5EncoderModel(config)
    encoder = make_encoder(pipeline, text_encoder_2=too_few_tokens)
    with pytest.raises(EngineFailed, match=r"the text encoders failed: IndexError") as caught:
        encoder.encode("dog")
    assert isinstance(caught.value.__cause__, IndexError)


def test_a_tokenizer_that_fails_is_translated(pipeline: Any) -> None:
    knows_one_letter = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(Unigram([("a", 0.0)], None, False)))
    encoder = make_encoder(pipeline, tokenizer_2=knows_one_letter)
    assert encoder.length_of("aaa") == 128
    with pytest.raises(EngineFailed, match="could not be tokenized"):
        encoder.length_of("b")


@pytest.mark.parametrize("broken", ["text_encoder", "text_encoder_2"])
def test_numbers_that_are_not_finite_are_no_embedding(checkpoint: Path, broken: str) -> None:
    pipeline = load_pipeline(checkpoint)
    with torch.no_grad():
        next(getattr(pipeline, broken).parameters()).fill_(float("nan"))
    with pytest.raises(EngineFailed, match="not finite"):
        make_encoder(pipeline).encode("dog")


class Watched:
    """A tokenizer that takes its time and notices being used by several threads."""

    def __init__(self, tokenizer: Any) -> None:
        self.most = 0
        self._users = 0
        self._tokenizer = tokenizer

    def __call__(self, *args: Any, **given: Any) -> Any:
        self._users += 1
        self.most = max(self.most, self._users)
        threading.Event().wait(0.001)
        try:
            return self._tokenizer(*args, **given)
        finally:
            self._users -= 1


def test_threads_do_not_disturb_one_another(pipeline: Any) -> None:
    watched = Watched(pipeline.tokenizer_2)
    encoder = make_encoder(pipeline, tokenizer_2=watched)
    prompts = ["a" * length for length in (5, 130, 300, 5, 260, 100)]
    alone = [encoder.encode(prompt) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(encoder.encode, prompts * 8))
        lengths = list(pool.map(encoder.length_of, prompts * 8))
    assert watched.most == 1
    assert lengths == [embedding.length for embedding in alone] * 8
    for index, embedding in enumerate(together):
        assert torch.equal(embedding.tokens, alone[index % len(prompts)].tokens)
        assert torch.equal(embedding.pooled, alone[index % len(prompts)].pooled)
