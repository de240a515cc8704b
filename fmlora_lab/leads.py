"""Four leads for a method of the lab's own in FM-LoRA's size, tried by notebook 35.

They are no methods of the lab: the registry does not find them, and only what imports this module
knows them. The first lead, directions of a task's own, is a setting of FM-LoRA.

2. InfLoRA inside the core:     ΔW_t = A P_t Q_tᵀ Bᵀ, Q_t = top r left singular vectors of
                                (I - M Mᵀ) Bᵀ R_t B, M the memory of earlier inputs
3. A loss on carried Gaussians: L = CE + λ CE((w_k · f(x) + b_k) / T over all classes seen) + μ D,
                                D the distance of Still-LoRA (`methods/low_rank/still_lora.py`)
4. A head trained on draws from carried Gaussians, when a task has ended.
"""

from copy import deepcopy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.config import Heads
from fmlora_lab.heads.drift import fit
from fmlora_lab.heads.lda import LDA
from fmlora_lab.methods.input_moments import InputMoments
from fmlora_lab.methods.low_rank.inflora import InfLoRA, InfLoRASettings
from fmlora_lab.methods.low_rank.lora import LoRA, LoRASettings
from fmlora_lab.methods.method import Stage, alone, register


class MomentsInside(InputMoments):
    """Bᵀ R B (R, R) of every site, with its basis B (d, R)."""

    def __init__(self, sites, bases):
        super().__init__(sites)
        self.bases = bases

    def take(self, add_up=alone):
        moments = zip(super().take(add_up), self.bases, strict=True)
        return [B.T.double() @ R @ B.double() for R, B in moments]


class CoreSettings(InfLoRASettings):
    name: Literal["core-inflora"] = "core-inflora"
    basis_rank: int = 64


@register(
    CoreSettings,
    title="InfLoRA inside the core",
    family="low-rank",
    what="a task learns in directions of shared bases that earlier tasks did not use",
)
class CoreInfLoRA(InfLoRA):
    """U and V are now P (R, r) and Q (R, r), and a memory is (R, m)."""

    settings: CoreSettings

    def __init__(self, settings: CoreSettings, model: Tower):
        super().__init__(settings, model)
        for s, site in enumerate(model.sites):
            left, _, right = torch.linalg.svd(site.weight.detach(), full_matrices=False)
            R = min(settings.basis_rank, len(right))
            r = min(settings.rank, R)
            self.U[s] = torch.zeros(R, r)
            self.register_buffer(f"A{s}", left[:, :R].contiguous())
            self.register_buffer(f"B{s}", right[:R].T.contiguous())
            self.register_buffer(f"V{s}", torch.zeros(R, r))
            self.register_buffer(f"memory{s}", torch.zeros(R, 0))

    def begin_stage(self, stage, generator):
        if stage.observe:
            bases = [self.side("B", s) for s in range(len(self.U))]
            self.moments = MomentsInside(self.model.sites, bases)

    def side(self, name, s):
        return getattr(self, f"{name}{s}")

    def factors(self, query=None):
        return [
            Factors(self.side("A", s) @ P, None, self.side("B", s) @ self.side("V", s))
            for s, P in enumerate(self.U)
        ]

    @torch.no_grad()
    def end_task(self):
        record = super().end_task()
        for P in self.U:
            P.zero_()
        return record


class RememberingSettings(LoRASettings):
    name: Literal["small-lora"] = "small-lora"
    rank: int = 2


