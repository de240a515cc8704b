"""Published numbers: as printed, with their source, and nothing that nobody printed."""

import pandas as pd
import pytest

from fmlora_lab.analysis.published import CAUTIONS, NUMBERS, known, published, published_beside
from fmlora_lab.config import BadInput

STREAMS = list(NUMBERS.index.unique())

# SD-LoRA's tables 2, 3 and 6, copied a second time: Acc / AAA for N = 5, 10, 20 on ImageNet-R, then
# DomainNet, CIFAR-100, CUB-200.
PRINTED = """
full         64.92 75.57  60.57 72.31  49.95 65.32  51.46 67.08  69.49 80.35  51.43 69.74
l2p          73.04 76.94  71.26 76.13  68.97 74.16  70.26 75.83  - -          - -
dualprompt   69.99 72.24  68.22 73.81  65.23 71.30  68.26 73.84  - -          - -
coda-prompt  76.63 80.30  74.05 78.14  69.38 73.95  70.58 76.68  86.31 90.67  71.92 78.76
hide-prompt  74.77 78.15  74.65 78.46  73.59 77.93  72.20 77.01  - -          - -
inflora      76.95 81.81  74.75 80.67  69.89 76.68  71.59 78.29  86.75 91.72  70.82 81.39
sd-lora      79.15 83.01  77.34 82.04  75.26 80.22  72.82 78.89  88.01 92.54  77.48 85.59
"""


@pytest.mark.parametrize("line", PRINTED.split("\n")[1:-1], ids=lambda line: line.split()[0])
def test_sd_loras_tables_are_as_printed(line):
    method, *printed = line.split()
    for stream, pair in zip(STREAMS, zip(printed[::2], printed[1::2], strict=True), strict=True):
        row = published(*stream).reindex([method]).iloc[0]
        theirs = "SD-LoRA's paper" in known(row.source)
        ours = (known(row.acc), known(row.aaa)) if theirs else ("-", "-")
        assert ours == pair


# RanPAC's own tables, copied a second time: ImageNet-R, CIFAR-100, CUB-200.
OF_RANPAC = """
ranpac                         77.9 92.2 90.3
ranpac, no random features     73.9 90.6 86.6
ranpac, no adapter             71.8 89.0 88.7
ranpac, neither                67.6 87.0 86.8
class means, ranpac's adapter  70.1 87.8 85.4
prototypes                     61.2 83.4 85.1
joint                          86.6 93.8 90.5
joint, linear probe            72.0 87.9 88.7
"""


@pytest.mark.parametrize("line", OF_RANPAC.split("\n")[1:-1], ids=lambda line: line.split("  ")[0])
def test_ranpacs_tables_are_as_printed(line):
    *_, first, second, third = line.split()
    name = line.split("  ")[0]
    for benchmark, acc in (("imagenet-r", first), ("cifar-100", second), ("cub-200", third)):
        row = published(benchmark, 10).loc[name]
        assert row.acc == float(acc) and pd.isna(row.aaa) and "RanPAC/RanPAC" in row.source
        assert ("ImageNet-1k" in row.backbone) == (benchmark != "cifar-100")


def test_fm_loras_one_known_row_leads_by_the_margins_of_its_abstract():
    assert [s for s in STREAMS if "fm-lora" in published(*s).index] == [("imagenet-r", 20)]
    table = published("imagenet-r", 20)
    lead = table.loc["fm-lora", ["acc", "aaa"]] - table.loc["sd-lora", ["acc", "aaa"]]
    assert lead.tolist() == pytest.approx([1.21, 0.75])


@pytest.mark.parametrize("stream", STREAMS, ids=str)
def test_every_number_has_a_source_and_a_backbone_and_no_source_is_without_a_number(stream):
    table = published(*stream)
    assert len(table) and table.index.is_unique
    assert table[["acc", "source", "backbone"]].notna().all(axis=None)
    assert table.acc.between(40, 100).all()
    assert (table.aaa > table.acc)[table.aaa.notna()].all(), "AAA counts the easy start too"


@pytest.mark.parametrize("stream", [("imagenet-r", 7), ("domainnet", 6)], ids=str)
def test_where_nothing_is_published_the_table_is_empty(stream):
    table = published(*stream)
    assert table.empty and list(table.columns) == ["acc", "aaa", "source", "backbone"]


def test_published_numbers_stand_beside_measured_ones_and_what_is_not_known_says_so():
    measured = pd.DataFrame({"Acc": ["1.0", "2.0", "3.0"]}, ["SD-LoRA", "my-own", "FM-LoRA"])
    tables = {"A": published("imagenet-r", 20), "B": published("imagenet-r", 7)}
    found = published_beside(measured, tables, ["fm-lora", "my-own", "sd-lora"])
    first, second = (f"published, {name} (ViT-B/16: Acc / AAA)" for name in "AB")
    assert list(found.columns) == ["Acc", first, second] and list(measured.columns) == ["Acc"]
    unknown = "not known / not known"
    assert found[first].tolist() == ["75.26 / 80.22", unknown, "76.47 / 80.97"]
    assert found[second].tolist() == [unknown] * 3


def test_a_number_without_its_partner_is_shown_alone():
    table = published("imagenet-r", 5).map(known)
    assert table.acc["coda-prompt"] == "76.63" and table.aaa["coda-prompt"] == "80.30"
    variant = table.loc["sd-lora, one frozen direction", ["acc", "aaa"]]
    assert variant.tolist() == ["78.17", "not known"]


def test_every_benchmark_has_a_caution_and_another_is_refused():
    assert {benchmark for benchmark, _ in STREAMS} == set(CAUTIONS)
    assert "class-incremental" in CAUTIONS["domainnet"]
    with pytest.raises(BadInput, match="'cifar100'; published are"):
        published("cifar100", 10)
