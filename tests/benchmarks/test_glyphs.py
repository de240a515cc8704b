"""The embedded benchmark: what makes it repeatable, fair and new to its backbone."""

import unicodedata
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib.ft2font import FT2Font
from safetensors import safe_open

import fmlora_lab.backbone
from fmlora_lab.backbone.vit import load_tower
from fmlora_lab.benchmarks.glyphs import reference, streams
from fmlora_lab.benchmarks.glyphs.pretrain import RESEMBLANCE
from fmlora_lab.benchmarks.glyphs.renditions import render
from fmlora_lab.benchmarks.glyphs.streams import (
    CHARACTERS,
    LOOKALIKE,
    load_glyph_domains,
    load_glyphs,
    relatives,
)
from fmlora_lab.benchmarks.glyphs.styles import DOMAINS, RENDITION, Style, blend
from fmlora_lab.benchmarks.glyphs.typefaces import (
    CANVAS,
    TEST_FACES,
    TRAIN_FACES,
    VALIDATION_FACES,
    characters_of,
    rasters,
    similarity,
)
from fmlora_lab.benchmarks.stream import validation_stream
from fmlora_lab.config import Backbone, GlyphDomains, Glyphs

pytestmark = pytest.mark.unit

FEW = Glyphs(tasks=5, train_images=3, test_images=2)
FEW_DOMAINS = GlyphDomains(train_images=2, test_images=1)
WEIGHTS = Path(fmlora_lab.backbone.__path__[0], "assets", "glyphs-vit.safetensors")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMLORA_CACHE", str(tmp_path))
    return tmp_path


def pixels(stream, part="train"):
    return torch.cat([getattr(task, part).pixels for task in stream.tasks])


def test_shapes_labels_and_tasks():
    stream = load_glyphs(FEW, order_seed=0, data_seed=0)
    assert stream.scenario == "class-incremental"
    assert sorted(stream.class_names) == sorted(CHARACTERS)
    for task, start in zip(stream.tasks, range(0, 100, 20), strict=True):
        assert task.classes == range(start, start + 20)
        for images, count in ((task.train, 3), (task.test, 2)):
            assert images.pixels.shape == (20 * count, 3, 32, 32)
            assert images.pixels.dtype == torch.uint8
            assert images.labels.bincount()[start:].tolist() == [count] * 20


def test_images_follow_data_seed_and_nothing_else(tmp_path, monkeypatch):
    torch.manual_seed(0)
    first = load_glyphs(FEW, 0, data_seed=0)
    monkeypatch.setenv("FMLORA_CACHE", str(tmp_path / "elsewhere"))
    torch.manual_seed(1)
    again = load_glyphs(FEW, 0, data_seed=0)
    other = load_glyphs(FEW, 0, data_seed=1)
    for part in ("train", "test"):
        assert torch.equal(pixels(first, part), pixels(again, part))
        assert not torch.equal(pixels(first, part), pixels(other, part))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_a_label_names_the_character_that_is_drawn(monkeypatch):
    """Drawn without any variation, each image is the raster of its class."""
    monkeypatch.setattr(streams, "RENDITION", Style())
    stream = load_glyphs(FEW, order_seed=3, data_seed=0)
    first = stream.tasks[0].train
    character = stream.class_names[int(first.labels[0])]
    generator = torch.Generator()
    raster = rasters([character], TRAIN_FACES[:1], in_proportion=True)
    plain = render(raster[:, 0], Style(), generator)
    assert torch.equal(first.pixels[0], plain[0])


