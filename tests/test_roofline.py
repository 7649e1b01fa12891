"""The roofline: intensities of the course module, ceilings from the machine's figures, pictures."""

from __future__ import annotations

import json
import operator

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.machine_file import default_machine
from fusegraph.report.pictures import new_figure, roofline_on
from fusegraph.roofline import roofline

pytestmark = pytest.mark.options(engine="numpy", threads=2)

N = 1024


def tensor(*shape):
    return fg.asarray(np.ones(shape, np.float32))


def gelu(x):
    return 0.5 * x * (1 + fg.tanh(0.7978846 * (x + 0.044715 * (x * x * x))))


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


def test_there_are_no_roofs_of_more_threads_than_cores():
    few, many = (gelu(tensor(N)).plan(threads=n).roofline() for n in (2, 200))
    assert default_machine().cores == 2
    assert few.to_dict() == many.to_dict()


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


def test_plans_of_functions_have_rooflines_of_their_own():
    """They were over arrays that nobody has any more, and the second was that of the first."""
    x = np.ones(N, np.float32)
    square = x.reshape(32, 32)
    chain, product = fg.jit(gelu).plan(x), fg.jit(operator.matmul).plan(square, square + 1)
    for plan, intensity in ((chain, 9 / 8), (product, 32 / 6)):
        roof = plan.roofline(plan.profile())
        (after,) = roof.after
        assert after.intensity == pytest.approx(intensity)
        assert after.achieved > 0
    assert [len(plan.roofline().before) for plan in (chain, product)] == [9, 1]


def test_a_profile_of_another_plan_is_refused():
    x = tensor(1000)
    plan = (x * 2).plan()
    profile = plan.profile(repeats=1)
    for other in (x * 3, (x * 2)[:-1] * 1, gelu(x), x.sum()):
        with pytest.raises(ValueError, match=r"another plan; this one \(plan: .*plan\.profile\(\)"):
            other.plan().roofline(profile)
    fg.clear_caches()
    assert (x * 2).plan().plan is not plan.plan
    assert (x * 2).plan().roofline(profile).after == plan.roofline(profile).after
    assert plan.roofline().after == plan.roofline(profile).after  # it has been profiled
    assert (x * 2).plan().roofline().after[0].measured is None


def test_text_and_record_agree():
    drawn = gelu(tensor(N)).plan().roofline()
    record = json.loads(json.dumps(drawn.to_dict()))
    assert [p["kernel"] for p in record["after"]] == ["k0"]
    assert record["roofs"][-1]["level"] == "memory"
    assert f"{drawn.after[0].intensity:.2f}" in str(drawn)


def test_a_peak_for_each_dtype_that_is_computed_in():
    machine = default_machine()
    doubles = fg.asarray(np.ones((N, N)))
    drawn = fg.plan(gelu(tensor(N)), doubles @ doubles.T, doubles.astype("c8")).roofline()
    assert {p.dtype: p.speed for p in drawn.peaks} == {
        name: 1e9 * machine.gigaflops_all[name] for name in ("float32", "float64")
    }
    assert "float64 80.0 Gflop/s" in str(drawn)


def test_a_dtype_without_a_peak_of_its_own_says_whose_it_has():
    (peak,) = (fg.asarray(np.arange(N)) * 3).plan().roofline().peaks
    assert (peak.dtype, peak.products, peak.label) == ("int64", "float32", "int64 (as float32)")
    assert peak.speed == 1e9 * default_machine().gigaflops_all["float32"]


# Of float64: where its result is of another dtype, the flops say what it computes in.
DTYPES = {
    "truth values": (lambda x: x > 2, "float64"),
    "indices": (lambda x: x.argmax(), "float64"),
    "a cast before the end": (lambda x: (x * x * x).astype("f4") + 1, "float64"),
    "no flops": (lambda x: x.astype("f4"), "float32"),
}


@pytest.mark.parametrize(("build", "dtype"), DTYPES.values(), ids=DTYPES)
def test_the_dtype_is_that_of_most_flops(build, dtype):
    (point,) = build(fg.asarray(np.ones(N))).plan().roofline().after
    assert point.dtype == dtype


