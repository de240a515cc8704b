"""Images, cut into a stream of tasks: one door for the embedded and for one's own benchmarks."""

from fmlora_lab.benchmarks.fingerprint import (
    Known,
    check_stream,
    classes_are_cut,
    cut_of,
    known,
    select,
)
from fmlora_lab.benchmarks.glyphs.streams import (
    load_glyph_domains,
    load_glyph_scripts,
    load_glyphs,
)
from fmlora_lab.benchmarks.mtil import load_mtil
from fmlora_lab.benchmarks.stream import Stream
from fmlora_lab.config import Benchmark, GlyphDomains, Glyphs, GlyphScripts, Hub, Mtil

__all__ = ["Known", "check_stream", "classes_are_cut", "cut_of", "known", "load", "select"]


def load(
    benchmark: Benchmark,
    image_size: int,
    order_seed: int,
    data_seed: int,
    with_validation: bool = False,
) -> Stream:
    """The stream that `benchmark` describes, its images square at `image_size`.

    Validation images of one's own are read only `with_validation`. Glyphs are drawn at 32 pixels
    whatever `image_size` is; the model resizes them on the device.
    """
    if isinstance(benchmark, Glyphs):
        return load_glyphs(benchmark, order_seed, data_seed)
    if isinstance(benchmark, GlyphDomains):
        return load_glyph_domains(benchmark, order_seed, data_seed)
    if isinstance(benchmark, GlyphScripts):
        return load_glyph_scripts(benchmark, order_seed, data_seed)
    if isinstance(benchmark, Mtil):
        return load_mtil(benchmark, image_size, order_seed, data_seed)
    name = benchmark.dataset if isinstance(benchmark, Hub) else benchmark.name
    selection = select(benchmark, data_seed, with_validation)
    tasks = benchmark.tasks if classes_are_cut(benchmark) else None
    return selection.stream(name, tasks, image_size, order_seed, benchmark.order)
