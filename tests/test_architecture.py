"""The modules import downwards only; no hidden switches; no module without a noun."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import fusegraph

PACKAGE = Path(fusegraph.__file__).parent
# A module may import from layers above it in this list, and from its own layer without cycles.
LAYERS = (
    ("callables", "forks", "processor", "properties"),
    ("ops", "workers", "blas_threads"),
    ("graph", "buffers"),
    ("report", "report.units", "report.tables", "report.documents"),
    ("views", "machine", "cost", "arrays", "indexing"),
    ("machine_file", "streams", "orders"),
    ("panels",),
    ("members",),
    ("rules", "replay", "reference", "engines.base"),
    ("rewrite",),
    ("engines.reductions", "engines.temporaries"),
    ("engines.tiles", "engines.library"),
    ("engines.llvm", "engines.llvm.ir", "engines.llvm.objects", "engines.llvm.streaming"),
    ("engines.llvm.compiler",),
    ("engines.llvm.jobs",),
    ("engines.llvm.headers", "engines.llvm.memory"),
    ("engines.llvm.layouts",),
    ("engines.llvm.flat", "engines.llvm.strided", "engines.llvm.direct_code"),
    ("engines.llvm.direct",),
    ("engines.llvm.lanes",),
    ("engines.llvm.extremes", "engines.llvm.double_sums"),
    ("engines.llvm.folds",),
    ("engines.llvm.pairs", "engines.llvm.formats"),
    ("engines.llvm.argument_reduction", "engines.llvm.exponentials"),
    ("engines.llvm.angles", "engines.llvm.logarithms", "engines.llvm.error_function"),
    ("engines.llvm.powers", "engines.llvm.inverse_hyperbolics"),
    ("engines.llvm.vecmath",),
    ("engines.llvm.values", "engines.llvm.halves"),
    ("engines.llvm.kinds", "engines.llvm.casts"),
    ("engines.llvm.arithmetic", "engines.llvm.comparisons", "engines.llvm.float_parts"),
    ("engines.llvm.lowering",),
    ("engines.llvm.codegen",),
    ("engines.llvm.columns", "engines.llvm.joining"),
    ("engines.llvm.row_phases", "engines.llvm.row_text"),
    ("engines.llvm.row_code",),
    ("engines.llvm.short_code",),
    ("engines.llvm.sharing", "engines.llvm.packing_code"),
    ("engines.llvm.chains",),
    ("engines.llvm.product_code",),
    ("engines.llvm.multiply",),
    ("engines.llvm.row_body", "engines.llvm.elementwise_body"),
    ("engines.blocks", "engines.numexpr", "engines.llvm.engine"),
    ("engines.panel_body",),
    ("engines",),
    ("engines.products", "options", "expression", "units"),
    ("fuse",),
    ("time_model",),
    ("row_groups",),
    ("rows", "recompute"),
    ("calibrate", "kernel"),
    ("setting",),
    ("elementwise_choice", "panel_choice"),
    ("choice",),
    ("plan",),
    ("schedules",),
    ("direct_calls",),
    ("execute",),
    ("plan_cache",),
    ("profile",),
    ("report.records", "report.text", "report.graphs", "report.pictures"),
    ("roofline",),
    ("bound_plan",),
    ("computing", "sources"),
    ("promotion",),
    ("tensor",),
    ("operations", "gathering"),
    ("operators", "elementwise"),
    ("protocols",),
    ("shaping",),
    ("creation", "reductions"),
    ("cumulative",),
    ("searching", "arranging", "contractions", "standard"),
    ("signatures",),
    ("namespace", "jit", "compare"),
    ("acceleration",),
    ("seed_figures",),
    ("",),  # the package itself
    ("bench", "bench.functions", "arguments", "parse"),
    ("bench.suite", "bench.results", "bench.code_pages"),
    ("bench.runners.base",),
    ("bench.runners.loops", "bench.runners.programs"),
    ("bench.runners.eager", "bench.runners.fused", "bench.runners.tracing"),
    ("bench.runners.tensors", "bench.runners.parallel", "bench.runners.chunks"),
    ("bench.runners.expressions",),
    ("bench.runners",),
    ("bench.worker", "bench.race", "bench.tables", "bench.pictures"),
    ("bench.command",),
    ("commands", "commands.comparison"),
    ("commands.demo", "commands.explain", "commands.machine"),
    ("cli",),
    ("__main__",),
    ("vecmath_check",),
    ("vecmath_check.subjects",),
    ("vecmath_check.points", "vecmath_check.references"),
    ("vecmath_check.measurement",),
    ("vecmath_check.record",),
    ("vecmath_check.__main__",),
)
# Packages that may be missing, and the modules that import them, inside the functions that need them.
OPTIONAL = {
    "scipy": {"callables", "vecmath_check.references", "bench.runners.parallel"},
    "mpmath": {"vecmath_check.references"},
    "matplotlib": {"report.pictures"},
    "llvmlite": {"engines.llvm.compiler"},
    "jax": {"bench.runners.tracing"},
    "torch": {"bench.runners.tensors"},
    "numba": {"bench.runners.parallel"},
    "blosc2": {"bench.runners.expressions"},
    "dask": {"bench.runners.chunks"},
}
REQUIRED = {"numpy", "numexpr", "networkx", "tabulate", "threadpoolctl", "platformdirs"}
LAYER_OF = {name: at for at, layer in enumerate(LAYERS) for name in layer}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): ast.parse(path.read_text()) for path in FILES}


def imported_modules(tree):
    """Names of the package's own modules that ``tree`` imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n.removeprefix("fusegraph.") in MODULES else node.module for n in inner]
        else:
            continue
        for name in names:
            if name == "fusegraph" or name.startswith("fusegraph."):
                yield name.removeprefix("fusegraph").lstrip(".")


