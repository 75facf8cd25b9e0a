"""The report: one self-contained HTML page. Everything that comes from data is text, never markup.

The overview is HTML and comes first. The filters follow as data: short entries for the gallery, the rest packed in
parts that are unpacked when a filter is opened, and each picture once, which the script decodes only when it is shown.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from lavise.configs.schema import ReportSettings
from lavise.storage.state import file_names
from lavise.storage.state.digest import digest_of, short
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.report.chart_files import write_figures
from lavise.tasks.report.filter_entries import (
    TARGET,
    DescribedFilters,
    DiffPart,
    LayerPart,
    describe_filters,
    number_images,
    read_layer,
)
from lavise.tasks.report.outlines import OUTLINE_GRID
from lavise.tasks.report.pictures import (
    CHUNK_IMAGES,
    EncodedImages,
    ImageBook,
    OverviewSource,
    ReportImages,
    describe_bands,
    draw_confident_filters,
    encode_images,
)
from lavise.tasks.report.report_inputs import ReportInputs
from lavise.tasks.report.sections.concepts import describe_concepts
from lavise.tasks.report.sections.diff import describe_diff
from lavise.tasks.report.sections.layers import describe_layer
from lavise.tasks.report.sections.quality import describe_quality
from lavise.tasks.report.sections.section import ShownImage, describe_sections
from lavise.tasks.words.ranking import find_ranking

__all__ = ["DiffPart", "LayerPart", "render_diff_page", "write_report"]

STAGE = Stage("report", version=11)
_SCRIPTS = (
    *("report_pictures.js", "report_gallery.js", "report_filter.js", "report_why.js", "report_sections.js"),
    *("report_compare.js", "report_review.js", "report_start.js"),
)
_STYLES = ("report.css", "report_review.css")
_REST_FILTERS = 32
_IMAGES_MARK = "<!--pictures-->"
_MB = 1_000_000


def make_report(inputs: ReportInputs, folder: Path) -> Info:
    """Write what `write_report` writes, and return its facts."""
    shown = {own.role: own.pictures.value for own in inputs.shown.values()}
    return write_report(
        [layer.open() for layer in inputs.layers],
        ReportImages.of(
            inputs.geometry,
            {TARGET: inputs.pictures.value, **shown},
            len(inputs.preprocessing["mean"]),
            inputs.settings.bands,
        ),
        inputs.facts,
        inputs.settings,
        folder,
        inputs.diff.value if inputs.diff else None,
        inputs.progress,
    )


def write_report(
    parts: Sequence[LayerPart],
    pictures: ReportImages,
    facts: Mapping[str, str],
    settings: ReportSettings,
    folder: Path,
    diff: DiffPart | None = None,
    progress: Progress = no_progress,
) -> Info:
    """Write folder/report.html, folder/overview.png and the charts in folder/figures.

    Args:
        pictures: of the target, and of data sets whose pictures a section of an analysis shows.
        facts: lines of the heading, label -> text.
        diff: the comparison with an earlier audit, where there is one.

    Returns:
        facts: num_filters, num_pictures, size_bytes.
    """
    images = pictures.images
    tables = [read_layer(part, settings.images_per_filter) for part in parts]
    analyses = describe_sections([(part.layer, part.analyses) for part in parts])
    book = ImageBook()
    listed = [picture for own in analyses for found in own.found for picture in own.section.list_images(found)]
    number_images(tables, [(role, key) for role, key in listed if key in images.get(role, {})], book)
    described = [describe_filters(n, table, book, progress) for n, table in enumerate(tables)]

    def find_number(picture: ShownImage) -> int | None:
        role, key = picture
        return book.add(role, key) if key in images.get(role, {}) else None

    for own in analyses:
        for found in own.found:
            own.section.number_images(found, find_number)
    sections = {
        "layers": [describe_layer(table) for table in tables],
        "concepts": describe_concepts(tables),
        "qualities": [describe_quality(part) for part in parts],
        "analyses": analyses,
        "diff": describe_diff(diff, with_links=True) if diff else None,
    }
    size = write_page(facts, sections, described, book, pictures, settings, folder, progress)
    sources = [OverviewSource(t.filters, t.store, t.part.thresholds) for t in tables]
    overview = draw_confident_filters(sources, pictures, TARGET, facts["Audit"])
    (folder / file_names.OVERVIEW).write_bytes(overview)
    write_figures(parts, folder)
    num_filters = sum(len(d.entries) for d in described)
    return {"num_filters": num_filters, "num_pictures": len(book.addresses), "size_bytes": size}


def write_page(
    facts: Mapping[str, str],
    sections: Mapping[str, Any],
    described: Sequence[DescribedFilters],
    book: ImageBook,
    pictures: ReportImages,
    settings: ReportSettings,
    folder: Path,
    progress: Progress = no_progress,
) -> int:
    """Write folder/report.html, with pictures as large as its size allows.

    Args:
        sections: layers, concepts, qualities, analyses and diff (see tasks.report.sections).
        book: of the pictures that the described filters refer to.

    Returns:
        its size in bytes.
    """
    entries = [entry for d in described for entry in d.entries]
    data = {
        "audit": facts["Audit"],
        "review": name_review(facts, [layer.name for layer in sections["layers"]], entries),
        "grid": OUTLINE_GRID,
        "shape": list(pictures.geometry.shape),
        "layers": [layer.name for layer in sections["layers"]],
        "chunk": CHUNK_IMAGES,
        "part": _REST_FILTERS,
        "large": book.num_large,
        "filters": entries,
    }
    packed = list(pack_rest([entry for d in described for entry in d.rest]))
    asked = {
        "thumbnail_px": settings.thumbnail_px,
        "max_size_mb": settings.max_size_mb,
        "bands": describe_bands(pictures.channels, settings.bands),
    }
    page = render_page(facts, sections, data, packed, {**asked, "encoded": None})
    names = sum(len(json.dumps(key)) + 4 for _, key in book.addresses)
    room = settings.max_size_mb * _MB - len(_to_bytes(page)) - names - 1000
    encoded = encode_images(book, pictures, settings.thumbnail_px, room, progress)
    page = render_page(facts, sections, data, packed, {**asked, "encoded": encoded})
    before, mark, after = page.partition(_IMAGES_MARK)
    assert mark
    path = folder / file_names.REPORT
    with path.open("wb") as file:
        file.write(_to_bytes(before))
        for chunk in list_image_chunks(book, encoded):
            file.write(_to_bytes(chunk))
        file.write(_to_bytes(after))
    return path.stat().st_size


def name_review(facts: Mapping[str, str], layers: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> str:
    """What a browser keeps a reviewer's notes under: the same page again has them, and no page with other words."""
    said = [[entry["l"], entry["f"], entry["c"], entry.get("g"), [word[0] for word in entry["w"]]] for entry in entries]
    return short(digest_of([facts["Audit"], facts.get("Target model"), list(layers), said]))


