"""Images, cut into a stream of tasks: one door for the embedded and for one's own benchmarks."""

from fmlora_lab.benchmarks.folders import load_domains, load_folder
from fmlora_lab.benchmarks.glyphs import load_glyph_domains, load_glyphs
from fmlora_lab.benchmarks.hub import load_hub
from fmlora_lab.benchmarks.stream import Stream
from fmlora_lab.config import Benchmark, Domains, Folder, GlyphDomains, Glyphs, Hub


def load(benchmark: Benchmark, image_size: int, order_seed: int, data_seed: int) -> Stream:
    """The stream that `benchmark` describes, its images square at `image_size`.

    Glyphs are drawn at 32 pixels whatever `image_size` is; the model resizes them on the device.
    """
    match benchmark:
        case Glyphs():
            return load_glyphs(benchmark, order_seed, data_seed)
        case GlyphDomains():
            return load_glyph_domains(benchmark, order_seed, data_seed)
        case Folder():
            return load_folder(benchmark, image_size, order_seed, data_seed)
        case Domains():
            return load_domains(benchmark, image_size, order_seed, data_seed)
        case Hub():
            return load_hub(benchmark, image_size, order_seed, data_seed)
