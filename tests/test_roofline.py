"""The roofline: intensities of the course module, ceilings from the machine's figures, pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.machine import default_machine

N = 1024


def tensor(*shape):
    return fg.asarray(np.ones(shape, np.float32))


def gelu(x):
    return 0.5 * x * (1 + fg.tanh(0.7978846 * (x + 0.044715 * (x * x * x))))


@pytest.fixture(autouse=True)
def shipped_profile():
    with fg.options(machine=default_machine(), threads=2, engine="numpy"):
        yield


# The course module's table: flops over bytes of one addition, of GELU, of a product.
INTENSITIES = {
    "add": (lambda: tensor(N) + tensor(N), 1 / 12),
    "gelu": (lambda: gelu(tensor(N)), 9 / 8),
    "product": (lambda: tensor(N, N) @ tensor(N, N), N / 6),
}


@pytest.mark.parametrize(("build", "intensity"), INTENSITIES.values(), ids=INTENSITIES)
def test_intensities_of_the_course_module(build, intensity):
    (point,) = build().plan().roofline().after
    assert point.intensity == pytest.approx(intensity)


def test_ceilings_are_the_machines():
    machine = default_machine()
    (point,) = gelu(tensor(16_000_000)).plan().roofline().after
    assert (point.level, point.limit) == ("memory", "memory")
    assert point.ceiling == point.intensity * machine.streams["copy memory all"]
    (product,) = INTENSITIES["product"][0]().plan().roofline().after
    assert product.limit == "compute"
    assert product.ceiling == machine.gigaflops_all["float32"] * 1e9


def test_roofs_are_the_levels_of_memory():
    machine = default_machine()
    roofs = {roof.level: roof.bandwidth for roof in tensor(4).plan().roofline().roofs}
    assert roofs == {
        "L1": 2 * machine.streams["copy L1 one"],
        "L2": 2 * machine.streams["copy L2 one"],
        "L3": machine.streams["copy L3 all"],
        "memory": machine.streams["copy memory all"],
    }


def test_points_before_and_after_fusion():
    drawn = gelu(tensor(N)).plan().roofline()
    assert (len(drawn.before), len(drawn.after)) == (9, 1)
    assert all(p.measured is None and p.achieved is None for p in drawn.after)
    assert max(p.intensity for p in drawn.before) < drawn.after[0].intensity


def test_a_profile_adds_what_was_achieved():
    plan = gelu(tensor(100_000)).plan()
    profile = plan.profile(repeats=2)
    (point,) = plan.roofline(profile).after
    flops = plan.kernels[0].cost.flops
    assert point.measured == pytest.approx(flops / profile.kernels[0].measured)
    assert point.achieved == point.measured / point.ceiling


def test_text_and_record_agree():
    drawn = gelu(tensor(N)).plan().roofline()
    record = json.loads(json.dumps(drawn.to_dict()))
    assert [p["kernel"] for p in record["after"]] == ["k0"]
    assert record["roofs"][-1]["level"] == "memory"
    assert f"{drawn.after[0].intensity:.2f}" in str(drawn)


def test_it_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "roofline.png"
    gelu(tensor(N)).plan().roofline().plot(str(path))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_nothing_to_compute_has_no_points():
    drawn = tensor(4).plan().roofline()
    assert drawn.after == drawn.before == ()
    assert "roofline of" in str(drawn)