def test_nothing_to_compute_has_no_points():
    drawn = tensor(4).plan().roofline()
    assert drawn.after == drawn.before == drawn.peaks == ()
    assert "roofline of" in str(drawn)


# --- pictures -------------------------------------------------------------------------------------


def lines_of(drawn):
    """Axes that the record is drawn on, as JSON has it, and x and y of each line by its label."""
    pytest.importorskip("matplotlib")
    axes = new_figure().add_subplot()
    roofline_on(axes, json.loads(json.dumps(drawn.to_dict())))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        line.get_label() for line in axes.lines
    ]
    return axes, {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def places(points):
    return [[point.intensity, point.speed] for point in points]


def test_roofs_and_peaks_are_drawn():
    doubles = fg.asarray(np.ones((N, N)))
    drawn = fg.plan(gelu(tensor(N)), doubles @ doubles).roofline()
    _, lines = lines_of(drawn)
    highest = max(peak.speed for peak in drawn.peaks)
    for roof in drawn.roofs:
        assert [y / x for x, y in lines[roof.level]] == pytest.approx([roof.bandwidth] * 2)
        assert lines[roof.level][-1][1] == highest
    for peak in drawn.peaks:
        assert [y for _, y in lines[f"{peak.dtype} peak"]] == [peak.speed, peak.speed]
    assert {label for label in lines if "peak" in label} == {"float32 peak", "float64 peak"}


def test_a_product_alone_has_no_roof_above_its_peak():
    drawn = (tensor(N, N) @ tensor(N, N)).plan().roofline()
    axes, lines = lines_of(drawn)
    assert max(y for line in lines.values() for _, y in line) == drawn.peaks[0].speed
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_points_before_a_profile_are_all_predicted():
    drawn = gelu(tensor(N)).plan().roofline()
    _, lines = lines_of(drawn)
    assert lines["before fusion, predicted"] == places(drawn.before)
    assert lines["after fusion, predicted"] == [
        [point.intensity, point.predicted] for point in drawn.after
    ]
    assert not [label for label in lines if "measured" in label]


def test_points_that_were_measured_say_so():
    bound = fg.plan(gelu(tensor(N)), tensor(N, N) @ tensor(N, N))
    measured = {bound.plan.kernels[1].name: 1e-3}
    drawn = roofline(bound.plan, bound.plan, measured)
    _, lines = lines_of(drawn)
    predicted, timed = drawn.after
    flops = bound.plan.kernels[1].cost.flops
    assert lines["after fusion, measured"] == [[timed.intensity, flops / 1e-3]]
    assert lines["after fusion, predicted"] == [[predicted.intensity, predicted.predicted]]
    assert lines["before fusion, predicted"] == places(drawn.before)
    assert "before fusion, measured" not in lines


def test_kernels_without_flops_are_named_in_the_title():
    x = tensor(N)
    drawn = fg.plan(fg.concat([gelu(x), x])).roofline()
    axes, lines = lines_of(drawn)
    assert drawn.without_flops == {"before": ("k9",), "after": ("k1",)}
    assert axes.get_title().splitlines()[1] == "without flops: k9 before fusion; k1 after fusion"
    assert len(lines["before fusion, predicted"]) == 9
    assert len(lines["after fusion, predicted"]) == 1


def test_many_kernels_without_flops_fill_lines_of_the_title():
    copies = [fg.concat([tensor(n), tensor(n)]) for n in range(1, 41)]
    axes, lines = lines_of(fg.plan(*copies).roofline())
    title = axes.get_title()
    assert all(f"k{n}" in title for n in range(40))
    assert max(map(len, title.splitlines())) <= 80
    assert set(lines) == {"L1", "L2", "L3", "memory"}


def test_a_title_without_such_kernels_is_the_machine():
    axes, _ = lines_of(gelu(tensor(N)).plan().roofline())
    assert axes.get_title() == default_machine().name


def test_a_picture_of_nothing():
    _, lines = lines_of(tensor(4).plan().roofline())
    assert set(lines) == {"L1", "L2", "L3", "memory"}


def test_plot_draws_to_a_file(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "roofline.svg"
    gelu(tensor(N)).plan().roofline().plot(str(path))
    assert "<!-- after fusion, predicted -->" in path.read_text()
