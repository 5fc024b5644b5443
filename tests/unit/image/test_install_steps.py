"""Carrying out a Dockerfile's steps in a folder, with a small one; the real one takes minutes (install_steps.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.image.dockerfile import read_dockerfile
from tests.unit.image.install_steps import ImageFolder, StepsFailed

SMALL = """
ARG BASE=python:3.11
FROM ${BASE} AS made
ENV GREETING=/opt/greeting
WORKDIR /app
COPY package ./package
RUN mkdir -p /opt/venv/bin /opt/parts \\
 && cp package/module.py "$GREETING" \\
 && echo hello >/opt/parts/hello
FROM ${BASE} AS unneeded
RUN false
FROM ${BASE} AS system
RUN apt-get install --yes wget
FROM system AS final
ENV PATH=/opt/venv/bin:$PATH
COPY --from=made /opt/greeting /opt/venv/bin
COPY --from=made /opt/venv /opt/venv
COPY --from=made /opt/parts /opt/venv/bin
RUN test -f /opt/venv/bin/greeting && python -c 'import sys; print(sys.prefix)'
"""


def make_image(folder: Path, text: str = SMALL, ignored: str = "*\n!package\n") -> ImageFolder:
    context = folder / "context"
    (context / "package").mkdir(parents=True)
    (context / "package/module.py").write_text("x = 1\n")
    (context / ".dockerignore").write_text(ignored)
    image = folder / "image"
    image.mkdir()
    return ImageFolder(image, context, read_dockerfile(text), with_pip=False)


def test_steps_are_carried_out_where_the_folder_is(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    assert image.build("final") == ["apt-get install --yes wget"]
    assert (tmp_path / "image/opt/venv/bin/greeting").read_text() == "x = 1\n"
    assert (tmp_path / "image/opt/venv/bin/hello").read_text() == "hello\n"
    assert image.run(["python", "-c", "import sys; print(sys.prefix)"], "final", tmp_path).strip() == str(
        tmp_path / "image/base"
    )


def test_a_failing_step_is_told_with_what_it_printed(tmp_path: Path) -> None:
    image = make_image(tmp_path, SMALL.replace("RUN test -f", "RUN echo spoken && ! test -f"))
    with pytest.raises(StepsFailed, match="spoken"):
        image.build("final")


def test_what_the_context_leaves_out_cannot_be_copied(tmp_path: Path) -> None:
    image = make_image(tmp_path, ignored="*\n")
    with pytest.raises(StepsFailed, match="COPY package: no such file"):
        image.build("final")
