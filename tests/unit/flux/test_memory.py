"""The accelerator's memory: how errors of torch say that it is full, and what an engine shows of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from serve_app.errors import EngineFailed, OutOfMemory
from serve_app.flux.memory import Memory, is_out_of_memory, read_memory
from serve_app.flux.model import FluxModel
from serve_app.flux.stepping import Work
from tests.flux_fakes import FakeModel, make_fill
from tests.flux_lockstep import LockStep, as_failed, begin_two, failures, images_of, wait_for

GIB = 2**30


def full(bench: LockStep) -> float | None:
    return bench.sink.value("pawfect_out_of_memory_total", engine="flux")


def shown(bench: LockStep) -> tuple[float | None, ...]:
    name = "pawfect_gpu_memory_bytes"
    return tuple(bench.sink.value(name, engine="flux", kind=kind) for kind in ("allocated", "peak", "limit"))


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory."), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_say_the_memory_is_full(error: Exception, is_full: bool) -> None:
    assert is_out_of_memory(error) is is_full
    model = FluxModel(SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32))  # type: ignore[arg-type]
    with pytest.raises(EngineFailed, match="step") as caught, model._working("step"):
        raise error
    assert isinstance(caught.value, OutOfMemory) is is_full


def test_a_cpu_has_no_such_memory() -> None:
    assert read_memory(torch.device("cpu")) is None


def test_the_limit_is_the_share_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 * GIB))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.75)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 12 * GIB)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 14 * GIB)
    assert read_memory(torch.device("cuda", 0)) == Memory(12 * GIB, 14 * GIB, 18 * GIB)


def test_every_time_the_memory_is_full_is_counted_and_neighbours_go_on_alone() -> None:
    bench = LockStep()
    one, two = begin_two(bench)
    bench.finish(OutOfMemory("full"))
    assert (full(bench), bench.engine.failures_in_a_row()) == (1, 1)
    assert one.ends() == two.ends() == []
    assert bench.call is not None
    assert (bench.call.work, bench.call.seeds) == (Work.STEP, (10,))
    bench.finish(OutOfMemory("full"))
    assert full(bench) == 2
    assert as_failed(one.last()) == ("out_of_memory", True)
    assert failures(bench.sink, "out_of_memory") == 1
    while bench.call is not None:
        bench.finish()
    assert len(images_of(two.last())) == 1
    assert full(bench) == 2
    bench.close()


@pytest.mark.parametrize("error", [EngineFailed("broken"), RuntimeError("broken")])
def test_another_failure_is_not_counted_as_that(error: Exception) -> None:
    bench = LockStep()
    bench.submit(make_fill())
    bench.finish(error)
    assert full(bench) is None
    bench.close()


class Counting(FakeModel):
    """Counts how often its memory is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def memory(self) -> Memory | None:
        self.reads += 1
        return Memory(self.reads * GIB, 9 * GIB, 18 * GIB)


def test_the_memory_is_shown_once_a_second_at_most() -> None:
    model = Counting()
    bench = LockStep(model=model)
    assert shown(bench) == (GIB, 9 * GIB, 18 * GIB), "it is known before the first request"
    bench.submit(make_fill(steps=6))
    for _ in range(3):
        bench.finish(seconds=0.3)
    assert model.reads == 1
    bench.finish(seconds=0.3)
    assert shown(bench)[0] == 2 * GIB
    bench.close()


def test_of_a_cpu_no_memory_is_shown() -> None:
    bench = LockStep()
    bench.submit(make_fill())
    assert shown(bench) == (None, None, None)
    bench.close()


def test_an_idle_engine_goes_on_showing_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray forgets gauges that are not set again."""
    monkeypatch.setattr("serve_app.flux.engine.IDLE_S", 0.01)
    model = Counting()
    bench = LockStep(model=model)
    bench.clock.time += 1
    wait_for(lambda: model.reads > 1, "nobody looked again")
    bench.engine.close()