@register(RememberingSettings, title="LoRA of rank 2", family="low-rank", what="without a lead")
class Remembering(LoRA):
    """Gaussians of the classes seen are kept, carried along the drift of the features."""

    length_one = True

    def __init__(self, settings, model):
        super().__init__(settings, model)
        self.gaussians = LDA(model.width, 0, Heads())
        self.register_buffer("before", torch.zeros(0, model.width))

    def begin_task(self, task):
        super().begin_task(task)
        self.task, kept = task, self.gaussians
        new = max(task.classes.stop - len(kept.counts), 0)
        kept.n_classes = len(kept.counts) + new
        kept.sums, kept.counts = F.pad(kept.sums, (0, 0, 0, new)), F.pad(kept.counts, (0, new))

    def stages(self, epochs):
        yield Stage("before", 1, observe=True)
        yield Stage("train", epochs)
        yield Stage("after", 1, observe=True)

    def begin_stage(self, stage, generator):
        self.seen = []

    def observe(self, features, labels):
        features = features.float()
        self.seen.append((F.normalize(features) if self.length_one else features, labels))

    @torch.no_grad()
    def end_stage(self, stage, end):
        if not stage.observe:
            return
        f, labels = (torch.cat(part) for part in zip(*self.seen, strict=True))
        if stage.name == "before":
            self.before = f
            self.look_ahead(f, labels)
            return
        if self.task.index:
            self.gaussians.carry(fit(self.before, f), self.gaussians, self.gaussians)
        self.gaussians.add(f, labels)
        self.gaussians.settle(f, labels)

    def look_ahead(self, f, labels):
        """What is wanted of the task's images before it is learned."""


class ToldSettings(RememberingSettings):
    name: Literal["told"] = "told"
    told: float = 0.3
    temperature: float = 5.0
    distill: float = 3.0


@register(
    ToldSettings,
    title="loss on carried statistics",
    family="low-rank",
    what="the current images are told apart from old classes' Gaussians",
)
class Told(Remembering):
    settings: ToldSettings

    def __init__(self, settings, model):
        super().__init__(settings, model)
        self.register_buffer("w", torch.zeros(0, model.width))
        self.register_buffer("b", torch.zeros(0))

    def train(self, mode=True):
        self.needs_query = mode and len(self.before) > 0 and self.task.index > 0
        return super().train(mode)

    def look_ahead(self, f, labels):
        both = deepcopy(self.gaussians)
        both.add(f, labels)
        both.settle(f, labels)
        self.w, self.b = both.weight.float(), both.bias.float()

    def loss(self, batch):
        s = self.settings
        scores = F.linear(F.normalize(batch.features.float()), self.w, self.b) / s.temperature
        confused = F.cross_entropy(scores, batch.labels + self.task.classes.start)
        distance = 0 if batch.query is None else F.mse_loss(batch.features, batch.query)
        return super().loss(batch) + s.told * confused + s.distill * distance


class DrawnSettings(RememberingSettings):
    name: Literal["drawn"] = "drawn"
    draws: int = 64
    draw_epochs: int = 10
    draw_lr: float = 0.01


@register(
    DrawnSettings,
    title="head trained on draws",
    family="low-rank",
    what="the head is trained on draws from carried Gaussians when a task has ended",
)
class Drawn(Remembering):
    settings: DrawnSettings
    length_one = False

    def correct_head(self, head, generator):
        kept, s = self.gaussians, self.settings
        rows, bias = (nn.Parameter(t[head.known].clone()) for t in (head.weight, head.bias))
        S = kept.scatter() / kept.free()
        S = torch.lerp(S, S.diagonal().mean() * torch.eye(len(S)).to(S), float(kept.shrinkage))
        means, root = kept.means()[kept.counts > 0], torch.linalg.cholesky(S)
        labels = torch.arange(len(means), device=S.device).repeat_interleave(s.draws)
        optimizer = torch.optim.SGD([rows, bias], lr=s.draw_lr, momentum=0.9)
        for _ in range(s.draw_epochs):
            z = torch.randn(len(labels), len(S), generator=generator, dtype=S.dtype).to(S.device)
            f = (means[labels] + z @ root.T).float()
            for some in torch.randperm(len(f), generator=generator).to(f.device).split(128):
                optimizer.zero_grad()
                with torch.enable_grad():
                    F.cross_entropy(head.logits(f[some], rows, bias), labels[some]).backward()
                optimizer.step()
        head.weight[head.known], head.bias[head.known] = rows.detach(), bias.detach()
