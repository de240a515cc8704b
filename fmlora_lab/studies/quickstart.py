"""00: the quickstart's six methods, so that rendering knows what it will compute."""

from fmlora_lab.studies.study import Study


class Quickstart(Study):
    name = "quickstart"
    title = "Quickstart"
    question = "Does FM-LoRA remember what fine-tuning forgets?"
    methods = ("fm-lora", "lora", "full", "linear-probe", "prototypes", "joint")

    def cells(self):
        for method in self.chosen:
            for seed in self.seed_list:
                yield self.cell(method, seed)