def families(faces):
    """As the type designers name them, since file names may hide it."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    return {FT2Font(folder / f"{face}.ttf").family_name for face in faces}


def test_training_test_and_validation_images_come_from_families_of_their_own(monkeypatch):
    asked = []

    def spy(characters, faces, in_proportion):
        asked.append(families(faces))
        return rasters(characters, faces, in_proportion)

    monkeypatch.setattr(streams, "rasters", spy)
    load_glyphs(FEW, 0, 0)
    train, test, validation = asked
    assert train == families(TRAIN_FACES)  # which are those of pre-training
    assert not train & test and not train & validation and not test & validation


def test_validation_takes_the_benchmark_s_own_images_and_leaves_training_whole():
    for stream in (load_glyphs(FEW, 0, 0), load_glyph_domains(FEW_DOMAINS, 0, 0)):
        held = validation_stream(stream, torch.Generator())
        for task, chosen in zip(stream.tasks, held.tasks, strict=True):
            assert chosen.train is task.train
            assert not torch.equal(chosen.test.pixels, task.test.pixels)
            assert torch.equal(chosen.test.labels, task.test.labels)


def test_frozen_reference_points_are_where_the_difficulty_was_set():
    """On the default stream and with the weights that ship; the other two take minutes."""
    stream = load_glyphs(Glyphs(), order_seed=0, data_seed=0)
    train, test = (
        reference.together(getattr(task, part) for task in stream.tasks)
        for part in ("train", "test")
    )
    tower = load_tower(Backbone())
    f, g = reference.features(tower, train), reference.features(tower, test)
    assert 35 <= reference.class_means(f, train.labels, g, test.labels) <= 55
    assert 50 <= reference.ridge(f, train.labels, g, test.labels) <= 65


def test_reference_ridge_solves_what_class_means_cannot():
    """Two classes that take turns around a circle: one mean for both, yet easily parted."""
    angles = torch.linspace(0, 2 * torch.pi, 401)[:-1]
    f, y = torch.stack([angles.cos(), angles.sin()], 1), (angles // (torch.pi / 4)).long() % 2
    assert reference.ridge(f, y, f, y) > 95
    assert reference.class_means(f, y, f, y) < 70


def test_fine_tuning_of_the_reference_learns(monkeypatch):
    stream = load_glyphs(Glyphs(tasks=20, train_images=8, test_images=1), 0, 0)
    images, tower = stream.tasks[0].train, load_tower(Backbone())
    head = reference.fine_tune(tower, images, epochs=6, lr=3e-4, batch=8)
    found = head(reference.features(tower, images)).argmax(1)
    assert (found == images.labels).float().mean() > 0.9


def test_cache_is_used_and_a_damaged_file_is_drawn_again(cache, monkeypatch):
    drawn = pixels(load_glyphs(FEW, 0, 0))
    (file,) = cache.rglob("*.npy")
    whole = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(streams, "render", None)  # drawing would fail
        assert torch.equal(pixels(load_glyphs(FEW, 0, 0)), drawn)
    flipped = bytearray(whole)
    flipped[5000] ^= 1
    for damaged in (b"", whole[:5000], bytes(flipped)):
        file.write_bytes(damaged)
        assert torch.equal(pixels(load_glyphs(FEW, 0, 0)), drawn)
        assert file.read_bytes() == whole
    assert list(cache.rglob("*.npy")) == [file]


def test_domain_stream_has_six_domains_with_every_class():
    stream = load_glyph_domains(FEW_DOMAINS, order_seed=0, data_seed=0)
    assert stream.scenario == "domain-incremental"
    assert {task.name for task in stream.tasks} == set(DOMAINS)
    assert len(stream.tasks) == 6
    for task in stream.tasks:
        assert task.train.labels.bincount().tolist() == [2] * 100
        assert task.test.labels.bincount().tolist() == [1] * 100


def test_domains_differ_in_how_they_look():
    """Mean colour, contrast and detail tell an image's domain from each other domain's."""
    stream = load_glyph_domains(FEW_DOMAINS, 0, 0)
    looks = []
    for task in stream.tasks:
        x = task.train.pixels.float() / 255
        detail = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))
        colour = (x.amax(1) - x.amin(1)).mean((1, 2))
        looks.append(torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)), detail, colour], 1))
    centres = torch.stack([look.mean(0) for look in looks])
    spread = torch.cat(looks).std(0)
    nearest = torch.cdist(torch.cat(looks) / spread, centres / spread).argmin(1)
    told = (nearest.view(6, 200) == torch.arange(6)[:, None]).float().mean(1)
    assert told.min() > 0.7


def test_blend_goes_from_one_style_to_the_other():
    assert blend(Style(), RENDITION, 0) == Style()
    assert blend(Style(), RENDITION, 1) == RENDITION
    assert blend(Style(), Style(scale=(0.8, 1.1)), 0.5).scale == pytest.approx((0.9, 1.05))


def test_characters_are_what_their_rule_says():
    alphabets = ("09", "AZ", "az", "Αω", "Ая")
    candidates = [
        chr(code) for first, last in alphabets for code in range(ord(first), ord(last) + 1)
    ]
    faces = TRAIN_FACES + VALIDATION_FACES + TEST_FACES
    candidates = [
        c
        for c in candidates
        if all(c in characters_of(face) for face in faces) and unicodedata.normalize("NFKD", c) == c
    ]
    closeness = similarity(*[rasters(candidates, faces)] * 2)
    taken: list[int] = []
    for c in range(candidates.index(CHARACTERS[-1]) + 1):
        nearest = max([0.0, *closeness[c, taken].tolist()])
        # The margin is for other builds of the rasteriser.
        if candidates[c] in CHARACTERS:
            assert nearest < LOOKALIKE + 0.01
            taken.append(c)
        else:
            assert nearest >= LOOKALIKE - 0.01
    assert "".join(candidates[c] for c in taken) == CHARACTERS
    assert len(taken) == 100


def kin(characters: str) -> str:
    """Those that look like a benchmark character or share a part or case with one."""
    nearest = similarity(rasters(characters, TRAIN_FACES), rasters(CHARACTERS, TRAIN_FACES))
    forbidden = set().union(*map(relatives, CHARACTERS))
    return "".join(
        c
        for c, closeness in zip(characters, nearest.amax(1), strict=True)
        # A hair above the threshold, for other builds of the rasteriser.
        if closeness > RESEMBLANCE + 0.01 or relatives(c) & forbidden
    )


def test_backbone_has_never_seen_a_benchmark_character():
    with safe_open(WEIGHTS, "pt") as file:
        seen = file.metadata()["characters"]
    assert len(seen) > 900
    assert kin(seen) == ""


def test_look_alikes_and_relatives_would_be_found():
    # Cyrillic А, К, Greek Α, n-ary sum, small-cap к: look-alikes. é, №, F, v: relatives or both.
    assert kin("АКΑ∑é№h♪") == "АКΑ∑é№h"


def test_a_typeface_without_a_character_leaves_it_blank():
    assert rasters(["♞"], ["DejaVuSerif-Italic"]).sum() == 0
    assert rasters(["♞"], ["DejaVuSans"]).shape == (1, 1, CANVAS, CANVAS)
    assert rasters(["♞"], ["DejaVuSans"]).sum() > 0


def test_in_proportion_the_cases_of_a_letter_differ_in_size():
    """Twins when each fills the box; told apart by their height when sizes are kept."""

    def heights(in_proportion):
        sheet = rasters("zZ", TRAIN_FACES + TEST_FACES, in_proportion)
        return (sheet > 127).any(3).sum(2).float()

    (small, large), (small_kept, large_kept) = heights(False), heights(True)
    assert ((small - large).abs() <= 8).all()
    assert (small_kept < 0.95 * large_kept).all()  # a wide Z is shrunk to the box, z is not
    assert (small_kept / large_kept).mean() < 0.8
