"""A plugin of pytest: a method and a head of another package, known before tests are collected."""

from typing import Literal


def pytest_sessionstart() -> None:
    from fmlora_lab.heads.means import ClassMeans
    from fmlora_lab.methods.low_rank.lora import LoRA, LoRASettings
    from fmlora_lab.methods.method import register

    class NewcomerSettings(LoRASettings):
        name: Literal["newcomer"] = "newcomer"

    @register(NewcomerSettings, title="newcomer", family="others", what="a toy")
    class Newcomer(LoRA):
        """Without a search space, golden losses or shipped runs."""

    class MoreMeans(ClassMeans, name="more-means"):
        """A head that no shipped run has."""