def pack_rest(rest: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The rest of the filters' entries, so many to a part: JSON, by gzip, as base64."""
    for start in range(0, len(rest), _REST_FILTERS):
        text = json.dumps(rest[start : start + _REST_FILTERS], separators=(",", ":"), allow_nan=False)
        yield base64.b64encode(gzip.compress(text.encode("utf-8"), 9, mtime=0)).decode("ascii")


def list_image_chunks(book: ImageBook, encoded: EncodedImages) -> Iterator[str]:
    """Script elements that run nothing, each with the names and contents of so many pictures."""
    for number, start in enumerate(range(0, len(book.addresses), CHUNK_IMAGES)):
        names = [key for _, key in book.addresses[start : start + CHUNK_IMAGES]]
        content = escape_json([names, list(encoded.contents[start : start + CHUNK_IMAGES])])
        yield f'<script type="text/plain" id="pictures-{number}">{content}</script>\n'


def render_page(
    heading: Mapping[str, str],
    sections: Mapping[str, Any],
    data: Mapping[str, Any],
    packed: Sequence[str],
    size: Mapping[str, Any],
) -> str:
    """The page. Its policy allows its own script and style (by hash) and pictures inside it, and nothing else."""
    return _render(
        "report.html.j2",
        heading=heading,
        **sections,
        by_preference=any(
            find_ranking(quality["calibration"]["rule"]).by_preference for quality in sections["qualities"]
        ),
        data=_trust(escape_json(data)),
        packed=packed,
        size=size,
        pictures_mark=_trust(_IMAGES_MARK),
    )


def render_diff_page(heading: Mapping[str, str], diff: DiffPart) -> str:
    """A page of the comparison alone."""
    return _render("diff_page.html.j2", heading=heading, diff=describe_diff(diff, with_links=False))


def _render(name: str, **values: Any) -> str:
    import jinja2

    folder = resources.files("lavise.tasks.report") / "templates"
    style = "".join(folder.joinpath(name).read_text("utf-8") for name in _STYLES)
    script = (
        '"use strict";\n(() => {\n' + "\n".join(folder.joinpath(n).read_text("utf-8") for n in _SCRIPTS) + "})();\n"
    )
    policy = (
        f"default-src 'none'; img-src data:; script-src '{_hash_source(script)}'; style-src '{_hash_source(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lavise.tasks.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": _fix, "signed": _sign, "percent": _percent, "probability": _write_probability}
    template = environment.get_template(name)
    return template.render(policy=policy, script=_trust(script), style=_trust(style), **values)


def _fix(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _sign(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:+.{digits}f}".replace("-", "\u2212")


def _percent(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}\u00a0%"


def _write_probability(value: float | None) -> str:
    """p and q values: two digits, and no more zeros than can be read."""
    if value is None:
        return ""
    return f"{value:.1e}" if 0 < value < 0.001 else f"{value:.3f}"


def _trust(text: str) -> Any:
    """Not escaped again: our own files, and what `escape_json` has escaped."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - see above


def escape_json(value: Any) -> str:
    """JSON that is safe inside a script element: no character that could end it or open another."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _to_bytes(text: str) -> bytes:
    """UTF-8; what no text may hold (half a surrogate pair, from a file's name) becomes a question mark."""
    return text.encode("utf-8", "replace")


def _hash_source(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
