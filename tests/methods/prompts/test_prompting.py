"""What the prompt methods share: choosing by queries, each image for itself and exactly."""

import pytest
import torch
import torch.nn.functional as F

from fmlora_lab.methods.prompts.coda_prompt import attention
from fmlora_lab.methods.prompts.hide_prompt import TaskInference
from fmlora_lab.methods.prompts.prefixes import cosines, halves, uniform

METHODS = {
    "l2p": {"pool": 6, "length": 2, "top": 2, "pull": 0.0},  # else all images take the same
    "dualprompt": {"general_blocks": [0], "general_length": 2, "blocks": [1], "length": 4},
    "coda-prompt": {"components": 3, "length": 4, "blocks": [0, 1]},
    "hide-prompt": {"blocks": [0, 1], "length": 4, "inference_epochs": 2, "contrast": 0.01},
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


def quick(name: str, **more) -> dict:
    return {"name": name, "lr": 0.03, **METHODS[name], **more}


def test_cosines_are_cosines():
    query, keys = random(3, 8), random(4, 8, seed=1)
    expected = F.cosine_similarity(query[:, None], keys[None], dim=2)
    torch.testing.assert_close(cosines(query, keys), expected)


def test_halves_are_the_first_and_the_second_tokens():
    tokens = random(5, 6, 8)
    keys, values = halves(tokens)
    assert torch.equal(keys, tokens[:, :3]) and torch.equal(values, tokens[:, 3:])


def test_initial_values_are_uniform_and_seeded():
    values = uniform(100, 100, generator=generator())
    assert values.min() >= -1 and values.max() < 1
    assert abs(float(values.mean())) < 0.02 and abs(float(values.var()) - 1 / 3) < 0.01
    assert torch.equal(values, uniform(100, 100, generator=generator()))


def test_what_chooses_prompts_is_as_exact_under_autocast_as_in_the_loss():
    """In bfloat16 these keys would be equal, and the loss would pull another than was used."""
    query, keys = random(3, 8), random(1, 8, seed=1) + 1e-3 * random(6, 8, seed=2)
    infer = TaskInference(8)
    infer.begin(generator())
    infer.grow(4, generator())
    for choose in (
        lambda: cosines(query, keys),
        lambda: attention(query, random(6, 8, seed=3), keys),
        lambda: infer(query),
    ):
        exact = choose()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(choose(), exact)
    assert len(set(cosines(query, keys)[0].bfloat16().tolist())) < 6


@pytest.mark.parametrize("name", METHODS)
def test_an_images_features_do_not_depend_on_the_others_in_its_batch(trainer, tiny_stream, name):
    stream = tiny_stream()
    run = trainer(quick(name), stream)
    run.run()
    pixels = torch.cat([task.test.pixels for task in stream.tasks])
    with torch.no_grad():
        together = run.learner.features(pixels)
        for n in range(0, len(pixels), 3):
            alone = run.learner.features(pixels[n : n + 1])
            torch.testing.assert_close(together[n : n + 1], alone, rtol=1e-4, atol=1e-5)


def test_with_one_choice_a_batch_they_do(trainer, tiny_stream):
    stream = tiny_stream()
    run = trainer(quick("l2p", batchwise=True), stream)
    run.run()
    pixels = torch.cat([task.test.pixels for task in stream.tasks])
    with torch.no_grad():
        together = run.learner.features(pixels)
        alone = torch.cat([run.learner.features(one[None]) for one in pixels])
    assert not torch.allclose(together, alone, atol=1e-2)