def test_every_module_has_a_layer():
    assert set(MODULES) <= set(LAYER_OF)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    above = sorted(m for m in imported_modules(MODULES[name]) if LAYER_OF[m] > LAYER_OF[name])
    assert above == []


def test_there_is_no_cycle():
    remaining = {name: set(imported_modules(tree)) - {name} for name, tree in MODULES.items()}
    while remaining:
        free = [name for name, needs in remaining.items() if not needs & set(remaining)]
        assert free, f"a cycle among {sorted(remaining)}"
        for name in free:
            del remaining[name]


@pytest.mark.parametrize("name", MODULES)
def test_no_switches_in_the_environment(name):
    found = [
        ast.unparse(node)
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
    ]
    assert found == []


def imported_packages(tree):
    """Packages of others that ``tree`` imports, each with the statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for package in {name.partition(".")[0] for name in names}:
            if package != "fusegraph" and package not in sys.stdlib_module_names:
                yield package, node


@pytest.mark.parametrize("name", MODULES)
def test_imports_stand_at_the_top_but_for_optional_packages(name):
    tree = MODULES[name]
    for package, statement in imported_packages(tree):
        assert (package in REQUIRED) == (statement in tree.body), package
        assert package in REQUIRED or name in OPTIONAL[package], package
    own = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    assert not any(n not in tree.body and set(imported_modules(n)) for n in own)


def test_optional_packages_are_imported_where_it_is_said():
    found = {}
    for name, tree in MODULES.items():
        for package, _ in imported_packages(tree):
            if package not in REQUIRED:
                found.setdefault(package, set()).add(name)
    assert found == OPTIONAL


@pytest.mark.parametrize("name", MODULES)
def test_no_global_statements(name):
    assert [node for node in ast.walk(MODULES[name]) if isinstance(node, ast.Global)] == []


def test_modules_are_nouns():
    last = {name.rpartition(".")[2] for name in MODULES}
    assert not last & {"utils", "util", "helpers", "helper", "misc", "common", "tools"}


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_are_for(name):
    assert ast.get_docstring(MODULES[name])


@pytest.mark.parametrize("name", MODULES)
def test_no_other_modules_private_names(name):
    found = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fusegraph")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert found == []
