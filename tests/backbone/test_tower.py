"""A second backbone is a file: a transformer of a page, and every kind of method runs on it."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmlora_lab import configure, restore, run
from fmlora_lab.backbone.sites import Prompts, Site
from fmlora_lab.backbone.tower import Tower, tower
from fmlora_lab.config import BadInput, RunConfig

pytestmark = pytest.mark.train

WIDTH, SIDE, PATCH = 24, 16, 4


class Mixer(nn.Module):
    """Attention with one head, then an MLP, over tokens; the layers have names of their own."""

    def __init__(self):
        super().__init__()
        self.read, self.write = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.read(F.layer_norm(x, [WIDTH])).chunk(3, dim=-1)
        x = x + self.write(F.scaled_dot_product_attention(q, k, v))
        return x + self.down(F.gelu(self.up(F.layer_norm(x, [WIDTH]))))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Linear(3 * PATCH**2, WIDTH)
        self.trunk = nn.Sequential(Mixer(), Mixer(), Mixer())


LAYERS = {"attn.qkv": "read", "attn.proj": "write", "mlp.fc1": "up", "mlp.fc2": "down"}


class Toy(Tower):
    width, image_size = WIDTH, SIDE

    def adapt(self, layers: Sequence[str], blocks: Sequence[int] | None = None) -> list[Site]:
        if unknown := set(layers) - set(LAYERS):
            raise BadInput(f"method.layers has {unknown.pop()!r}; allowed: {', '.join(LAYERS)}")
        for number, block in enumerate(self.network.trunk):
            for layer, own in LAYERS.items():
                if layer in layers and (blocks is None or number in blocks):
                    name = f"trunk.{number}.{own}"
                    self.sites.append(Site(name, getattr(block, own), None))
                    setattr(block, own, self.sites[-1])
        return self.sites

    def pixels_in(self, pixels: Tensor) -> Tensor:
        return F.interpolate(pixels.float() / 128 - 1, (SIDE, SIDE), mode="bilinear")

    def set_prompts(self, prompts: Prompts | None) -> None:
        if prompts is not None and prompts.prefixes:
            raise BadInput("the toy takes prompts among its tokens, no prefixes")
        super().set_prompts(prompts)

    def features(self, pixels: Tensor) -> Tensor:
        x = self.network.patches(F.unfold(pixels, PATCH, stride=PATCH).mT)
        n = 0
        if self.prompts is not None and self.prompts.tokens is not None:
            P = self.prompts.tokens.to(x.dtype).expand(len(x), -1, -1)
            x, n = torch.cat([P, x], dim=1), P.shape[1]
        return self.network.trunk(x)[:, n:].mean(1).float()


@pytest.fixture
def on_toy(tiny_config):
    """`on_toy(method)`: a whole run's configuration on a tower of its own."""

    @tower("toy")
    def load(backbone) -> Toy:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Toy(Network())
        model.fingerprint = "toy"
        return model

    def make(method) -> RunConfig:
        fixed = {"backbone.name": "toy", "training.epochs": 4, "training.lr_head": 0.03}
        return tiny_config(method, **fixed)

    return make


@pytest.mark.parametrize("name", ["lora", "fm-lora", "full", "inflora", "l2p", "joint"])
def test_methods_of_every_kind_run_on_it(on_toy, quick, resumed, same_run, tmp_path, name):
    method = quick(name, **({"read": "cls"} if name == "l2p" else {}))
    config = on_toy(method)
    whole = run(config, tmp_path / "whole")
    assert whole.config["backbone"]["name"] == "toy"
    first = [line for line in whole.progress() if (line["task"], line["stage"]) == (0, "train")]
    assert first[-1]["loss"] < 0.8 * first[0]["loss"]
    assert len(restore(whole).model.sites) == (0 if name in ("full", "l2p", "joint") else 12)
    same_run(whole, resumed(config, tmp_path / "stopped"))


def test_bases_are_shared_over_its_blocks_whatever_they_are_called(on_toy, quick, tmp_path):
    stored = run(on_toy(quick("fm-lora", bases={"shared": True, "lr": 0.01})), tmp_path)
    method = restore(stored).method
    by_layer = {}
    for site, (A, _) in zip(method.model.sites, method.factorized.bases(), strict=True):
        by_layer.setdefault(site.name.rsplit(".", 1)[1], []).append(A)
    assert sorted(by_layer) == sorted(LAYERS.values())
    for first, *others in by_layer.values():
        assert len(others) == 2 and all(torch.equal(first, A) for A in others)


def test_its_weights_come_out_again_with_the_update_in_them(on_toy, quick, tmp_path):
    learner = restore(run(on_toy(quick("lora")), tmp_path))
    state, prompts = learner.merge()
    assert prompts is None
    plain = Network()
    plain.load_state_dict({k: v for k, v in state.items() if not k.startswith("head.")})
    pixels = torch.randint(0, 256, (5, 3, SIDE, SIDE), dtype=torch.uint8)
    with torch.no_grad():
        features = Toy(plain).features(learner.model.pixels_in(pixels))
        logits = F.linear(features, state["head.weight"], state["head.bias"])
        adapted = learner.head(learner.features(pixels))
    torch.testing.assert_close(logits, adapted, rtol=1e-5, atol=1e-5)


def test_what_it_has_not_is_refused_in_its_own_words(on_toy, quick, tmp_path):
    with pytest.raises(BadInput, match=r"method\.layers has 'attn\.q'; allowed: attn\.qkv"):
        run(on_toy(quick("lora", layers=["attn.q"])), tmp_path)
    with pytest.raises(BadInput, match="no prefixes"):
        run(on_toy(quick("dualprompt")), tmp_path)


def test_it_is_gone_after_the_test_that_registered_it(tmp_path):
    config = configure("lora", overrides={"backbone.name": "toy"})
    with pytest.raises(
        BadInput, match=r"backbone\.name is 'toy'; allowed: glyphs-clip, glyphs-vit, "
    ):
        run(config, tmp_path)
