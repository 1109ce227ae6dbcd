"""Hooks of mkdocs: tables from the registries and settings, and the committed results as files of the site.

A page gets a table where it says ``<!-- table: optimizers -->``, and the table of all flags where it says ``<!-- flags -->``.
"""

from __future__ import annotations

import dataclasses
import logging
import posixpath
import re
from pathlib import Path
from typing import Any, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from backends.datasets.base import DATASETS
from backends.flags import as_flags
from backends.kinds.base import BACKENDS
from backends.registry import Registry, about
from backends.targets.base import TARGETS
from bbfuse.cli.help import field_docs
from bbfuse.config import RunConfig
from bbfuse.fuse.generators.base import GENERATORS
from bbfuse.heads.base import HEADS
from bbfuse.optimizers.base import OPTIMIZERS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
MEASURED = sorted((ROOT / "docs" / "results").glob("*.md"))
"""A page for each result; ``python -m experiments.tables --write`` writes them."""
TABLES: dict[str, tuple[str, Registry[Any]]] = {
    "optimizers": ("optimizer", OPTIMIZERS), "heads": ("head", HEADS), "generators": ("generator", GENERATORS),
    "backends": ("backend", BACKENDS), "targets": ("target", TARGETS), "datasets": ("data", DATASETS),
}  # fmt: skip
"""The flag and the registry of each table."""

logging.getLogger("mkdocs.plugins.griffe").setLevel(logging.ERROR)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The pages of results are listed under Results."""
    assert config.nav is not None
    (results,) = (entry for entry in config.nav if "Results" in entry)
    results["Results"] = [{"What was measured": "results/index.md"}, *(f"results/{page.name}" for page in MEASURED)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The committed results and their pages, which lie elsewhere, are files of the site."""
    files.append(File.generated(config, "results/index.md", abs_src_path=str(ROOT / "experiments" / "README.md")))
    for page in MEASURED:
        files.append(File.generated(config, f"results/{page.name}", abs_src_path=str(page)))
    for path in [*sorted(RESULTS.iterdir()), ROOT / "experiments" / "rayjob.yaml"]:
        files.append(File.generated(config, f"results/data/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in tables, and lead links to ``experiments/results/`` to the files of the site."""
    for name, (flag, registry) in TABLES.items():
        markdown = markdown.replace(f"<!-- table: {name} -->", component_table(flag, registry))
    if "<!-- flags -->" in markdown:
        markdown = markdown.replace("<!-- flags -->", flag_tables())
    if page.file.src_uri == "results/index.md":  # written for its place in experiments/
        places = {"../docs/results/": "", "results/": "data/", "results)": "main_job.md)", "rayjob.yaml": "data/rayjob.yaml"}
        for there, here in places.items():
            markdown = markdown.replace(f"]({there}", f"]({here}")
    data = posixpath.relpath("results/data", posixpath.dirname(page.file.src_uri) or ".")
    return re.sub(r"\]\((?:\.\./)+experiments/results/", f"]({data}/", markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings introduce code with two colons, the site with one."""
    return html.replace("::</p>", ":</p>")


def component_table(flag: str, registry: Registry[Any]) -> str:
    """Name and description of every component, with the access that an optimizer needs or a backend grants."""
    with_access = flag in ("optimizer", "backend")
    lines = [f"| `--{flag}` |{' access |' if with_access else ''} |", f"|---|{'---|' if with_access else ''}---|"]
    for name, component in registry.items():
        access = f" {component.access.name.lower()} |" if with_access else ""
        text = re.sub(
            "`([a-z-]+)`", lambda found: f"<code>{found[1]}</code>" if found[1] in registry else found[0], about(component)
        )
        lines.append(f"| `{name}` |{access} {as_flags(text)} |")
    return "\n".join(lines)


def flag_tables() -> str:
    """A table for the flags without a section, and one for each section."""
    hints = get_type_hints(RunConfig)
    sections = [f for f in dataclasses.fields(RunConfig) if dataclasses.is_dataclass(hints[f.name])]
    plain = [f for f in dataclasses.fields(RunConfig) if f not in sections]
    parts = [_flag_table("", plain, field_docs(RunConfig))]
    for section in sections:
        kind = hints[section.name]
        if fields := dataclasses.fields(kind):
            parts.append(f"## --{section.name.replace('_', '-')}.*\n\n{about(kind)}.\n")
            parts.append(_flag_table(f"{section.name}.", fields, field_docs(kind)))
    return "\n\n".join(parts)


def _flag_table(prefix: str, fields: Any, documented: dict[str, str]) -> str:
    lines = ["| flag | default | |", "|---|---|---|"]
    for field in fields:
        default = "" if field.default in (None, dataclasses.MISSING) else f"`{field.default}`"
        text = as_flags(documented.get(field.name, "")).replace("|", "\\|")
        lines.append(f"| `{as_flags(f'`{prefix}{field.name}`')}` | {default} | {text} |")
    return "\n".join(lines)
