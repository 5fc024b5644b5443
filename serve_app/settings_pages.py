"""The settings written out: `.env.example` and the README's tables."""

from __future__ import annotations

from serve_app.settings import describe_settings
from serve_app.settings_sections import DEFAULT_QUALITIES


def write_env_example() -> str:
    """The text of `.env.example`: every setting at its default, commented out."""
    lines = ["# Every setting with its default. Copy to .env and uncomment what you change."]
    for variable, others, default, description in describe_settings():
        also = f" (also: {others})" if others else ""
        lines += ["", f"# {description}{also}", f"# {variable}={default}"]
    return "\n".join(lines) + "\n"


def write_table() -> str:
    """The README's configuration table, as Markdown."""
    lines = ["| variable | default | what it is |", "| --- | --- | --- |"]
    for variable, others, default, description in describe_settings():
        also = f" (also `{others}`)" if others else ""
        shown = f"`{default}`" if default else "–"
        lines.append(f"| `{variable}`{also} | {shown} | {description} |")
    return "\n".join(lines) + "\n"


def write_qualities() -> str:
    """The README's table of the shipped qualities, as Markdown."""
    lines = [
        "| quality | engine | steps | guidance | model pixels per photo pixel, at most | largest crop, 2^20 pixels |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in DEFAULT_QUALITIES.items():
        effort = f"{row.steps} | {row.guidance:g}" if row.engine == "flux" else "– | –"
        lines.append(f"| `{name}` | {row.engine} | {effort} | {row.detail:g} | {row.max_megapixels:g} |")
    return "\n".join(lines) + "\n"
