"""Every format's file of every reference network is as its record says, whatever versions are installed."""

from __future__ import annotations

import pytest
from reference_bounds import bounds_of, differences, message, why_not_built
from reference_files import NAMES, PARENT, QUICK, RECORDED, SLOW, read, weights_path
from reference_record import record_of

from kdcompress.bench.machine import machine
from kdcompress.errors import KDCompressError
from kdcompress.export.formats import target, targets, writers

EACH = (PARENT, "x86-vnni", "mnn-fp32", "ncnn-fp32")  # looked at in each network by `make test`
ONE = "residual"  # the network in which the other quick ones are
OFTEN = {(ONE, each) for each in QUICK} | {("detector", "openvino-fp32")}
PAIRS = [
    pytest.param(name, each, marks=[pytest.mark.slow] * (each not in EACH and (name, each) not in OFTEN))
    for name in NAMES
    for each in RECORDED
    if each not in SLOW or each in read(name).get("files", {})
]


@pytest.mark.parametrize(("name", "asked"), PAIRS)
def test_a_file_is_as_recorded(name, asked, reference_of):
    found = None if asked == PARENT else target(asked)
    record = read(name)
    old = record.get("files", {}).get(asked)
    if found and (why := why_not_built(found, old)):
        pytest.skip(why)
    assert old, f"{name}, {asked}: there is no record. next: make reference"
    its = reference_of(name)
    assert its.fixed.hash == record["images"], f"{name}: the images are not those of the record. next: make reference"
    there, here = record["machine"], machine()
    elsewhere = (there["architecture"], there["isa"]) != (here["architecture"], here["isa"])
    if elsewhere:
        old = {**old, "coverage": {}}  # runtimes count in a graph that they have made for their processor
    try:
        new = record_of(its, found)
    except KDCompressError as error:
        pytest.fail(f"{name}, {asked} cannot be made any more:\n{error}", pytrace=False)
    if worse := differences(old, new, bounds_of(found, elsewhere), dense=its.dense):
        pytest.fail(message(name, asked, old, new, worse), pytrace=False)


def test_each_format_has_a_record():
    """Of one network at least. But full TensorRT, which only a GPU builds."""
    known = {name.rpartition("-")[0] for name in writers.entries()}
    recorded = {record["format"] for name in NAMES for record in read(name).get("files", {}).values()}
    assert known - recorded == {"tensorrt"}


def test_a_record_is_of_a_target_that_there_is():
    for name in NAMES:
        assert set(read(name).get("files", {})) <= {PARENT, *targets()}, name


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_small(name):
    assert 10_000 < weights_path(name).stat().st_size < 60_000
